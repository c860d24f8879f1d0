"""Signing and verifying a message of 10 KB with DKIM, against OpenSSL alone and dkimpy: the time of one call.

    python benches/mail_auth.py

Every answer is checked before it is timed, and that a changed message fails. All take turns in each round, and the
fastest call counts, during which nothing else ran. Keys are parsed before, and answers of DNS come from memory.
"OpenSSL" is one operation of RSA or Ed25519 with a hash that is there already.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import dkim
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ironpost.mail_auth import Key, Records, sign, verify_dkim

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.mail_auth import RecordType

ROUNDS = 20
CALLS = 50
"""Calls in a round."""
NOW = 1_700_000_000
LINES = {
    "text": b"Of text, as people write it: words, single spaces and a line end, a few times over.\r\n",
    "runs of blanks": b"Of runs  of blanks,\tevery line of this body has three, and one before its end.  \r\n",
}
FIELDS = (
    b"Received: from mail.example (mail.example [192.0.2.1])\r\n\tby mx.example with ESMTPS id 1234567890\r\n"
    b"\tfor <ada@mx.example>; Sat, 28 Nov 2026 10:00:00 +0000\r\nFrom: Jo <jo@mail.example>\r\nTo: ada@mx.example\r\n"
    b"Subject: Ten kilobytes\r\nDate: Sat, 28 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1234567890@mail.example>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n"
)
SIGNED = [
    b"from",
    b"to",
    b"subject",
    b"date",
    b"message-id",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
]
"""What dkimpy signs."""
ABOVE = 50e-6
"""Seconds that verifying may take above OpenSSL."""
FASTER = 10
"""Times as fast as dkimpy."""
LONGER = 1.15
"""Times OpenSSL's time that signing may take."""


def message(line: bytes) -> bytes:
    return FIELDS + b"\r\n" + line * ((10_216 - len(FIELDS)) // len(line))


class Published:
    """A resolver that has one key and answers at once."""

    def __init__(self, key: Key) -> None:
        self.answer = Records(True, (key.record.encode(),), ttl=300.0)

    async def resolve(self, name: str, kind: RecordType, /) -> Records[bytes]:
        return self.answer


def fastest(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The seconds of each call, by name."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            for _ in range(CALLS):
                start = time.perf_counter_ns()
                call()
                best[name] = min(best[name], (time.perf_counter_ns() - start) / 1e9)
    return best


def verified(content: bytes, resolver: Published) -> list[str]:
    """The results of the signatures. Nothing is waited for, so no event loop runs."""
    try:
        verify_dkim(content, resolver=resolver, now=NOW).send(None)
    except StopIteration as done:
        return [answer.result for answer in done.value]
    raise AssertionError("the resolver of the benchmark answers at once")


def measure(line: bytes, private: RSAPrivateKey | Ed25519PrivateKey) -> dict[str, float]:
    """The seconds of signing and verifying a message of these lines, by what does it."""
    rsa = isinstance(private, RSAPrivateKey)
    key = Key.load("mail.example", "s", private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    plain = message(line)
    signed = sign(plain, [key], NOW) + plain
    published = Published(key)
    padding = (PKCS1v15(), Prehashed(SHA256())) if rsa else ()
    public, digest = private.public_key(), bytes(32)
    signature = private.sign(digest, *padding)

    changed = signed.replace(b"Ten", b"Two")
    assert verified(signed, published) == ["pass"]
    assert verified(changed, published) == ["fail"]
    calls: dict[str, Callable[[], object]] = {
        "sign, OpenSSL": lambda: private.sign(digest, *padding),
        "sign, ironpost": lambda: sign(plain, [key], NOW),
        "verify, OpenSSL": lambda: public.verify(signature, digest, *padding),
        "verify, ironpost": lambda: verified(signed, published),
    }
    if rsa:  # dkimpy needs another package for Ed25519
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        relaxed = (b"relaxed", b"relaxed")

        def dkimpy_signs() -> bytes:
            return dkim.sign(plain, b"s", b"mail.example", pem, canonicalize=relaxed, include_headers=SIGNED)

        def dkimpy_verifies(content: bytes = signed) -> bool:
            return dkim.verify(content, dnsfunc=lambda *_, **__: key.record.encode())

        assert verified(dkimpy_signs() + plain, published) == ["pass"]
        assert dkimpy_verifies()
        assert not dkimpy_verifies(changed)
        calls["sign, dkimpy"] = dkimpy_signs
        calls["verify, dkimpy"] = dkimpy_verifies
    return fastest(calls)


def promises(seconds: dict[str, float]) -> dict[str, bool]:
    """What is promised for RSA-2048, and whether it was kept."""
    above = seconds["verify, ironpost"] - seconds["verify, OpenSSL"]
    faster = seconds["verify, dkimpy"] / seconds["verify, ironpost"]
    longer = seconds["sign, ironpost"] / seconds["sign, OpenSSL"]
    return {
        f"verifying takes {above * 1e6:.0f} µs above OpenSSL ({ABOVE * 1e6:.0f} promised)": above <= ABOVE,
        f"verifying is {faster:.1f} x as fast as dkimpy ({FASTER} promised)": faster >= FASTER,
        f"signing takes {longer:.2f} x OpenSSL's time ({LONGER} promised)": longer <= LONGER,
    }


def main() -> int:
    """Print the figures; return 1 if a promise was not kept."""
    keys = {"RSA-2048": generate_private_key(65537, 2048), "Ed25519": Ed25519PrivateKey.generate()}
    broken = 0
    for text, line in LINES.items():
        for name, private in keys.items():
            seconds = measure(line, private)
            print(f"{text}, {name}, µs:")
            for what, each in seconds.items():
                print(f"  {what}: {each * 1e6:.1f}")
            for promise, kept in promises(seconds).items() if name == "RSA-2048" else ():
                print(f"  {promise}{'' if kept else ': NOT KEPT'}")
                broken += not kept
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
