"""Verifies a certificate path from trust anchors (RFC 5280 §6), with the package cryptography.

Promises: signatures, dates, names, basic constraints, path lengths and name constraints are verified as for the public
PKI. Private authorities are not held to all of its rules: key identifiers, the extension keyUsage, and the criticality
of basicConstraints are optional, but those present must allow the use. An anchor need not be self-signed. The work is
bounded, although a peer chooses the certificates (SECURITY R23): one search for all anchors and names, in which the
package, from version 49 on, verifies at most 128 signatures; the caller limits the number of certificates, this module
the cost of a signature (`RSA_BITS`, `EXPONENT_BITS`) and of names (`NAME_CHECKS`).
Refuses: a leaf without subjectAltName, because the package does not match common names (RFC 7672 §3.2.3 allows it to);
authorities without basicConstraints; keys and signatures that the package considers too weak. Of authorities that
share subject, issuer and key, only one that is valid now is used.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.model.tls import TlsFailure

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from cryptography import x509
    from cryptography.x509.verification import Policy, PolicyBuilder, ServerVerifier

RSA_BITS: Final = 8192
"""Size of the RSA keys of authorities; one signature by such a key takes about half a millisecond to verify."""
EXPONENT_BITS: Final = 32
"""Size of their public exponents; practically all are 65537. With a long one a signature takes 25 ms."""
NAME_CHECKS: Final = 4096
"""Names of all certificates, times subtrees of all name constraints; each comparison takes about a microsecond."""


class PathFault(NamedTuple):
    """Why a chain is not valid."""

    failure: TlsFailure
    reason: str


_NAMELESS: Final = PathFault(TlsFailure.CERTIFICATE_HOST_MISMATCH, "the host has no name that a certificate can have")
_COSTLY: Final = PathFault(TlsFailure.CERTIFICATE_NOT_TRUSTED, "too many names and name constraints")


def find_anchor(
    chain: Sequence[bytes], anchors: Sequence[bytes], names: Sequence[str], now: float
) -> bytes | PathFault:
    """Return the trust anchor below which a chain is valid, or why it is valid below none.

    Args:
        chain: the certificates that the peer sent, in DER, leaf first; few, because the work grows with them.
        anchors: the certificates of the trust anchors, in DER; at least one, and few.
        names: DNS names in ASCII, of which the leaf must have one.
        now: seconds since 1970.
    """
    try:
        from cryptography import x509
    except ImportError:
        return PathFault(TlsFailure.VALIDATION_FAILURE, "the package cryptography is not installed")
    try:
        leaf = x509.load_der_x509_certificate(chain[0])
        if not _is_current(leaf, now):
            return _expired("certificate")
        names_of_leaf = _alternative_names(leaf)
    except Exception as error:  # noqa: BLE001 - the peer chooses the octets, and what cannot be read proves nothing
        return _unreadable(error)
    trusted: dict[x509.Certificate, bytes] = {}
    fault: PathFault | None = None
    for der in anchors:
        anchor = _authority(der)
        if isinstance(anchor, PathFault):
            fault = anchor
        elif not _is_current(anchor, now):
            fault = _expired("trust anchor")
        else:
            trusted[anchor] = der
    if fault is not None and not trusted:
        return fault
    between = _distinct(chain[1:], now, trusted)
    if _name_checks([leaf, *between, *trusted]) > NAME_CHECKS:
        return _COSTLY
    return _verified(leaf, between, trusted, _likely_first(names, names_of_leaf), now)


def _verified(
    leaf: x509.Certificate,
    between: list[x509.Certificate],
    trusted: Mapping[x509.Certificate, bytes],
    names: Iterable[str],
    now: float,
) -> bytes | PathFault:
    """Search for a path, for the first name that a certificate can have."""
    from cryptography.x509.verification import Store, VerificationError

    # A path has each certificate once; without this limit one that signed itself would be repeated.
    builder = (
        _builder().store(Store(list(trusted))).time(datetime.fromtimestamp(now, UTC)).max_chain_depth(len(between))
    )
    verifier = _first_verifier(builder, names)
    if verifier is None:
        return _NAMELESS
    try:
        return trusted[verifier.verify(leaf, between)[-1]]
    except VerificationError as error:
        reason = str(error).partition(" (encountered processing")[0]
        mismatch = "subjectAltName" in reason
        return PathFault(
            TlsFailure.CERTIFICATE_HOST_MISMATCH if mismatch else TlsFailure.CERTIFICATE_NOT_TRUSTED, reason
        )
    except Exception as error:  # noqa: BLE001 - see `find_anchor`
        return _unreadable(error)


def _first_verifier(builder: PolicyBuilder, names: Iterable[str]) -> ServerVerifier | None:
    from cryptography import x509

    for name in names:
        try:
            return builder.build_server_verifier(x509.DNSName(name))
        except ValueError:  # not a name that a certificate can have
            continue
    return None


def _likely_first(names: Sequence[str], patterns: frozenset[str]) -> list[str]:
    """Order names so that one that the leaf has comes first; whether it really has it, the package decides."""
    return sorted(names, key=lambda name: patterns.isdisjoint((name.lower(), "*." + name.lower().partition(".")[2])))


def _alternative_names(leaf: x509.Certificate) -> frozenset[str]:
    from cryptography import x509

    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


def _authority(der: bytes) -> x509.Certificate | PathFault:
    """Read the certificate of an authority, if verifying a signature of it is not too costly."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    try:
        certificate = x509.load_der_x509_certificate(der)
        # What is read later is read here once, so that an error concerns this certificate only.
        _, _, key = certificate.subject, certificate.extensions, certificate.public_key()
        long = isinstance(key, RSAPublicKey) and (
            key.key_size > RSA_BITS or key.public_numbers().e.bit_length() > EXPONENT_BITS
        )
    except Exception as error:  # noqa: BLE001 - see `find_anchor`
        return _unreadable(error)
    return (
        PathFault(TlsFailure.CERTIFICATE_NOT_TRUSTED, "the RSA key of an authority is too long")
        if long
        else certificate
    )


