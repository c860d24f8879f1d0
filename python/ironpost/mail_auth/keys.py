"""Keys of DKIM and ARC: those that domains publish, and the private ones that sign.

Promises: a valid record is parsed once, and an RSA key is loaded once, even if it cannot be used. What is not an RSA
key is not loaded as one, whatever it is. The package `cryptography` is imported when it is needed, not before.
Refuses: records that are not valid or revoke their key; RSA keys below 1,024 bits, which are not secure, and above
4,096, which take too long; RSA keys below 2,048 bits to sign with (SECURITY R49); all with `KeyFault`.
Standards: RFC 6376 §3.6.1 (records); RFC 8301 §3.2 (sizes); RFC 8463 §4 (Ed25519).
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

from ironpost.mail_auth.names import normalised
from ironpost.mail_auth.tag_list import SHOWN, TagListError, decode_base64, parse_tags, words
from ironpost.model.packages import PackageMissing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

RSA_BITS_MIN: Final = 1024
RSA_BITS_RECOMMENDED: Final = 2048
RSA_BITS_MAX: Final = 4096
"""Sizes of RSA keys (RFC 8301 §3.2)."""
EXPONENT_BITS_MAX: Final = 32
"""Bits of the public exponent of an RSA key; with a long one, verifying is as slow as signing."""
RECORD_LIMIT: Final = 8_192
"""Octets of a key record; one with a key of 4,096 bits has about 800."""
RSA_LIMIT: Final = 1_024
"""Octets of an RSA key; one of 4,096 bits has at most 556."""
CACHE_SIZE: Final = 256
"""Key records that are kept, parsed; and RSA keys, loaded."""

ALGORITHMS: Final = {"rsa": "rsa-sha256", "ed25519": "ed25519-sha256"}
"""The signing algorithms by types of keys (RFC 6376 §3.6.1, RFC 8463 §4.2)."""

_RSA: Final = re.compile(
    rb"\x30(?:[\0-\x7f]|\x81.|\x82..)"  # a sequence
    rb"(?:\x30.\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01|\x02)",  # of the type rsaEncryption, or an integer
    re.DOTALL,
)
"""How an RSA key starts, in either of its formats."""
_KEY_NAME: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
"""Sub-domains (RFC 6376 §3.5), and underscores, which names in DNS may have; no character that ends or starts a tag."""


class KeyFault(ValueError):
    """A key cannot be used; the text says why, in ASCII."""


class KeyRevoked(KeyFault):
    """The record has an empty key (RFC 6376 §3.6.1)."""

    def __init__(self) -> None:
        super().__init__("the key was revoked")


def require_cryptography() -> None:
    """Import the package that has the algorithms.

    Raises:
        PackageMissing: it is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise PackageMissing(
            "DKIM and ARC need the package cryptography: pip install 'ironpost[mail-auth]'", name=error.name
        ) from error


