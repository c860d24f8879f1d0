"""Facts about a certificate, read from DER without a library (RFC 5280 §4.1).

Promises: reads names, dates, public key, kind of key and signature hash, which the `ssl` module does not expose for a
certificate that no peer sent. Refuses: octets that are not a certificate, with ValueError. Limitations: nothing is
verified; `model.certificate_path` does that.

Standards: RFC 5280 §4.1 and §4.2.1.6; RFC 5929 §4.1 (which hash is the channel binding); RFC 6125 §6.4; RFC 5958
(private keys); RFC 8410 (Ed25519 and Ed448).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEQUENCE: Final = 0x30
_OID: Final = 0x06
_EXPLICIT_0: Final = 0xA0
_EXPLICIT_3: Final = 0xA3
_OCTET_STRING: Final = 0x04
_GENERALIZED_TIME: Final = 0x18
_DNS_NAME: Final = 0x82

_COMMON_NAME: Final = bytes.fromhex("550403")
_ALTERNATIVE_NAME: Final = bytes.fromhex("551d11")
_RSA_PSS: Final = bytes.fromhex("2a864886f70d01010a")

_SIGNATURES: Final = {
    bytes.fromhex(oid): name
    for oid, name in {
        "2a864886f70d010104": "md5",
        "2a864886f70d010105": "sha1",
        "2a864886f70d01010e": "sha224",
        "2a864886f70d01010b": "sha256",
        "2a864886f70d01010c": "sha384",
        "2a864886f70d01010d": "sha512",
        "2a8648ce3d0401": "sha1",
        "2a8648ce3d040301": "sha224",
        "2a8648ce3d040302": "sha256",
        "2a8648ce3d040303": "sha384",
        "2a8648ce3d040304": "sha512",
    }.items()
}
"""The hash of each signature algorithm with RSA or ECDSA."""
_HASHES: Final = {
    bytes.fromhex(oid): name
    for oid, name in {
        "2b0e03021a": "sha1",
        "608648016503040204": "sha224",
        "608648016503040201": "sha256",
        "608648016503040202": "sha384",
        "608648016503040203": "sha512",
    }.items()
}
"""The hashes that the parameters of RSASSA-PSS may name."""
_KINDS: Final = {
    bytes.fromhex("2a864886f70d010101"): "RSA",
    _RSA_PSS: "RSA-PSS",
    bytes.fromhex("2a8648ce3d0201"): "EC",
    bytes.fromhex("2b6570"): "Ed25519",
    bytes.fromhex("2b6571"): "Ed448",
    bytes.fromhex("2a8648ce380401"): "DSA",
}
"""The kind of key for each algorithm of a SubjectPublicKeyInfo or a PrivateKeyInfo."""
_KEY: Final = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----([A-Za-z0-9+/=\s]*)-----END \1PRIVATE KEY-----")


class CertificateFacts(NamedTuple):
    """The facts about a certificate."""

    names: tuple[str, ...]
    """Its DNS names in lower case; the common name if it has none."""
    not_before: float
    """The start of its validity, in seconds since 1970-01-01 UTC."""
    not_after: float
    """The end of its validity, in seconds since 1970-01-01 UTC."""
    end_point: bytes
    """The channel binding `tls-server-end-point`; empty if the signature has no single hash (RFC 5929 §4.1)."""
    kind: str
    """The kind of its key: `RSA`, `RSA-PSS`, `EC`, `Ed25519`, `Ed448` or `DSA`; empty for any other."""


def read(der: bytes) -> CertificateFacts:
    """Read the facts about a certificate.

    Raises:
        ValueError: the octets are not a certificate.
    """
    try:
        return _read(der)
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError("not a valid X.509 certificate") from error


def public_key(der: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate, in DER, as for TLSA records with selector 1 (RFC 6698 §2.1.2).

    Raises:
        ValueError: the octets are not a certificate.
    """
    try:
        to_be_signed = _only(_only(der, _SEQUENCE), _SEQUENCE)
        spans = [(tag, start, end) for tag, start, _, end in _spans(to_be_signed) if tag != _EXPLICIT_0]
        tag, start, end = spans[5]
        if tag != _SEQUENCE:
            raise IndexError("unexpected element")
    except (IndexError, StopIteration) as error:
        raise ValueError("not a valid X.509 certificate") from error
    return to_be_signed[start:end]


