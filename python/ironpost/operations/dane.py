"""What a domain publishes for DANE, and whether its hosts match: `ironpost dane check`.

Promises: hosts, lookups and verification are those of delivery (`delivery.next_hop`, `routing.tls.dane`), so the answer
is what mail would meet. With `connect` each address is contacted up to TLS; nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.delivery.next_hop import NoHostError, describe_mx, exchangers
from ironpost.model import Address, dns
from ironpost.model.dns import ResolverError
from ironpost.model.text import error_text
from ironpost.operations.operation import Operation, OperationError, Reason, Scope
from ironpost.routing.route import SMTP_PORT
from ironpost.routing.tls import MxLevel, TlsUse
from ironpost.routing.tls.dane import applies, discover, requirement
from ironpost.routing.tls.tlsa import defect, described, usable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ironpost.delivery.dialer import Dialer
    from ironpost.delivery.next_hop import HostAddress
    from ironpost.delivery.own_system import OwnSystem
    from ironpost.model import Reply
    from ironpost.model.dns import TLSA, Resolver
    from ironpost.model.ports import Clock, Random
    from ironpost.operations.context import DataDirectory
    from ironpost.routing.tls import Requirement


class DaneOutcome(Enum):
    """The result for a domain."""

    AUTHENTICATED = "authenticated"
    """DANE authenticates every host."""
    INCOMPLETE = "incomplete"
    """Mail is delivered, but DANE does not authenticate every host."""
    NONE = "none"
    """No host publishes signed records."""
    DEFERRED = "deferred"
    """No host can be used now, so mail is deferred."""
    REFUSED = "refused"
    """The domain does not exist or accepts no mail."""


class HostState(Enum):
    """What DANE does for one host."""

    AUTHENTICATED = "authenticated"
    """It has usable records, which the host matches if it was contacted."""
    ENCRYPTED = "encrypted"
    """It has only unusable records: TLS is required without authentication."""
    UNSIGNED = "unsigned"
    """Its name or its addresses are not signed, so DANE does not apply."""
    ABSENT = "absent"
    """It publishes no records."""
    FAILED = "failed"
    """Its records cannot be looked up, or do not match: the host is not used."""


@dataclass(frozen=True, slots=True)
class TlsaLine:
    """One TLSA record."""

    record: str
    fault: str = ""
    """Why it does not count; empty if it does."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The result of contacting one address."""

    address: str
    reached: str
    """The level of TLS: `none`, `encrypted` or `authenticated`; empty if there was no connection."""
    reason: str


@dataclass(frozen=True, slots=True)
class HostReport:
    """One host of the domain."""

    name: str
    addresses: tuple[str, ...]
    signed: bool
    """Its address records are validated."""
    state: HostState
    reason: str
    base: str = ""
    """The TLSA base domain; empty without records."""
    records: tuple[TlsaLine, ...] = ()
    handshakes: tuple[Handshake, ...] = ()


@dataclass(frozen=True, slots=True)
class DaneReport:
    """What a domain publishes, and what follows for its mail."""

    domain: str
    outcome: DaneOutcome
    obstacle: str
    """Why this system does not use DANE; empty if it does."""
    signed: bool
    """The MX records, or their absence, are validated."""
    mx: tuple[str, ...]
    hosts: tuple[HostReport, ...]
    failure: str = ""
    """Why no further host can be used; empty if all were looked up."""


@dataclass(frozen=True, slots=True)
class DaneRequest:
    """A domain to look at."""

    domain: str
    connect: bool = False
    """Contact each address, and verify its certificate."""


