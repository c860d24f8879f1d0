"""Checks of DMARC: the record that applies to a domain, with its faults, and the result for a message (RFC 9989).

Promises: DNS is asked now, through the resolver of the server; nothing is changed. The time is not limited as in the
server. Every fault of a record is listed, not only the first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth import ArcResult, DmarcResult, evaluate_dmarc, verify_arc
from ironpost.mail_auth.dmarc import TreeWalker
from ironpost.model.dns import ResolverError
from ironpost.operations.dkim import SignatureCheck, verified
from ironpost.operations.explain import given_domain
from ironpost.operations.operation import Operation, Scope
from ironpost.operations.spf import SpfCheckRequest, checked
from ironpost.reports.dmarc.destinations import aggregate_uris, failure_uris, usable, willing_recipients

if TYPE_CHECKING:
    from ironpost.mail_auth.dmarc import Discovery
    from ironpost.model.dns import Resolver
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
    notes: tuple[str, ...] = ()
    """What has no effect, and does no harm."""


@dataclass(frozen=True, slots=True)
class DmarcCheckRequest:
    """The domain to check."""

    domain: str


@dataclass(frozen=True, slots=True)
class DmarcEvaluateRequest:
    """The message to evaluate, and what a server would know of its client."""

    message: bytes
    client: SpfCheckRequest | None = None
    """None: SPF is not checked."""


@dataclass(frozen=True, slots=True)
class DmarcMessageCheck:
    """The result for a message, and what led to it."""

    result: DmarcResult
    author: str
    """The author's domain, in A-labels; empty if there is not exactly one."""
    policy: str
    """What the owner of the domain asks to be done with the message."""
    reason: str
    spf: str
    """Result, domain and reason; empty if SPF was not checked."""
    arc: str
    """Result and reason; empty without a chain."""
    signatures: tuple[SignatureCheck, ...]


async def _check(data: DataDirectory, request: DmarcCheckRequest) -> DmarcCheck:
    domain = given_domain(request.domain)
    walker = TreeWalker(data.resolver())
    try:
        found = await walker.discover(domain)
        organization = await walker.organization(domain)
        policy = await walker.policy(found)
        unwilling = await _unwilling(found, data.resolver())
    except ResolverError as error:
        return DmarcCheck(domain, DmarcCheckResult.UNKNOWN, problems=(f"DNS lookup failed: {error}",))
    problems = walker.problems
    record = found.record
    if record is None:
        result = DmarcCheckResult.FAULTY if problems else DmarcCheckResult.ABSENT
        return DmarcCheck(domain, result, organization, problems=tuple(problems))
    problems += (*record.problems, *unwilling)
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
        tuple(f"the tag {name} has no effect: RFC 9989 has removed it" for name in record.removed),
    )


async def _unwilling(found: Discovery, resolver: Resolver) -> list[str]:
    """Describe the addresses of a record that get no reports, because their organization has not agreed.

    Raises:
        ResolverError: a query failed.
    """
    problems: list[str] = []
    if found.record is None:
        return problems
    for tag, uris in (("rua", aggregate_uris), ("ruf", failure_uris)):
        for each in usable(uris(found.record)):
            assert each.address is not None  # usable
            if not await willing_recipients(found.policy_domain, each.address, resolver, uris):
                name = f"{found.policy_domain}._report._dmarc.{each.address.domain}"
                problems.append(f'{tag}: {each.address} gets no reports unless {name} has the TXT record "v=DMARC1"')
    return problems


async def _evaluate(data: DataDirectory, request: DmarcEvaluateRequest) -> DmarcMessageCheck:
    spf = await checked(data, request.client) if request.client is not None else None
    dkim = (await verified(data, request.message)).signatures
    arc = await verify_arc(request.message, resolver=data.resolver(), now=time.time())
    answer = await evaluate_dmarc(request.message, spf=spf, dkim=dkim, resolver=data.resolver())
    return DmarcMessageCheck(
        answer.result,
        answer.author,
        answer.policy,
        answer.reason,
        "" if spf is None else f"{spf.result} of {spf.domain}: {spf.reason}",
        "" if arc.result is ArcResult.NONE else f"{arc.result}: {arc.reason}",
        dkim,
    )


CHECK: Final = Operation("dmarc.check", DmarcCheckRequest, DmarcCheck, Scope.LOCAL, _check)
EVALUATE: Final = Operation("dmarc.evaluate", DmarcEvaluateRequest, DmarcMessageCheck, Scope.LOCAL, _evaluate)
