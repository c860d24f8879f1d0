"""A test authority: certificates with any names and dates, roots, intermediates and leaves."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAY = 86400.0


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key and the certificates above it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[Certificate, ...] = ()
    """Its issuer, and the issuer's issuers."""

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def spki(self) -> bytes:
        """Its public key, as `SubjectPublicKeyInfo`."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def chain(self) -> tuple[bytes, ...]:
        """It and everything above it, in DER."""
        return (self.der, *(each.der for each in self.above))

    def write(self, chain: Path, key: Path, *, alone: bool = False) -> None:
        """Write the chain (`alone`: only the leaf) and the key as PEM."""
        parts = (self,) if alone else (self, *self.above)
        chain.write_bytes(b"".join(each.pem for each in parts))
        key.touch(0o600)
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def issue(
    *names: str,
    by: Certificate | None = None,
    authority: bool = False,
    common_name: str = "",
    since: float = -DAY,
    until: float = 30 * DAY,
    extensions: Sequence[x509.ExtensionType] = (),
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Certificate:
    """Create a certificate.

    Args:
        names: DNS names and IP addresses.
        by: its issuer; None if it is self-signed.
        authority: it may issue others.
        common_name: the subject; the first name if empty.
        since: start of its validity in seconds from now.
        until: end of its validity in seconds from now.
        extensions: more extensions, not critical.
        key: its key; a new one if None.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or names[0])])
    now = time.time()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now + since, UTC))
        .not_valid_after(datetime.fromtimestamp(now + until, UTC))
    )
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
    for each in extensions:
        builder = builder.add_extension(each, critical=False)
    signed = builder.sign(key if by is None else by.key, hashes.SHA256())
    return Certificate(signed, key, () if by is None else (by, *by.above))


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
