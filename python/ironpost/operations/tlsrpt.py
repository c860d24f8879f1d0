"""A check of what a domain publishes about TLS reports: its record, and where reports would go (RFC 8460 §3).

Promises: the record is looked up now, as a server would; nothing is sent. Every fault is listed, not only the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.operations.explain import given_domain
from ironpost.operations.operation import Operation, Scope
from ironpost.reports.tlsrpt.record import RecordError, name_of, select

if TYPE_CHECKING:
    from ironpost.operations.context import DataDirectory
    from ironpost.reports.tlsrpt.record import ReportingPolicy


class TlsrptResult(Enum):
    """The result for the domain."""

    GOOD = "good"
    """Reports are sent to every destination."""
    ABSENT = "no record"
    """The domain asks for no reports."""
    FAULTY = "faulty"
    UNKNOWN = "unknown"
    """DNS does not answer now."""


@dataclass(frozen=True, slots=True)
class TlsrptDestination:
    """Where reports are sent."""

    uri: str
    way: str
    """`mail` or `https`."""


@dataclass(frozen=True, slots=True)
class TlsrptCheck:
    """What was found, and what is wrong with it."""

    domain: str
    """In A-labels."""
    result: TlsrptResult
    records: tuple[str, ...]
    """The TXT records at `_smtp._tls.DOMAIN`, with other octets than printable ASCII escaped."""
    destinations: tuple[TlsrptDestination, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TlsrptCheckRequest:
    """The domain to check."""

    domain: str


async def _check(data: DataDirectory, request: TlsrptCheckRequest) -> TlsrptCheck:
    domain = given_domain(request.domain)
    problems: list[str] = []
    records: tuple[bytes, ...] = ()
    policy: ReportingPolicy | None = None
    result = TlsrptResult.GOOD
    try:
        records = (await dns.txt(data.resolver(), name_of(domain))).data
        policy = select(records)
    except ResolverError as error:
        result = TlsrptResult.UNKNOWN
        problems.append(f"DNS lookup failed: {error}")
    except RecordError as error:
        result = TlsrptResult.FAULTY if records else TlsrptResult.ABSENT
        if records:
            problems.append(str(error))
    if policy is not None:
        problems += [f"{each.uri or 'an empty URI'}: {each.why}" for each in policy.unusable]
        if problems:
            result = TlsrptResult.FAULTY
    destinations = () if policy is None else policy.destinations
    return TlsrptCheck(
        domain,
        result,
        tuple(each.decode("ascii", "backslashreplace") for each in records),
        tuple(TlsrptDestination(each.uri, "https" if each.address is None else "mail") for each in destinations),
        tuple(problems),
    )


CHECK: Final = Operation("tlsrpt.check", TlsrptCheckRequest, TlsrptCheck, Scope.LOCAL, _check)
