"""The checks: each is one file and one line of `CHECKS`, which is the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.policy.checks.access import Access
from ironpost.policy.checks.arc import Arc
from ironpost.policy.checks.dkim import Dkim
from ironpost.policy.checks.dmarc import Dmarc
from ironpost.policy.checks.forged_results import ForgedResults
from ironpost.policy.checks.hello_names import HelloNames
from ironpost.policy.checks.loop import Loop
from ironpost.policy.checks.null_sender import NullSender
from ironpost.policy.checks.own_sender import OwnSender
from ironpost.policy.checks.rates import MessageRate, RecipientRate
from ironpost.policy.checks.relay import Relay
from ironpost.policy.checks.reverse_dns import ReverseDns
from ironpost.policy.checks.sender_domain import SenderDomain
from ironpost.policy.checks.sender_login import SenderLogin
from ironpost.policy.checks.senders import SenderRules
from ironpost.policy.checks.spf import Spf
from ironpost.policy.context import Context

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ironpost.policy.check import Check

CHECKS: Final[tuple[type[Check], ...]] = (
    Access,
    ReverseDns,
    HelloNames,
    SenderLogin,
    MessageRate,
    SenderRules,
    OwnSender,
    SenderDomain,
    Spf,
    Dkim,
    Arc,
    Dmarc,
    ForgedResults,
    NullSender,
    RecipientRate,
    Relay,
    Loop,
)
"""Within a stage the order matters: sender rules, which may accept, run after the check of who may use a sender; DMARC
needs the results of SPF, DKIM and ARC; and relay control, which always decides, is the last check of a recipient."""


def configured(
    context: Context | None = None, options: Iterable[object] = (), registry: Iterable[type[Check]] = CHECKS
) -> list[Check]:
    """The checks that the options enable, in order, for `Policy`.

    Args:
        context: the system, ports and common options; None for their defaults.
        options: instances of `Check.Options`; a check without one gets the defaults.
        registry: the classes of the checks.

    Raises:
        ValueError: a standard forbids what the options demand.
    """
    shared = Context() if context is None else context
    given = {type(each): each for each in options}
    checks = [kind(given.get(kind.Options) or kind.Options(), shared) for kind in registry]
    return [check for check in checks if check.enabled]
