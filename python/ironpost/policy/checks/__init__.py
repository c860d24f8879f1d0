"""The checks. Each is one file with one class; this tuple is the order in which they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.policy.checks.loop import Loop
from ironpost.policy.checks.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Check

CHECKS: Final[tuple[Callable[[Settings], Check], ...]] = (
    Relay,
    Loop,
)
"""Each takes the policy's settings and is a check."""


def configured(settings: Settings) -> list[Check]:
    """Every check with its settings, in order: what `Policy` takes."""
    return [build(settings) for build in CHECKS]
