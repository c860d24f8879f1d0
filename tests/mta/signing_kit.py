"""Keys for the tests of signing, and what verifies their signatures."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ironpost.mail_auth import Key, verify_dkim
from ironpost.model.network import LOOPBACK
from ironpost.mta.signing import Signing
from ironpost.telemetry.metrics import Counters
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.mail_auth import DkimAnswer
    from ironpost.model.ports import Metrics


@cache
def pem(bits: int) -> bytes:
    """A private key in PEM: RSA of that many bits, or Ed25519 for 0."""
    private = generate_private_key(65537, bits) if bits else Ed25519PrivateKey.generate()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key(domain: str = "example.org", selector: str = "ed", bits: int = 0) -> Key:
    return Key.load(domain, selector, pem(bits))


def signing(*keys: Key, metrics: Metrics | None = None) -> Signing:
    made = Signing(metrics or Counters())
    made.use(keys, LOOPBACK)
    return made


def answers(message: bytes, keys: Sequence[Key], now: float) -> tuple[DkimAnswer, ...]:
    """The results of the signatures of a message, if DNS publishes these keys."""
    resolver = StaticResolver(txt={each.name: [each.record.encode()] for each in keys})
    return asyncio.run(verify_dkim(message, resolver=resolver, now=now))


def signers(message: bytes, keys: Sequence[Key], now: float) -> list[str]:
    """The names of the keys whose signatures of a message are valid; every signature must be."""
    found = answers(message, keys, now)
    assert [each.reason for each in found if each.result not in {"pass", "none"}] == []
    return [f"{each.selector}._domainkey.{each.domain}" for each in found if each.result == "pass"]
