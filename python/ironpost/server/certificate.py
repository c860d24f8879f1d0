"""What a server must know of its own certificate, read from the DER without a library (RFC 5280 §4.1).

Promises: the names, the dates and the hash of the signature, which the `ssl` module does not tell of a certificate that
was not received. Refuses: what is no certificate, with ValueError. It verifies nothing: the certificate is our own.

Standards: RFC 5280 §4.1 and §4.2.1.6; RFC 5929 §4.1 (which hash is the channel binding); RFC 6125 §6.4.
"""

from __future__ import annotations

import calendar
import hashlib
import time
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
"""Signature algorithms with RSA and ECDSA, by the hash that they use."""
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
"""Hashes that the parameters of RSASSA-PSS name."""


class CertificateFacts(NamedTuple):
    """What a certificate says."""

    names: tuple[str, ...]
    """Its DNS names in lower case; the common name if it has none."""
    not_before: float
    not_after: float
    """Seconds since 1970-01-01 UTC."""
    end_point: bytes
    """The channel binding `tls-server-end-point`; empty if the signature has no one hash (RFC 5929 §4.1)."""


def read(der: bytes) -> CertificateFacts:
    """The facts of a certificate.

    Raises:
        ValueError: the octets are no certificate.
    """
    try:
        return _read(der)
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError("this is no X.509 certificate") from error


def escaped(value: str) -> str:
    """A value of a distinguished name as text (RFC 4514 §2.4); control characters are escaped too."""
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
    validity, subject = parts[3][1], parts[4][1]
    not_before, not_after = (_seconds(tag, content) for tag, content in _elements(validity))
    extensions = next((content for tag, content in parts[5:] if tag == _EXPLICIT_3), b"")
    names = tuple(_alternative_names(extensions)) or tuple(_common_names(subject))
    name = _hash(algorithm)
    # Of MD5 and SHA-1, SHA-256 takes the place (RFC 5929 §4.1).
    binding = hashlib.new({"md5": "sha256", "sha1": "sha256"}.get(name, name), der).digest() if name else b""
    return CertificateFacts(names, not_before, not_after, binding)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element, as DER has them; tags of more than one octet do not occur here."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            octets = length & 0x7F
            length = int.from_bytes(data[at : at + octets], "big")
            at += octets
        if at + length > len(data):
            raise IndexError("an element is longer than what holds it")
        yield tag, data[at : at + length]
        at += length


def _only(data: bytes, tag: int) -> bytes:
    found, content = next(_elements(data))
    if found != tag:
        raise IndexError("another element was expected")
    return content


def _seconds(tag: int, content: bytes) -> float:
    """A Time (RFC 5280 §4.1.2.5): two digits of a year are 1950 to 2049."""
    text = content.decode("ascii")
    if tag != _GENERALIZED_TIME:
        text = ("20" if text[:2] < "50" else "19") + text
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


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
    """The hash in a signature's AlgorithmIdentifier; empty where it has none of its own, as Ed25519."""
    (_, kind), *rest = _elements(algorithm)
    if kind != _RSA_PSS:
        return _SIGNATURES.get(kind, "")
    for tag, content in _elements(rest[0][1]) if rest else ():
        if tag == _EXPLICIT_0:
            return _HASHES.get(_only(_only(content, _SEQUENCE), _OID), "")
    return "sha1"  # the default of RFC 4055