def key_kind(pem: str) -> str:
    """Return the kind of the first private key in PEM text, as `CertificateFacts.kind`; empty if there is none, or it
    is encrypted or of another kind."""
    found = _KEY.search(pem)
    if found is None:
        return ""
    if found[1] in {"RSA ", "EC ", "DSA "}:
        return found[1].strip()
    try:
        _, (_, algorithm), *_ = _elements(_only(binascii.a2b_base64(found[2]), _SEQUENCE))
        return _kind(algorithm)
    except (IndexError, StopIteration, ValueError):
        return ""


def escaped(value: str) -> str:
    """Escape a value of a distinguished name (RFC 4514 §2.4), including control characters."""
    text = "".join(
        f"\\{c}" if c in ',+"\\<>;' else f"\\{ord(c):02x}" if ord(c) < 32 or ord(c) == 127 else c for c in value
    )
    if text.startswith((" ", "#")):
        text = "\\" + text
    if text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1] + "\\ "
    return text


def _read(der: bytes) -> CertificateFacts:
    whole = _only(der, _SEQUENCE)
    to_be_signed, algorithm, *_ = (content for _, content in _elements(whole))
    parts = [each for each in _elements(to_be_signed) if each[0] != _EXPLICIT_0]  # the version
    validity, subject, public_key = parts[3][1], parts[4][1], parts[5][1]
    not_before, not_after = (_seconds(tag, content) for tag, content in _elements(validity))
    extensions = next((content for tag, content in parts[6:] if tag == _EXPLICIT_3), b"")
    names = tuple(_alternative_names(extensions)) or tuple(_common_names(subject))
    name = _hash(algorithm)
    # SHA-256 replaces MD5 and SHA-1 (RFC 5929 §4.1).
    binding = hashlib.new({"md5": "sha256", "sha1": "sha256"}.get(name, name), der).digest() if name else b""
    return CertificateFacts(names, not_before, not_after, binding, _kind(_only(public_key, _SEQUENCE)))


def _kind(algorithm: bytes) -> str:
    """Return the kind of key that an AlgorithmIdentifier names."""
    return _KINDS.get(_only(algorithm, _OID), "")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each DER element."""
    for tag, _, content, end in _spans(data):
        yield tag, data[content:end]


def _spans(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, start, start of the content and end of each DER element.

    Tags of more than one octet do not occur in certificates.
    """
    at = 0
    while at < len(data):
        start = at
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            octets = length & 0x7F
            length = int.from_bytes(data[at : at + octets], "big")
            at += octets
        if at + length > len(data):
            raise IndexError("an element is longer than the one that contains it")
        yield tag, start, at, at + length
        at += length


def _only(data: bytes, tag: int) -> bytes:
    found, content = next(_elements(data))
    if found != tag:
        raise IndexError("unexpected element")
    return content


def _seconds(tag: int, content: bytes) -> float:
    """Parse a Time (RFC 5280 §4.1.2.5); years of two digits are 1950 to 2049."""
    text = content.decode("ascii")
    if tag != _GENERALIZED_TIME:
        text = ("20" if text[:2] < "50" else "19") + text
    return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp())


def _alternative_names(extensions: bytes) -> Iterator[str]:
    if not extensions:
        return
    for _, extension in _elements(_only(extensions, _SEQUENCE)):
        fields = list(_elements(extension))
        if fields[0] == (_OID, _ALTERNATIVE_NAME):
            value = next(content for tag, content in fields if tag == _OCTET_STRING)
            for tag, content in _elements(_only(value, _SEQUENCE)):
                if tag == _DNS_NAME:
                    yield content.decode("ascii").lower()


def _common_names(subject: bytes) -> Iterator[str]:
    for _, relative in _elements(subject):
        for _, attribute in _elements(relative):
            (_, kind), (_, value) = _elements(attribute)
            if kind == _COMMON_NAME:
                yield value.decode("utf-8").lower()


def _hash(algorithm: bytes) -> str:
    """Return the hash of a signature's AlgorithmIdentifier; empty for algorithms without one, such as Ed25519."""
    (_, kind), *rest = _elements(algorithm)
    if kind != _RSA_PSS:
        return _SIGNATURES.get(kind, "")
    for tag, content in _elements(rest[0][1]) if rest else ():
        if tag == _EXPLICIT_0:
            return _HASHES.get(_only(_only(content, _SEQUENCE), _OID), "")
    return "sha1"  # the default of RFC 4055
