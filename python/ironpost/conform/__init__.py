"""The wire conformance suite: hundreds of questions to any server that speaks SMTP or LMTP, each named for its section.

    ironpost conform HOST:PORT [--profile mx|submission|lmtp]

    target, found = await survey(Target("127.0.0.1", 2525))
    results = await run(target, found, cases())

Promises: a black box: it talks over sockets, with octets of its own, and knows nothing of the server behind them, ours
included. Where a standard leaves freedom, every permitted answer passes. What a server does not offer is not asked of
it. It reads as strictly as the standard writes.

It sends mail and odd octets. It is for one's own servers.

Standards: RFC 5321 and the extensions that docs/standards.md lists; each case cites its section.
"""

from __future__ import annotations

from ironpost.conform.case import Case, Level, Outcome, Profile
from ironpost.conform.runner import Result, chosen, exit_code, run
from ironpost.conform.survey import Unusable, survey
from ironpost.conform.target import Survey, Target
from ironpost.conform.topics import TOPICS, cases

__all__ = [
    "TOPICS",
    "Case",
    "Level",
    "Outcome",
    "Profile",
    "Result",
    "Survey",
    "Target",
    "Unusable",
    "cases",
    "chosen",
    "exit_code",
    "run",
    "survey",
]
