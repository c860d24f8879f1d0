"""DANE: what a host publishes about its certificates in signed TLSA records (RFC 7672).

Promises: TLSA records are looked up only for a host whose name and addresses were validated with DNSSEC (SECURITY R28),
so unsigned domains cost no query; below a CNAME whose target is signed at the expanded name first, else at the original
name (R29). A lookup that fails makes the host unusable, never unauthenticated (R27). Usable records must match; if all
records are unusable, TLS is required without authentication (R32). DANE does not apply to address literals. The AD bit
is the resolver's to judge: see `dns.resolver`.
Standards: RFC 7672 §2.1.2, §2.2.2, §2.2.3, §3.2.2 and §8.1 (SNI); RFC 7671 §7.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ironpost.model import Reply, dns
from ironpost.model.dns import ResolverError
from ironpost.model.idna import a_labels
from ironpost.model.tls import PolicyType, PublishedPolicy, TlsFailure
from ironpost.routing.tls.levels import MxLevel, TlsUse
from ironpost.routing.tls.policy import Refusal, Requirement, TlsPolicy
from ironpost.routing.tls.tlsa import RECORDS, ByTlsa, NothingUsable, described, listed, presentation, usable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ironpost.model import Envelope
    from ironpost.model.dns import TLSA, Resolver
    from ironpost.model.ports import Clock
    from ironpost.routing.tls.policy import HostAnswer, MxHost

LOOKUP_FAILED: Final = Reply(451, "4.4.3", ("DNS lookup failed for the TLSA records of the host",))


class Published(NamedTuple):
    """The TLSA records of a host."""

    base: str
    """The TLSA base domain: also the name in SNI, and the first of the names that a certificate may have."""
    records: tuple[TLSA, ...]
    """At least one."""


class Dane(TlsPolicy):
    """See the module."""

    published: ClassVar = True

    def __init__(self, resolver: Resolver, clock: Clock) -> None:
        """Look records up with `resolver`; `clock` dates paths below DANE-TA(2) anchors."""
        self._resolver = resolver
        # Asked for every message, and for each idle connection that it might use.
        self._requirement = lru_cache(256)(partial(requirement, clock=clock))

    def for_host(self, host: MxHost, envelope: Envelope) -> Awaitable[HostAnswer] | None:  # noqa: ARG002 - any message
        """The requirement of the host's TLSA records; None without any; a refusal if they cannot be looked up."""
        return self._published(host) if applies(host) else None

    async def _published(self, host: MxHost) -> HostAnswer:
        try:
            found = await discover(self._resolver, host)
        except ResolverError as error:
            return Refusal(LOOKUP_FAILED.because(str(error)), TlsFailure.DNSSEC_INVALID, _policy(host.name))
        if found is None:
            return None
        return self._requirement(host, found)


def applies(host: MxHost) -> bool:
    """Whether TLSA records may be looked up: the name is secure, and its addresses are, or may be at an alias."""
    if host.level < MxLevel.DNSSEC:
        return False
    return host.dnssec.addresses or host.dnssec.canonical not in ("", host.name)


async def discover(resolver: Resolver, host: MxHost) -> Published | None:
    """Look up the TLSA records of a host to which DANE applies; None if it has none (RFC 7672 §2.2.3).

    Raises:
        ResolverError: a query failed.
    """
    for base in await candidates(resolver, host):
        answer = await dns.tlsa(resolver, base, host.port)
        if answer.data and answer.authentic:
            return Published(base, answer.data)
    return None


async def candidates(resolver: Resolver, host: MxHost) -> tuple[str, ...]:
    """The candidate TLSA base domains, the best first (RFC 7672 §2.2.2).

    Raises:
        ResolverError: a query failed.
    """
    expanded = host.dnssec.canonical or host.name
    if host.dnssec.addresses:
        return tuple(dict.fromkeys((expanded, host.name)))
    if expanded == host.name:
        return ()
    # The target of an alias is not signed; the alias itself may be.
    return (host.name,) if (await dns.alias(resolver, host.name)).authentic else ()


def requirement(host: MxHost, found: Published, clock: Clock) -> Requirement:
    """The requirement of TLSA records."""
    reason = f"TLSA records of {found.base}: {listed(sorted(map(described, found.records)))}"
    policy = _policy(found.base, found.records)
    records = usable(found.records)
    if not records:
        reason += "; none is usable, so TLS is required without authentication"
        return Requirement(TlsUse.ENCRYPT, NothingUsable(), server_name=found.base, policy=policy, reasons=(reason,))
    verifier = ByTlsa(records, reference_names(host, found.base), clock)
    return Requirement(
        TlsUse.VERIFY, verifier, server_name=found.base, own_verifier=True, policy=policy, reasons=(reason,)
    )


def _policy(base: str, records: Sequence[TLSA] = ()) -> PublishedPolicy:
    domain = (*_ascii((base,)), base)[0]
    return PublishedPolicy(PolicyType.TLSA, domain, tuple(sorted(map(presentation, records))[:RECORDS]))


def reference_names(host: MxHost, base: str) -> tuple[str, ...]:
    """The names of which a certificate must have one: base domain, next-hop domain and its expansion (§3.2.2)."""
    return tuple(dict.fromkeys(_ascii((base, host.domain, host.dnssec.domain))))


def _ascii(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(a_labels(name))
        except ValueError:  # no certificate has such a name
            continue
    return [name for name in found if name]
