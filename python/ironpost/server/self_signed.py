"""A self-signed certificate, for a server that was just unpacked and for tests.

Promises: an ECDSA key on P-256 and a certificate for the names given, both in PEM, in files with mode 0600 (SECURITY
R47); existing files are replaced whole. Clients cannot verify such a certificate: it protects against those who listen,
not against those who answer in our place.
Refuses: to run without the package `cryptography`, and says what to install.
"""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAYS = 825
"""How long it holds (a count of days): what several TLS libraries take at most."""


def write_self_signed(certificate: Path, key: Path, names: Sequence[str], *, days: float = DAYS) -> None:
    """Writes the two files.

    Args:
        certificate: where the certificate goes.
        key: where its private key goes.
        names: DNS names and IP addresses; the first is the common name too.
        days: how long it holds from now; 0 or less for one that has expired.

    Raises:
        ModuleNotFoundError: the package `cryptography` is not installed.
        ValueError: no name.
        OSError: a file cannot be written.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a self-signed certificate needs the package cryptography: pip install 'ironpost[mta]'", name=error.name
        ) from error
    if not names:
        raise ValueError("a certificate needs a name")
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - timedelta(days=1))  # clocks differ
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    _write(
        key,
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    _write(certificate, built.public_bytes(serialization.Encoding.PEM))


def _write(path: Path, octets: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # O_EXCL: whoever else may write in the directory cannot have put a link there.
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as handle:
        handle.write(octets)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # a power cut leaves the old file or the new one, and never an empty one
    finally:
        os.close(folder)
