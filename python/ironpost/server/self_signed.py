"""Creation of self-signed certificates, for a first start and for tests.

Promises: writes an ECDSA key on P-256 and a certificate for the given names, both in PEM, with file mode 0600 (SECURITY
R47); existing files are replaced atomically. Refuses: to run without the package `cryptography`; the error says what to
install. Limitations: clients cannot verify such a certificate, so it protects against eavesdropping but not against an
impostor.
"""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ironpost.model.packages import PackageMissing
from ironpost.storage.directory import sync_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAYS = 825
"""Days for which a certificate is valid by default: the most that several TLS libraries accept."""


def write_self_signed(certificate: Path, key: Path, names: Sequence[str], *, days: float = DAYS) -> None:
    """Write a new certificate and its private key.

    Args:
        certificate: path of the certificate.
        key: path of the private key.
        names: DNS names and IP addresses, at least one; the first is also the common name.
        days: days for which the certificate is valid, starting now; 0 or less for an expired one.

    Raises:
        PackageMissing: the package `cryptography` is not installed.
        ValueError: `names` is empty.
        OSError: a file cannot be written.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ModuleNotFoundError as error:
        raise PackageMissing(
            "a self-signed certificate needs the package cryptography: pip install 'ironpost[mta]'", name=error.name
        ) from error
    if not names:
        raise ValueError("a certificate needs at least one name")
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
    # O_EXCL: another user with write access to the directory cannot have placed a link there.
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as handle:
            handle.write(octets)
            handle.flush()
            os.fsync(handle.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)  # after a power failure the old or the new file is there, never an empty one
