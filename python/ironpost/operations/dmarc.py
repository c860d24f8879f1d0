"""A check of what a domain publishes for DMARC: the record that applies, and what is wrong with it (RFC 9989).

Promises: DNS is asked now, as a server would; nothing is sent or changed. Every fault is listed, not only the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth.dmarc import TreeWalker
from ironpost.mail_auth.names import normalised
from ironpost.model.dns import ResolverError
from ironpost.operations.operation import Operation, OperationError, Reason, Scope

if TYPE_CHECKING:
    from ironpost.operations.context import DataDirectory


class DmarcCheckResult(Enum):
    """The result for the domain."""

    GOOD = "good"
    """A record applies."""
    ABSENT = "no record"
    """DMARC does not apply to mail of the domain."""
    FAULTY = "faulty"
    UNKNOWN = "unknown"
    """DNS does not answer now."""


@dataclass(frozen=True, slots=True)
class DmarcCheck:
    """What was found, and what is wrong with it."""

    domain: str
    """In A-labels."""
    result: DmarcCheckResult
    organization: str = ""
    """The organizational domain; empty if DNS does not answer."""
    policy_domain: str = ""
    """The domain whose record applies; empty if none does."""
    record: str = ""
    policy: str = ""
    """What the owner asks to be done with mail of the domain that fails, after the tag `t`."""
    aggregate: tuple[str, ...] = ()
    """Where aggregate reports are wanted."""
    failure: tuple[str, ...] = ()
    """Where failure reports are wanted."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DmarcCheckRequest:
    """The domain to check."""

    domain: str


async def _check(data: DataDirectory, request: DmarcCheckRequest) -> DmarcCheck:
    try:
        domain = normalised(request.domain)
    except ValueError as error:
        raise OperationError(Reason.INVALID, str(error)) from None
    walker = TreeWalker(data.resolver())
    try:
        found = await walker.discover(domain)
        organization = await walker.organization(domain)
        policy = await walker.policy(found)
    except ResolverError as error:
        return DmarcCheck(domain, DmarcCheckResult.UNKNOWN, problems=(f"DNS lookup failed: {error}",))
    problems = walker.problems
    record = found.record
    if record is None:
        result = DmarcCheckResult.FAULTY if problems else DmarcCheckResult.ABSENT
        return DmarcCheck(domain, result, organization, problems=tuple(problems))
    problems += record.problems
    if not record.applies:
        problems.append("DMARC is not applied: the record has no valid policy and asks for no reports")
    return DmarcCheck(
        domain,
        DmarcCheckResult.FAULTY if problems else DmarcCheckResult.GOOD,
        organization,
        found.policy_domain,
        record.text,
        policy,
        record.aggregate,
        record.failure,
        tuple(problems),
    )


CHECK: Final = Operation("dmarc.check", DmarcCheckRequest, DmarcCheck, Scope.LOCAL, _check)
