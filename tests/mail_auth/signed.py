"""Messages with signatures for the tests: the example of RFC 8463, and any other, valid or not.

`signed` makes signatures with the canonical forms of dkimpy, not with those that are tested.
"""

from __future__ import annotations

import functools
import hashlib
import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from dkim.canonicalization import CanonicalizationPolicy

from ironpost.mail_auth import Key, Records, RecordType
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

# RFC 8463, appendix A
RSA_PEM = b"""-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi
Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM
KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB
AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm
6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe
zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy
6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc
uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy
WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd
WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a
licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst
o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe
uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL
-----END RSA PRIVATE KEY-----
"""
ED25519_SECRET = b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
ED25519_PEM = Ed25519PrivateKey.from_private_bytes(ED25519_SECRET).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)
PUBLISHED = {
    "brisbane._domainkey.football.example.com": [b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="],
    "test._domainkey.football.example.com": [
        b"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWR"
        b"iGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutAC"
        b"DfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3"
        b"Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
    ],
}
SIGNATURES = b"""DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
""".replace(b"\n", b"\r\n")
MESSAGE = b"""From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
""".replace(b"\n", b"\r\n")

# RFC 6376, appendix A.2, as it was signed: folded with six spaces, and with one space between the sentences
RFC_6376_PUBLISHED = {
    "brisbane._domainkey.example.com": [
        b"v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQ"
        b"KBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt"
        b"IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v"
        b"/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhi"
        b"tdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
    ]
}
RFC_6376_SIGNATURE = b"""DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
""".replace(b"\n", b"\r\n")
RFC_6376_MESSAGE = (
    b"""Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
""".replace(b"\n", b"\r\n")
    + MESSAGE.replace(b"game.  Are", b"game. Are")
)


class KeyServer(StaticResolver):
    """Publishes keys, and notes the names that are looked up."""

    def __init__(self, keys: dict[str, Sequence[bytes]], **tables: Any) -> None:
        super().__init__(txt=keys, **tables)
        self.asked: list[str] = []

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        self.asked.append(name)
        return await super().resolve(name, kind)


@functools.cache
def rsa_key(bits: int = 2048) -> RSAPrivateKey:
    return generate_private_key(65537, bits)


def key(domain: str = "a.example", selector: str = "s", bits: int = 2048) -> Key:
    """A key that signs for a domain; `Key.load` would refuse some sizes."""
    return Key(domain, selector, rsa_key(bits))


def rsa_octets(bits: int, exponent: int = 65537) -> bytes:
    """An RSA key of any size, to which no private key is known."""
    public = RSAPublicNumbers(exponent, (1 << bits) - 1).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_record(bits: int, exponent: int = 65537) -> bytes:
    """The record of `rsa_octets`."""
    return b"p=" + b64encode(rsa_octets(bits, exponent))


def signed(message: bytes, signer: Key | None = None, name: str = "DKIM-Signature", **changes: str | None) -> bytes:
    """The message with a signature in front, some of whose tags are changed, or left out if None.

    The tag `b` is correct for what the signature says, unless it is changed itself.
    """
    signer = signer or key()
    header, _, body = message.partition(b"\r\n\r\n")
    default = "simple/simple" if name == "DKIM-Signature" else "relaxed/relaxed"
    policy = CanonicalizationPolicy.from_c_value((changes.get("c") or default).encode())
    content = policy.canonicalize_body(body)[: int(changes.get("l") or 10**9)]
    tags: dict[str, str | None] = {
        "v": "1",
        "a": signer.algorithm,
        "d": signer.domain,
        "s": signer.selector,
        "h": "from:to:subject",
        "bh": b64encode(hashlib.sha256(content).digest()).decode(),
    }
    tags |= changes
    fields = fields_of(header, (tags["h"] or "").lower().split(":"))
    return _field(name, tags, fields, policy, signer) + message


def _field(
    name: str,
    tags: Mapping[str, str | None],
    fields: list[tuple[bytes, bytes]],
    policy: CanonicalizationPolicy,
    signer: Key,
) -> bytes:
    """A signature of these fields and of itself, with a correct tag `b` unless the tags have one."""
    start = " " + "; ".join(f"{tag}={value}" for tag, value in tags.items() if value is not None and tag != "b")
    if tags.get("b", "") is None:
        return f"{name}:{start}\r\n".encode()
    fields = [*fields, (name.encode(), f"{start}; b=".encode())]
    octets = b"".join(b":".join(each) for each in policy.canonicalize_headers(fields)).removesuffix(b"\r\n")
    value = tags.get("b", b64encode(signer.sign(hashlib.sha256(octets).digest())).decode())
    return f"{name}:{start}; b={value}\r\n".encode()


def sealed(
    message: bytes,
    signer: Key | None = None,
    *,
    results: str | None = None,
    signature: Mapping[str, str | None] | None = None,
    seal: Mapping[str, str | None] | None = None,
) -> bytes:
    """The message with one more ARC set in front; tags of its signature and its seal are changed as in `signed`."""
    signer = signer or key()
    last = len(re.findall(rb"^ARC-Seal:", message, re.MULTILINE)) + 1
    chosen = {"v": None, "i": str(last), "c": "relaxed/relaxed"} | dict(signature or {})
    message = signed(message, signer, "ARC-Message-Signature", **chosen)
    message = f"ARC-Authentication-Results: {results or f'i={last}; us.example; spf=fail'}\r\n".encode() + message
    tags: dict[str, str | None] = {
        "i": str(last),
        "a": signer.algorithm,
        "cv": "none" if last == 1 else "pass",
        "d": signer.domain,
        "s": signer.selector,
    }
    tags |= seal or {}
    names = ["arc-authentication-results", "arc-message-signature", "arc-seal"] * last
    fields = fields_of(message.partition(b"\r\n\r\n")[0], names)
    return _field("ARC-Seal", tags, fields, CanonicalizationPolicy.from_c_value(b"relaxed/relaxed"), signer) + message


def cut(octets: bytes, offsets: Iterable[int]) -> Iterator[bytes]:
    """The octets in pieces, which are cut at these offsets; some may be empty."""
    at = 0
    for end in sorted(offsets):
        yield octets[at:end]
        at = end
    yield octets[at:]


def fields_of(header: bytes, names: list[str]) -> list[tuple[bytes, bytes]]:
    """The fields that a tag `h` selects, as names and bodies."""
    left = [each + b"\r\n" for each in re.split(rb"\r\n(?![ \t])", header)]
    chosen = []
    for name in names:
        found = [at for at, each in enumerate(left) if each.partition(b":")[0].strip().lower() == name.strip().encode()]
        if found:
            start, _, body = left.pop(found[-1]).partition(b":")
            chosen.append((start, body))
    return chosen
