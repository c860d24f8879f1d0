"""The wire conformance suite: hundreds of cases for any SMTP or LMTP server, each named after the section it tests.

    ironpost conform HOST:PORT [--profile mx|submission|lmtp]

    target, found = await survey(Target("127.0.0.1", 2525))
    results = await run(target, found, cases())

Promises: the server is a black box: the suite uses only sockets, builds its own commands, and treats ironpost like any
other server. Where a standard allows several replies, each of them passes. Extensions that the server does not offer
are not tested. Replies are parsed as strictly as the standard defines them.

The suite sends mail and malformed input. Run it only against servers that you operate.

Standards: RFC 5321 and the extensions that docs/standards.md lists; each case cites its section.
"""

from __future__ import annotations

from ironpost.conform.case import Case, CaseOutcome, Level, Profile
from ironpost.conform.runner import Result, chosen, exit_code, run
from ironpost.conform.survey import Unusable, survey
from ironpost.conform.target import Survey, Target
from ironpost.conform.topics import TOPICS, cases

__all__ = [
    "TOPICS",
    "Case",
    "CaseOutcome",
    "Level",
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
