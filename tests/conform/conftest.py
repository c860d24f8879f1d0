"""What the tests of the conformance suite share: the scripted server, a certificate, and a run against a server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.loading import load

from ironpost.conform import cases, chosen, run, survey

scripted = load(Path(__file__).with_name("scripted.py"), "conform_scripted")
broken = load(Path(__file__).with_name("broken.py"), "conform_broken")

PATIENCE = 240.0
"""Seconds after which a test fails that hangs."""


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="session")
def context(certificate):
    """TLS for a server with that certificate."""
    return broken.tls(certificate)


async def _examine(target, patterns=(), parallel=8):
    target, found = await survey(target)
    return {result.case.id: result for result in await run(target, found, chosen(cases(), patterns), parallel=parallel)}


@pytest.fixture
def examine():
    """`await examine(target, patterns)`: name to result."""
    return _examine


@pytest.fixture
def against_scripted():
    """`against_scripted(target, flaws, patterns, **options)`: runs the suite against the scripted server."""

    def go(target, flaws=frozenset(), patterns=(), **options):
        async def scenario():
            server = await asyncio.get_running_loop().create_server(
                lambda: scripted.Scripted(frozenset(flaws), **options), "127.0.0.1", 0
            )
            try:
                return await _examine(replace(target, port=server.sockets[0].getsockname()[1]), patterns)
            finally:
                server.close()

        return asyncio.run(asyncio.wait_for(scenario(), PATIENCE))

    return go


@pytest.fixture(scope="session")
def flaws():
    """Every way in which the scripted server can be wrong."""
    return scripted.FLAWS
