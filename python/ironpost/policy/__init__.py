"""Who may do what: checks by stage of the transaction, and one pipeline that asks them in order.

Promises: every decision comes with its reasons (`Decision(verdict, reasons)`), and a recipient that no check accepts by
name is refused: never an open relay (RFC 5321 §3.6.1, RFC 2505 §2.1). Adding a check is one file in `checks/` and one
line in `checks/__init__.py`. Pure: checks may await ports.
"""

from ironpost.policy.pipeline import Policy
from ironpost.policy.verdict import ACCEPT, NEUTRAL, Check, Decision, Facts, Finding, Stage

__all__ = ["ACCEPT", "NEUTRAL", "Check", "Decision", "Facts", "Finding", "Policy", "Stage"]