class DaneChecker:
    """Looks at domains as the delivery of one configuration does."""

    def __init__(
        self,
        resolver: Resolver,
        random: Random,
        clock: Clock,
        own: OwnSystem,
        dialer: Dialer,
        obstacle: Callable[[], Awaitable[str]],
        port: int = SMTP_PORT,
    ) -> None:
        """Create a checker from the parts of delivery; `obstacle` returns why DANE is not used."""
        self._resolver = resolver
        self._random = random
        self._clock = clock
        self._own = own
        self._dialer = dialer
        self._obstacle = obstacle
        self._port = port

    async def check(self, domain: str, *, connect: bool) -> DaneReport:
        """Look a domain up; with `connect`, contact its hosts too."""
        try:
            signed = (await dns.mx(self._resolver, domain)).authentic
        except ResolverError:
            signed = False
        failure: Reply | None = None
        by_host: dict[str, list[HostAddress]] = {}
        try:
            async for group in exchangers(domain, self._resolver, self._random, self._own, self._port):
                for target in group:
                    by_host.setdefault(target.host, []).append(target)
        except NoHostError as error:
            failure = error.outcome.reply
        hosts = tuple([await self._host(domain, targets, connect=connect) for targets in by_host.values()])
        return DaneReport(
            domain,
            _outcome(hosts, failure),
            await self._obstacle(),
            signed,
            await describe_mx(domain, self._resolver),
            hosts,
            "" if failure is None else str(failure),
        )

    async def _host(self, domain: str, targets: Sequence[HostAddress], *, connect: bool) -> HostReport:
        host = targets[0].for_domain(domain)
        addresses = tuple(target.ip for target in targets)

        def report(state: HostState, reason: str, **more: object) -> HostReport:
            return HostReport(host.name, addresses, host.dnssec.addresses, state, reason, **more)  # type: ignore[arg-type]

        if not applies(host):
            unsigned = "MX records" if host.level < MxLevel.DNSSEC else "addresses"
            return report(HostState.UNSIGNED, f"its {unsigned} are not signed")
        try:
            found = await discover(self._resolver, host)
        except ResolverError as error:
            return report(HostState.FAILED, f"the lookup failed: {error}")
        if found is None:
            return report(HostState.ABSENT, "it publishes no signed TLSA records")
        required = requirement(host, found, self._clock)
        state, reason = HostState.AUTHENTICATED, "usable records; --connect compares its certificate with them"
        if required.use is not TlsUse.VERIFY:
            state, reason = HostState.ENCRYPTED, "no record is usable"
        handshakes: tuple[Handshake, ...] = ()
        if connect:
            handshakes = tuple([await self._handshake(target, required) for target in targets])
            failed = [each for each in handshakes if each.reached != str(required.level)]
            if failed:
                state, reason = HostState.FAILED, f"{failed[0].address}: {failed[0].reason}"
            elif state is HostState.AUTHENTICATED:
                reason = handshakes[0].reason
        return report(state, reason, base=found.base, records=_lines(found.records), handshakes=handshakes)

    async def _handshake(self, target: HostAddress, required: Requirement) -> Handshake:
        try:
            connection, tls = await self._dialer.dial(target, required, chunking=False)
        except OSError as error:
            return Handshake(target.ip, "", f"cannot connect: {error_text(error)}")
        session = connection.session
        if connection.ready:
            await connection.quit()
            return Handshake(target.ip, str(tls.level), tls.reason)
        refused = session.reason
        reason = tls.reason if refused is None else refused.detail or str(refused)
        return Handshake(target.ip, str(tls.level), reason)


def _lines(records: Sequence[TLSA]) -> tuple[TlsaLine, ...]:
    counting = usable(records)
    return tuple(
        TlsaLine(described(record), defect(record) or ("" if record in counting else "a stronger digest is published"))
        for record in sorted(records, key=lambda each: (each.usage, each.selector, each.matching, each.association))
    )


def _outcome(hosts: Sequence[HostReport], failure: Reply | None) -> DaneOutcome:
    states = [host.state for host in hosts]
    if all(state is HostState.FAILED for state in states):
        refused = not states and failure is not None and not failure.transient
        return DaneOutcome.REFUSED if refused else DaneOutcome.DEFERRED
    if failure is None and all(state in (HostState.UNSIGNED, HostState.ABSENT) for state in states):
        return DaneOutcome.NONE
    complete = failure is None and all(state is HostState.AUTHENTICATED for state in states)
    return DaneOutcome.AUTHENTICATED if complete else DaneOutcome.INCOMPLETE


async def _check(data: DataDirectory, request: DaneRequest) -> DaneReport:
    try:
        domain = Address.parse(f"postmaster@{request.domain}").key
    except ValueError:
        raise OperationError(Reason.INVALID, f"{request.domain}: not a domain") from None
    if domain.startswith("["):
        raise OperationError(Reason.INVALID, f"{request.domain}: DANE does not apply to address literals")
    async with data.dane() as checker:
        return await checker.check(domain, connect=request.connect)


CHECK: Final = Operation("dane.check", DaneRequest, DaneReport, Scope.LOCAL, _check)
