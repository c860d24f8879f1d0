"""What the signatures of DKIM and ARC have in common: their tags, their hashes, and the search for their keys.

Promises: the octets are hashed as they were received. Header fields are selected in time linear in the header section
and the tag `h`. For all verifiers of a message the fields are arranged once, the body is canonicalised and hashed at
most twice, once for each canonical form, and each key is queried once. At most 64 signatures are verified with a key,
and the event loop runs others between them (SECURITY R23).
Refuses: what is not valid, with `SignatureFault`, which has the result.
Standards: RFC 6376 §3.5 (tags), §3.7 (hashes), §5.4.2 (several fields of one name), §6.1 (verification).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth.keys import (
    ALGORITHMS,
    KeyFault,
    KeyRecord,
    KeyRevoked,
    key_name,
    parse_key_record,
    require_cryptography,
)
from ironpost.mail_auth.names import normalised
from ironpost.mail_auth.tag_list import SHOWN, TagListError, decode_base64, parse_tags, words
from ironpost.model import dns
from ironpost.model.dns import RecordType, ResolverError
from ironpost.model.pause import pause
from ironpost.model.text import counted
from ironpost.wire import BodyCanonicaliser, canonical_field

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ironpost.message.section import Header
    from ironpost.model.dns import Records, Resolver
    from ironpost.wire import HeaderField

SIGNATURE_LIMIT: Final = 65_536
"""Octets of a signature (SECURITY R23); it may contain a copy of the header section, the tag `z`."""
RECORDS_LIMIT: Final = 4
"""Records of one name that are tried."""
VERIFICATIONS_LIMIT: Final = 64
"""Verifications with a key for one message (SECURITY R23); the longest valid chain needs 51, each of half a millisecond
at most."""

_NUMBER: Final = re.compile(r"[0-9]{1,76}")
_CANONICALISATION: Final = re.compile(r"(simple|relaxed)(?:/(simple|relaxed))?")
_OWN_SIGNATURE: Final = re.compile(rb";[ \t\r\n]*b[ \t\r\n]*=([^;]*)")


class DkimResult(StrEnum):
    """The results of DKIM (RFC 8601 §2.7.1)."""

    NONE = "none"
    """The message was not signed."""
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    """The signature does not match the message."""
    POLICY = "policy"
    """The signature is not acceptable: it expired, or covers only a part of the body."""
    NEUTRAL = "neutral"
    """The signature has a syntax error."""
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class DkimFailure(StrEnum):
    """What is wrong with a signature that is not valid (RFC 6591 §3.3)."""

    BODY_HASH = "bodyhash"
    """It is of another body."""
    REVOKED = "revoked"
    """Its key was revoked."""
    SIGNATURE = "signature"
    """Something else."""


class SignatureFault(ValueError):
    """A signature is not valid; the text says why, in ASCII."""

    def __init__(self, result: DkimResult, reason: str, failure: DkimFailure = DkimFailure.SIGNATURE) -> None:
        """Note the result, the reason and what is wrong."""
        super().__init__(reason)
        self.result = result
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed, and the signature: the tags that DKIM-Signature, ARC-Message-Signature and ARC-Seal share."""

    algorithm: str
    octets: bytes
    domain: str
    """The signing domain, in A-labels and lower case."""
    selector: str
    key_name: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was signed, and for how long: the tags that DKIM-Signature and ARC-Message-Signature share."""

    names: tuple[str, ...]
    """Of the header fields, in lower case."""
    relaxed_header: bool
    relaxed_body: bool
    body_hash: bytes
    length: int | None = None
    """Octets of the canonical body; None stands for all."""
    expires: int | None = None
    """Seconds since the epoch."""


class SignatureTags:
    """The tags of a signature, read one by one."""

    def __init__(self, body: bytes) -> None:
        """Parse a field body.

        Raises:
            SignatureFault: it is not a list of tags, or too long.
        """
        if len(body) > SIGNATURE_LIMIT:
            raise _syntax(f"the signature has {len(body)} octets; at most {SIGNATURE_LIMIT} are read")
        try:
            self.values: Mapping[str, str] = parse_tags(body)
        except TagListError as error:
            raise _syntax(str(error)) from None

    def required(self, name: str) -> str:
        """The value of a tag, which must be there and not be empty."""
        value = self.values.get(name, "")
        if not value:
            raise _syntax(f"the tag {name} is missing" if name not in self.values else f"the tag {name} is empty")
        return value

    def number(self, name: str) -> int | None:
        """The value of a tag that must be a number if it is there."""
        value = self.values.get(name)
        if value is None:
            return None
        if _NUMBER.fullmatch(value) is None:
            raise _syntax(f"the tag {name} is not a number")
        return int(value)

    def octets(self, name: str) -> bytes:
        """The octets of a tag in base64, which must be there."""
        try:
            return decode_base64(name, self.required(name))
        except TagListError as error:
            raise _syntax(str(error)) from None

    def signature(self) -> Signature:
        """Who signed, and the signature."""
        algorithm, domain, selector = self.required("a"), self.required("d"), self.required("s")
        octets = self.octets("b")
        self.number("t")
        try:
            name = key_name(selector, domain)
            return Signature(algorithm, octets, normalised(domain), selector, name)
        except ValueError as error:
            raise _syntax(str(error)) from None

    def coverage(self, canonicalisation: str) -> Coverage:
        """What was signed, and for how long.

        Args:
            canonicalisation: the value of the tag `c` if it is not there.
        """
        match = _CANONICALISATION.fullmatch(self.values.get("c", canonicalisation))
        if match is None:
            raise _syntax("the tag c is neither simple nor relaxed")
        if "h" not in self.values:
            raise _syntax("the tag h is missing")
        expires = self.number("x")
        if expires is not None and expires <= (self.number("t") or 0):
            raise _syntax("the signature expires before it was made")
        return Coverage(
            names=words(self.values["h"].lower()),
            relaxed_header=match[1] == "relaxed",
            relaxed_body=match[2] == "relaxed",
            body_hash=self.octets("bh"),
            length=self.number("l"),
            expires=expires,
        )


def _syntax(reason: str) -> SignatureFault:
    return SignatureFault(DkimResult.NEUTRAL, reason)


def check_algorithm(signature: Signature) -> None:
    """Refuse signatures of an algorithm that is not secure, or not known.

    Raises:
        SignatureFault: see above.
    """
    if signature.algorithm == "rsa-sha1":
        raise SignatureFault(DkimResult.PERMERROR, "rsa-sha1 is not secure")  # RFC 8301 §3.1
    if signature.algorithm not in ALGORITHMS.values():
        raise SignatureFault(DkimResult.NEUTRAL, f"the algorithm {signature.algorithm[:SHOWN]!a} is not known")


def check_message(header: Header, fields: SignedFields) -> None:
    """Refuse messages that readers could understand in another way than they were signed (RFC 6376 §8.15).

    Raises:
        SignatureFault: the header section is not valid or has a bare CR or LF, or there is not exactly one field From.
    """
    if ambiguity := header.ambiguity:
        raise SignatureFault(DkimResult.PERMERROR, ambiguity)
    authors = len(fields.named("from"))
    if authors != 1:
        raise SignatureFault(DkimResult.PERMERROR, f"the message has {counted(authors, 'field')} From; one is required")


class SignedFields:
    """Hashes the header fields that signatures cover."""

    def __init__(self, header: Header) -> None:
        """Arrange the fields by name."""
        self._octets = header.octets
        self.by_name: dict[str, list[HeaderField]] = {}
        """The fields in order by their name in lower case, in the order in which the names occur first."""
        for each in header.section.fields:
            self.by_name.setdefault(each.name.lower(), []).append(each)

    def named(self, name: str) -> list[HeaderField]:
        """The fields of a name, which is in lower case, in order."""
        return self.by_name.get(name, [])

    def body(self, entry: HeaderField) -> bytes:
        """The body of a field, as it was received."""
        return self._octets[entry.value : entry.end]

    def select(self, names: Iterable[str], without: HeaderField) -> list[HeaderField]:
        """The fields of a tag `h`: each occurrence of a name takes the last field that is left (RFC 6376 §5.4.2).

        Args:
            names: the names in lower case.
            without: the signature itself, which is not selected.
        """
        own = without.name.lower()
        left = {own: [each for each in self.named(own) if each is not without]}
        selected: list[HeaderField] = []
        for name in names:
            found = left.get(name)
            if found is None:
                found = left[name] = self.named(name).copy()
            if found:
                selected.append(found.pop())
        return selected

    def canonical(self, entry: HeaderField, relaxed: bool) -> bytes:
        """A field in canonical form, with its CRLF."""
        field = canonical_field(self._octets[entry.start : entry.end], relaxed)
        return field if field.endswith(b"\r\n") else field + b"\r\n"  # the end of a message without a body

    def unsigned(self, entry: HeaderField, relaxed: bool) -> bytes:
        """A signature as it was signed: in canonical form, without the value of its tag `b` and its CRLF."""
        field = self._octets[entry.start : entry.end]
        # The first tag has a colon in front of it instead of a semicolon.
        value = entry.value - entry.start
        tag = _OWN_SIGNATURE.search(b";" + field[value:])
        if tag is not None:
            start, end = tag.span(1)
            field = field[: value + start - 1] + field[value + end - 1 :]
        return canonical_field(field, relaxed).removesuffix(b"\r\n")

    def digest(self, entry: HeaderField, coverage: Coverage) -> bytes:
        """The hash of the fields that a signature covers, with itself (RFC 6376 §3.7)."""
        relaxed = coverage.relaxed_header
        fields = [self.canonical(each, relaxed) for each in self.select(coverage.names, entry)]
        return sha256(b"".join((*fields, self.unsigned(entry, relaxed)))).digest()


class BodyHash:
    """The hash of a canonical body."""

    def __init__(self) -> None:
        """Hash nothing yet."""
        self._hashed = sha256()
        self.size = 0
        """Octets of the canonical body."""

    def update(self, piece: bytes) -> None:
        """Read the next octets."""
        self.size += len(piece)
        self._hashed.update(piece)

    def digest(self) -> bytes:
        """The hash of what was read."""
        return self._hashed.digest()


class BodyHashes:
    """Hashes a body, which is fed in pieces, for any number of signatures: once for each canonical form."""

    def __init__(self) -> None:
        """Hash nothing until `add` is called."""
        self._hashes: dict[bool, tuple[BodyCanonicaliser, BodyHash]] = {}
        self._ended = False

    def add(self, relaxed: bool) -> BodyHash:
        """A hash, which several signatures may share; to be added before the body is fed."""
        if relaxed not in self._hashes:
            self._hashes[relaxed] = (BodyCanonicaliser(relaxed), BodyHash())
        return self._hashes[relaxed][1]

    def feed(self, piece: bytes) -> None:
        """Read the next octets of the body."""
        for canonicaliser, hashed in self._hashes.values():
            for octets in canonicaliser.feed(piece):
                hashed.update(octets)

    def finish(self) -> None:
        """The body has ended; more calls do nothing."""
        if not self._ended:
            self._ended = True
            for canonicaliser, hashed in self._hashes.values():
                for octets in canonicaliser.finish():
                    hashed.update(octets)


class KeyFinder:
    """Finds the keys of one message's signatures; each name is queried once."""

    def __init__(self) -> None:
        """Know no key."""
        self._answers: dict[str, Records[bytes] | ResolverError] = {}
        self._verifications = 0

    async def find(self, resolver: Resolver, signatures: Iterable[Signature]) -> None:
        """Query the keys of signatures, all at once."""
        names = [name for name in dict.fromkeys(each.key_name for each in signatures) if name not in self._answers]
        answers = await dns.settled([resolver.resolve(name, RecordType.TXT) for name in names])
        self._answers.update(zip(names, answers, strict=True))

    async def verify(self, signature: Signature, digest: bytes, identity: str = "") -> KeyRecord:
        """Verify a signature whose key was queried, and return the key. The event loop runs others between two.

        Args:
            signature: a signature.
            digest: the SHA-256 digest that it is of.
            identity: the domain of the tag `i`, if DKIM gives it a meaning.

        Raises:
            SignatureFault: it does not match, there is no key that may be used for it, or too many were verified.
        """
        name = signature.key_name
        faults: list[SignatureFault] = []
        answer = self._answers[name]
        if isinstance(answer, ResolverError):
            raise SignatureFault(DkimResult.TEMPERROR, f"DNS lookup failed: {answer}")
        for record in answer.data[:RECORDS_LIMIT]:
            try:
                key = parse_key_record(record)
                _check_use(key, signature, identity)
                await self._count()
                if key.matches(signature.octets, digest):
                    return key
            except KeyFault as error:
                failure = DkimFailure.REVOKED if isinstance(error, KeyRevoked) else DkimFailure.SIGNATURE
                faults.append(SignatureFault(DkimResult.PERMERROR, f"{name}: {error}", failure))
            else:
                faults.insert(0, SignatureFault(DkimResult.FAIL, f"the header fields do not match the key {name}"))
        raise faults[0] if faults else SignatureFault(DkimResult.PERMERROR, f"there is no key {name}")

    async def _count(self) -> None:
        if self._verifications == VERIFICATIONS_LIMIT:
            raise SignatureFault(DkimResult.PERMERROR, f"{VERIFICATIONS_LIMIT} signatures of the message were verified")
        if self._verifications:
            await pause()
        self._verifications += 1