def _distinct(ders: Iterable[bytes], now: float, trusted: Container[x509.Certificate]) -> list[x509.Certificate]:
    """The authorities of a chain that are not anchors, one for each subject, issuer and key, preferably valid now.

    The search branches at authorities with one name.
    """
    read = [each for each in map(_authority, ders) if not isinstance(each, PathFault) and each not in trusted]
    found: dict[tuple[x509.Name, x509.Name, bytes], x509.Certificate] = {}
    for each in sorted(read, key=lambda each: not _is_current(each, now)):
        found.setdefault((each.subject, each.issuer, _key(each)), each)
    return list(found.values())


def _key(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _name_checks(certificates: Iterable[x509.Certificate]) -> int:
    """Comparisons of names with name constraints along one path, at most."""
    from cryptography import x509

    names = subtrees = 0
    for certificate in certificates:
        for extension in certificate.extensions:
            value = extension.value
            if isinstance(value, x509.SubjectAlternativeName):
                names += len(value)
            elif isinstance(value, x509.NameConstraints):
                subtrees += len(value.permitted_subtrees or ()) + len(value.excluded_subtrees or ())
    return names * subtrees


def _is_current(certificate: x509.Certificate, now: float) -> bool:
    return certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp()


def _expired(whose: str) -> PathFault:
    return PathFault(TlsFailure.CERTIFICATE_EXPIRED, f"the {whose} has expired or is not valid yet")


def _unreadable(error: Exception) -> PathFault:
    return PathFault(TlsFailure.CERTIFICATE_NOT_TRUSTED, f"a certificate cannot be read: {error}")


@lru_cache(maxsize=1)
def _builder() -> PolicyBuilder:
    from cryptography import x509
    from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder

    authority = (
        ExtensionPolicy.webpki_defaults_ca()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
        .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
        .may_be_present(x509.SubjectKeyIdentifier, Criticality.AGNOSTIC, None)
    )
    leaf = (
        ExtensionPolicy.webpki_defaults_ee()
        .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, None)
        .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
    )
    return PolicyBuilder().extension_policies(ca_policy=authority, ee_policy=leaf)


def _may_sign(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("keyUsage does not allow the key to sign certificates")
