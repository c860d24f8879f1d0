"""Policy: checks for each stage of a transaction, and a pipeline that runs them in order.

Promises: every decision comes with its reasons (`PolicyDecision(verdict, reasons)`), and a recipient that no check
explicitly accepts is refused, so the server is never an open relay (RFC 5321 §3.6.1, RFC 2505 §2.1). To add a check,
add one file in `checks/` and one line in `checks/__init__.py`: its configuration keys follow from its options. Pure:
checks may await ports.
"""

from ironpost.policy.check import ACCEPT, NEUTRAL, NOTHING, Check, Finding, PolicyDecision, Scanner
from ironpost.policy.context import CommonOptions, Context, LocalSystem, Ports
from ironpost.policy.facts import Facts, PolicyStage
from ironpost.policy.pipeline import Policy

__all__ = [
    "ACCEPT",
    "NEUTRAL",
    "NOTHING",
    "Check",
    "CommonOptions",
    "Context",
    "Facts",
    "Finding",
    "LocalSystem",
    "Policy",
    "PolicyDecision",
    "PolicyStage",
    "Ports",
    "Scanner",
]