@dataclass(frozen=True, slots=True)
class SignedContent:
    """A signature of header fields and a body, which can be verified when the body has ended."""

    signature: Signature
    coverage: Coverage
    digest: bytes
    """The SHA-256 digest of the header fields."""
    body: BodyHash

    def check(self, now: float) -> None:
        """Check what can be known without its key (RFC 6376 §6.1.3).

        Args:
            now: the time, in seconds since the epoch.

        Raises:
            SignatureFault: it has expired, or does not match the body.
        """
        length, expires = self.coverage.length, self.coverage.expires
        if expires is not None and expires < now:
            raise SignatureFault(DkimResult.POLICY, "the signature has expired")
        if length is not None and length < self.body.size:
            raise SignatureFault(DkimResult.POLICY, f"only {length} of {self.body.size} octets of the body are signed")
        if self.body.digest() != self.coverage.body_hash or (length or 0) > self.body.size:
            raise SignatureFault(DkimResult.FAIL, "the body does not match its hash", DkimFailure.BODY_HASH)


class SignatureVerifier:
    """Reads one message in pieces. A subclass defines `_read`."""

    _fields: SignedFields

    def __init__(self, first: SignatureVerifier | None = None) -> None:
        """Prepare for one message.

        Args:
            first: another verifier of the same message, whose hashes and keys are shared: it is always called first.

        Raises:
            PackageMissing: the package `cryptography` is not installed.
        """
        require_cryptography()
        self._first = first
        self._bodies: BodyHashes = BodyHashes() if first is None else first._bodies
        self._keys: KeyFinder = KeyFinder() if first is None else first._keys

    def header(self, header: Header) -> None:
        """Read the header section, before the body."""
        self._fields = SignedFields(header) if self._first is None else self._first._fields
        self._read(header, self._fields)

    def _read(self, header: Header, fields: SignedFields) -> None:
        """Read the signatures in the header section."""
        raise NotImplementedError

    def body(self, piece: bytes) -> None:
        """Read the next octets of the body."""
        if self._first is None:
            self._bodies.feed(piece)


def _check_use(key: KeyRecord, signature: Signature, identity: str) -> None:
    """Refuse a key that is for another use (RFC 6376 §3.6.1)."""
    if not key.public:
        raise KeyRevoked
    if key.algorithm != signature.algorithm:
        raise KeyFault(f"the key is for {key.algorithm}, the signature is {signature.algorithm}")
    if key.services.isdisjoint({"*", "email"}):
        raise KeyFault("the key is not for mail")
    if key.strict and identity not in {"", signature.domain}:
        raise KeyFault(f"the key is for {signature.domain} only, the signature is for {identity}")
