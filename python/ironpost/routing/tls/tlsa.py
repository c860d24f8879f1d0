"""TLSA records: which of them are usable, and whether a peer's certificates match.

Promises: a record that this client does not support, or that is malformed, is unusable, never a match. Of the digests
for one usage and selector only the strongest counts (RFC 7671 §9); any one match suffices (SECURITY R33). With
DANE-EE(3), names and dates are ignored (R31); with DANE-TA(2), the path below the anchor must be valid for one of the
names, and no other authority is trusted (R34). The work for one connection is bounded, whatever DNS and the host send
(R23): one search for a path, see `model.certificate_path`; what exceeds `RECORDS`, `CHAIN` or `ANCHORS` is ignored, so
it can only fail to match.
Limitations: a bare public key in DNS, `2 1 0`, matches only if a certificate of the chain has it; RFC 7671 §5.2.3
recommends more, but tells servers not to rely on it.
Standards: RFC 6698 §2.1, RFC 7671 §4, §5.1, §5.2 and §9, RFC 7672 §3.1 and §3.2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ironpost.model.certificate import public_key
from ironpost.model.certificate_path import PathFault, find_anchor
from ironpost.model.tls import TlsFailure, TlsLevel, Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ironpost.model.dns import TLSA
    from ironpost.model.ports import Clock

RECORDS: Final = 64
"""Usable records of one host that count, DANE-EE(3) first; hosts publish two or three."""
CHAIN: Final = 8
"""Certificates of one chain that are read, from the leaf on; real chains have up to five."""
ANCHORS: Final = 4
"""Trust anchors of one connection, those in the chain first; while an authority is replaced there are two."""
DANE_TA: Final = 2
DANE_EE: Final = 3
_CERTIFICATE: Final = 0
_KEY: Final = 1
_FULL: Final = 0
_DIGESTS: Final[Mapping[int, Callable[[bytes], bytes]]] = {
    1: lambda data: hashlib.sha256(data).digest(),
    2: lambda data: hashlib.sha512(data).digest(),
}
"""By matching type; the higher is the stronger (RFC 7671 §9)."""
_LENGTHS: Final = {1: 32, 2: 64}
"""Octets of each digest."""
_NO_MATCH: Final = PathFault(TlsFailure.VALIDATION_FAILURE, "the certificate does not match")
_NO_ANCHOR: Final = PathFault(TlsFailure.VALIDATION_FAILURE, "no authority in the chain that the host sent matches")
_SHOWN: Final = 16
"""Hexadecimal digits of an association that are shown."""
_LISTED: Final = 5
"""Records that a text mentions."""


def presentation(record: TLSA) -> str:
    """A record as in a zone file (RFC 6698 §2.2)."""
    return f"{record.usage} {record.selector} {record.matching} {record.association.hex()}"


def described(record: TLSA) -> str:
    """The same with the association shortened."""
    rest = len(record.association) * 2 - _SHOWN
    return presentation(record) if rest <= 0 else f"{presentation(record)[:-rest]}..."


def listed(texts: Sequence[str], separator: str = ", ") -> str:
    """Join texts about records; of many only the first."""
    rest = len(texts) - _LISTED
    return separator.join([*texts[:_LISTED], *([f"and {rest} more"] if rest > 0 else [])])


def defect(record: TLSA) -> str:
    """Return why a record is unusable; empty if it is usable (RFC 6698 §4.1)."""
    if record.usage not in (DANE_TA, DANE_EE):
        return "only the usages DANE-TA(2) and DANE-EE(3) apply to SMTP (RFC 7672 §3.1.3)"
    if record.selector not in (_CERTIFICATE, _KEY):
        return f"the selector {record.selector} is unknown"
    if record.matching == _FULL:
        return _full_defect(record)
    if record.matching not in _DIGESTS:
        return f"the matching type {record.matching} is unknown"
    if len(record.association) != _LENGTHS[record.matching]:
        return f"a digest of {len(record.association)} octets, not {_LENGTHS[record.matching]}"
    return ""


def usable(records: Iterable[TLSA]) -> frozenset[TLSA]:
    """Select the records that authenticate a host: usable ones, of several digests the strongest (RFC 7671 §9)."""
    found = [record for record in records if not defect(record)]
    strongest: dict[tuple[int, int], int] = {}
    for record in found:
        kind = record.usage, record.selector
        strongest[kind] = max(strongest.get(kind, _FULL), record.matching)
    counting = [record for record in found if record.matching in (_FULL, strongest[record.usage, record.selector])]
    return frozenset(sorted(counting, key=_order)[:RECORDS])


def _order(record: TLSA) -> tuple[int, int, int, bytes]:
    """DANE-EE(3) first: it costs a comparison."""
    return -record.usage, record.selector, record.matching, record.association


@dataclass(frozen=True, slots=True)
class ByTlsa:
    """The verifier of DANE: equal if records and names are equal."""

    records: frozenset[TLSA]
    """From `usable`; at least one."""
    names: tuple[str, ...]
    """The names of which a certificate below a DANE-TA(2) anchor must have one, in ASCII (RFC 7672 §3.2.2)."""
    clock: Clock = field(compare=False, repr=False)

    @property
    def uses_authorities(self) -> bool:
        """See `model.tls.Verifier`."""
        return False

    def verify(self, chain: Sequence[bytes]) -> Verification:
        """Return AUTHENTICATED if a record matches; otherwise ENCRYPTED with the reason."""
        if not chain:
            return Verification(TlsLevel.ENCRYPTED, "the host sent no certificate", TlsFailure.VALIDATION_FAILURE)
        chain = chain[:CHAIN]
        ordered = sorted(self.records, key=_order)
        for record in ordered:
            if record.usage == DANE_EE and matches(record, chain[0]):
                return _authenticated(record)
        found = {record: _anchors(record, chain) for record in ordered if record.usage == DANE_TA}
        anchors = {der: record for record, ders in found.items() for der in ders}
        tried = sorted(anchors, key=lambda der: der not in chain)[:ANCHORS]
        result = find_anchor(chain, tried, self.names, self.clock.now()) if tried else _NO_ANCHOR
        if not isinstance(result, PathFault):
            return _authenticated(anchors[result])
        faults = {record: result if ders else _NO_ANCHOR for record, ders in found.items()}
        reasons = [f"TLSA {described(record)}: {faults.get(record, _NO_MATCH).reason}" for record in ordered]
        return Verification(TlsLevel.ENCRYPTED, listed(reasons, "; "), faults.get(ordered[-1], _NO_MATCH).failure)


@dataclass(frozen=True, slots=True)
class NothingUsable:
    """The verifier of a host whose TLSA records are all unusable: TLS without authentication (RFC 7672 §2.2)."""

    @property
    def uses_authorities(self) -> bool:
        """See `model.tls.Verifier`."""
        return False

    def verify(self, chain: Sequence[bytes]) -> Verification:  # noqa: ARG002 - the protocol's
        """Return ENCRYPTED."""
        return Verification(TlsLevel.ENCRYPTED, "no TLSA record is usable", TlsFailure.TLSA_INVALID)


def _authenticated(record: TLSA) -> Verification:
    return Verification(TlsLevel.AUTHENTICATED, f"the certificate matches TLSA {described(record)}")


def _anchors(record: TLSA, chain: Sequence[bytes]) -> list[bytes]:
    """The certificates that a DANE-TA(2) record makes trust anchors."""
    anchors = [der for der in chain[1:] if matches(record, der)]
    if (record.selector, record.matching) == (_CERTIFICATE, _FULL):
        anchors.append(record.association)  # RFC 7671 §5.2.2: it need not be in the chain
    return anchors


def matches(record: TLSA, der: bytes) -> bool:
    """Whether a certificate has the association of a usable record."""
    try:
        selected = der if record.selector == _CERTIFICATE else public_key(der)
    except ValueError:
        return False
    return (selected if record.matching == _FULL else _DIGESTS[record.matching](selected)) == record.association


def _full_defect(record: TLSA) -> str:
    if record.selector == _KEY:
        return "" if record.association else "an empty public key"
    try:
        public_key(record.association)
    except ValueError:
        return "not a certificate"
    return ""