def key_name(selector: str, domain: str) -> str:
    """The name of the TXT record with a key (RFC 6376 §3.6.2.1), in A-labels and lower case.

    Raises:
        ValueError: it is not a domain name, or has other characters than letters, digits, hyphens, underscores and
            dots; the text is ASCII.
    """
    name = normalised(f"{selector}._domainkey.{domain}")
    if not domain or _KEY_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!a} cannot be the name of a key")
    return name


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as its domain publishes it (RFC 6376 §3.6.1)."""

    key_type: str
    """`rsa` or `ed25519`."""
    public: bytes
    """The public key in the format of its type; empty if the key was revoked."""
    services: frozenset[str] = frozenset("*")
    """`s`: which of `email` and `*`, for all, are among the types of service that may use it."""
    testing: bool = False
    """`t=y`: the domain is testing; its mail is to be treated as if it were not signed."""
    strict: bool = False
    """`t=s`: the domain of the tag `i` of a signature must be the signing domain itself."""

    @property
    def algorithm(self) -> str:
        """The signing algorithm that the key is for: `rsa-sha256` or `ed25519-sha256`."""
        return ALGORITHMS[self.key_type]

    @property
    def bits(self) -> int:
        """The size of the key.

        Raises:
            KeyFault: the key was revoked, or cannot be used.
            PackageMissing: the package `cryptography` is not installed.
        """
        require_cryptography()
        if not self.public:
            raise KeyRevoked
        if self.key_type == "rsa":
            return _load_rsa(self.public).key_size
        _load_ed25519(self.public)
        return 256

    def matches(self, signature: bytes, digest: bytes) -> bool:
        """Whether the signature of a SHA-256 digest is by this key.

        Raises:
            KeyFault: the octets are not a key, or one that is too small or too large.
            PackageMissing: the package `cryptography` is not installed.
        """
        try:
            if self.key_type == "rsa":
                _load_rsa(self.public).verify(signature, digest, *_pkcs1())
            else:
                _load_ed25519(self.public).verify(signature, digest)
        except _invalid_signature():
            return False
        return True


@lru_cache(CACHE_SIZE)
def parse_key_record(record: bytes) -> KeyRecord:
    """Parse a key record.

    Raises:
        KeyFault: it is not valid, or for other algorithms.
    """
    if len(record) > RECORD_LIMIT:
        raise KeyFault(f"the record has {len(record)} octets; at most {RECORD_LIMIT} are read")
    try:
        tags = parse_tags(record)
        if "v" in tags and (next(iter(tags)) != "v" or tags["v"] != "DKIM1"):
            raise KeyFault("the record does not start with v=DKIM1")
        key_type = tags.get("k", "rsa")
        if key_type not in ALGORITHMS:
            raise KeyFault(f"the type of the key is {key_type[:SHOWN]!a}, not rsa or ed25519")
        if "sha256" not in words(tags.get("h", "sha256")):
            raise KeyFault("the key is not for sha256")
        if "p" not in tags:
            raise KeyFault("the record has no key")
        public = decode_base64("p", tags["p"])
    except TagListError as error:
        raise KeyFault(f"the record is invalid: {error}") from None
    services = frozenset({"*", "email"}.intersection(words(tags.get("s", "*"))))
    flags = words(tags.get("t", ""))
    return KeyRecord(key_type, public, services, "y" in flags, "s" in flags)


def _load_rsa(octets: bytes) -> RSAPublicKey:
    """A key in either of the formats in use: SubjectPublicKeyInfo, or RSAPublicKey as RFC 6376 §3.6.1 has it.

    Raises:
        KeyFault: it is not an RSA key, or one that is too small or too large.
    """
    public = _loaded_rsa(octets)
    if isinstance(public, str):
        raise KeyFault(public)
    return public


@lru_cache(CACHE_SIZE)
def _loaded_rsa(octets: bytes) -> RSAPublicKey | str:
    """The key, or what is wrong with it: an exception would not be cached."""
    if len(octets) > RSA_LIMIT:
        return f"the key has {len(octets)} octets; at most {RSA_LIMIT} are read"
    # OpenSSL checks the parameters of keys of other types, which can take minutes: is the modulus a prime number?
    if _RSA.match(octets) is None:
        return "the key is not an RSA key"
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        public = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        return "the key is not an RSA key"
    if not isinstance(public, RSAPublicKey):
        return "the key is not an RSA key"
    if fault := _size_fault(public.key_size):
        return fault
    if public.public_numbers().e.bit_length() > EXPONENT_BITS_MAX:
        return f"the exponent of the RSA key has more than {EXPONENT_BITS_MAX} bits"
    return public


def _load_ed25519(octets: bytes) -> Ed25519PublicKey:
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return Ed25519PublicKey.from_public_bytes(octets)
    except ValueError:
        raise KeyFault("the key is not an Ed25519 key") from None


def _size_fault(bits: int, minimum: int = RSA_BITS_MIN) -> str:
    """What is wrong with the size of an RSA key; empty if it is allowed."""
    if minimum <= bits <= RSA_BITS_MAX:
        return ""
    return f"the RSA key has {bits} bits; {minimum} to {RSA_BITS_MAX} are allowed"


@lru_cache(1)
def _invalid_signature() -> type[Exception]:
    """What a verification raises; `except` asks for it only if something was raised."""
    from cryptography.exceptions import InvalidSignature

    return InvalidSignature


@lru_cache(1)
def _pkcs1() -> tuple[Any, Any]:
    """The parameters of rsa-sha256 for a digest (RFC 6376 §3.3.2)."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256

    return PKCS1v15(), Prehashed(SHA256())


@dataclass(frozen=True, slots=True)
class Key:
    """A private key that signs for a domain; `Key.load` makes one."""

    domain: str
    """The signing domain, in A-labels and lower case."""
    selector: str
    """What tells the keys of a domain apart, as `domain`."""
    private: RSAPrivateKey | Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, domain: str, selector: str, pem: bytes) -> Self:
        """Read a key in PEM, without a password.

        Raises:
            KeyFault: it is not an RSA key of 2,048 to 4,096 bits or an Ed25519 key.
            ValueError: the domain or the selector is invalid.
            PackageMissing: the package `cryptography` is not installed.
        """
        require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(pem, None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            raise KeyFault("it is not a private key in PEM without a password") from None
        if not isinstance(private, (RSAPrivateKey, Ed25519PrivateKey)):
            raise KeyFault("the key is neither an RSA nor an Ed25519 key")
        if isinstance(private, RSAPrivateKey) and (fault := _size_fault(private.key_size, RSA_BITS_RECOMMENDED)):
            raise KeyFault(f"{fault} to sign with; make a new one: ironpost dkim new {domain}")
        key_name(selector, domain)
        return cls(normalised(domain), normalised(selector), private)

    @property
    def key_type(self) -> str:
        """`rsa` or `ed25519`."""
        return "rsa" if hasattr(self.private, "key_size") else "ed25519"

    @property
    def algorithm(self) -> str:
        """The signing algorithm: `rsa-sha256` or `ed25519-sha256`."""
        return ALGORITHMS[self.key_type]

    @property
    def bits(self) -> int:
        """The size of the key."""
        return getattr(self.private, "key_size", 256)

    @property
    def name(self) -> str:
        """The name of the TXT record to publish."""
        return key_name(self.selector, self.domain)

    @property
    def public(self) -> bytes:
        """The public key, as `KeyRecord.public`."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self.private.public_key()
        if self.key_type == "rsa":
            return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return public.public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def record(self) -> str:
        """The text of the TXT record to publish."""
        return f"v=DKIM1; k={self.key_type}; p={b64encode(self.public).decode()}"

    def sign(self, digest: bytes) -> bytes:
        """Sign a SHA-256 digest."""
        private: Any = self.private
        signature: bytes = private.sign(digest, *_pkcs1()) if self.key_type == "rsa" else private.sign(digest)
        return signature
