"""A check of SPF: the result for a client, a sender and a name, and why (RFC 7208).

Promises: DNS is asked now, through the resolver of the server; nothing is changed. The time is not limited as in the
server, and an explanation does not name this host.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth import SpfAnswer, SpfResult, check_spf
from ironpost.mail_auth.names import is_name
from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.operations.operation import Operation, OperationError, Reason, Scope

if TYPE_CHECKING:
    from ironpost.operations.context import DataDirectory


@dataclass(frozen=True, slots=True)
class SpfCheckRequest:
    """What a server would know of a client."""

    ip: str
    sender: str
    """The reverse-path, which may be in angle brackets, or a domain; empty for the null reverse-path."""
    helo: str


@dataclass(frozen=True, slots=True)
class SpfCheck:
    """The result and its reason."""

    result: SpfResult
    domain: str
    """The domain whose record decided, in A-labels."""
    identity: str
    """`mailfrom` or `helo`."""
    reason: str
    explanation: str
    """The text of the domain for a fail."""
    lookups: int
    """Number of terms that needed DNS."""
    queries: int
    problems: tuple[str, ...] = ()
    """Why a record does not count."""


async def checked(data: DataDirectory, request: SpfCheckRequest) -> SpfAnswer:
    """Check a client.

    Raises:
        OperationError: the address of the client is invalid, or there is nothing to check.
    """
    sender = request.sender.removeprefix("<").removesuffix(">")
    if not sender and not request.helo:
        sentence = "with the null reverse-path SPF checks the name in EHLO: give a sender, or that name"
        raise OperationError(Reason.INVALID, sentence)
    if sender and "@" not in sender:
        sender = f"postmaster@{sender}"
    try:
        return await check_spf(
            ip=request.ip, helo=request.helo, sender=sender, resolver=data.resolver(), now=time.time()
        )
    except ValueError:
        raise OperationError(Reason.INVALID, f"{request.ip}: not an IP address") from None


async def _check(data: DataDirectory, request: SpfCheckRequest) -> SpfCheck:
    answer = await checked(data, request)
    problems: tuple[str, ...] = ()
    if answer.result is SpfResult.NONE and is_name(answer.domain):
        with suppress(ResolverError):
            records = await dns.txt(data.resolver(), answer.domain)
            problems = dns.without_version(answer.domain, records.data, "v=spf1 ")
    return SpfCheck(
        answer.result,
        answer.domain,
        answer.identity,
        answer.reason,
        answer.explanation,
        answer.lookups,
        answer.queries,
        problems,
    )


CHECK: Final = Operation("spf.check", SpfCheckRequest, SpfCheck, Scope.LOCAL, _check)
