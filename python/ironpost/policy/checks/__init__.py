"""The checks. Each is one file and one line here; this tuple is the order in which they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.policy.checks import (
    access,
    hello_names,
    loop,
    null_sender,
    own_sender,
    rates,
    relay,
    reverse_dns,
    sender_domain,
    sender_login,
    senders,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.model.ports import Clock, Resolver
    from ironpost.policy.buckets import Buckets
    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Check


class Ports(NamedTuple):
    """What a check may ask of the world. A check whose port is not there is not asked."""

    clock: Clock | None = None
    resolver: Resolver | None = None
    share: Callable[[str, Buckets], None] | None = None
    """Takes each check's buckets, with their name, to be kept together with other processes."""


CHECKS: Final[tuple[Callable[[Settings, Ports], Check | None], ...]] = (
    access.build,
    reverse_dns.build,
    hello_names.build,
    sender_login.build,
    rates.messages,
    senders.build,
    own_sender.build,
    sender_domain.build,
    null_sender.build,
    rates.recipients,
    relay.build,
    loop.build,
)
"""Each takes the policy's settings and ports, and gives its check, or None if there is nothing for it to look at.

Within a stage the order matters: a sender rule that accepts comes behind the check of who may use a sender, and relay
control, which always decides, is the last about a recipient.
"""


def configured(settings: Settings, ports: Ports = Ports()) -> list[Check]:  # noqa: B008 - immutable
    """Every check that has something to look at, in order: what `Policy` takes."""
    built = (build(settings, ports) for build in CHECKS)
    return [check for check in built if check is not None]
