"""ARC: what intermediaries, such as mailing lists, found when they received a message, and that it is as they sent it.

    answer = await verify_arc(message, resolver=resolver, now=now)
    answer.result, answer.sealers, answer.reason

Promises: `verify_arc` always returns one of the three results with its reason. At most 50 sets are verified, and the
verification ends with the first that is not valid; the header section is hashed once, however many seals cover it.
A valid chain names its sealers only if the last one signed From, the author that a reader sees (SECURITY R49).
Refuses: nothing; a chain that is not valid is `fail`, and so is that of a message without exactly one field From or
with an invalid header section. Treat `fail` as if there were no chain. ironpost does not seal.
Standards: RFC 8617 §4.1 (fields), §4.2.1 (instances), §5.1.1 (what a seal covers), §5.2 (validation).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from ironpost.mail_auth.signature import (
    DkimResult,
    Signature,
    SignatureFault,
    SignatureTags,
    SignatureVerifier,
    SignedContent,
    SignedFields,
    check_algorithm,
    check_message,
)
from ironpost.mail_auth.tag_list import SHOWN
from ironpost.message.address_list import tokens
from ironpost.message.section import split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ironpost.message.section import Header
    from ironpost.model.dns import Resolver
    from ironpost.wire import HeaderField

RESULTS: Final = "ARC-Authentication-Results"
MESSAGE_SIGNATURE: Final = "ARC-Message-Signature"
SEAL: Final = "ARC-Seal"
SETS_LIMIT: Final = 50
"""Sets that a chain may have (RFC 8617 §4.2.1)."""

_INSTANCE: Final = re.compile(rb"i=([0-9]{1,2})")
_INSTANCE_OCTETS: Final = 1024
"""Octets of ARC-Authentication-Results in which its instance must be; comments may precede it."""


class ArcResult(StrEnum):
    """The status of a chain (RFC 8617 §4.4)."""

    NONE = "none"
    """The message has no chain."""
    PASS = "pass"  # noqa: S105
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class ArcAnswer:
    """The result for one message."""

    result: ArcResult
    reason: str
    """Why, in one sentence without a full stop, in ASCII."""
    sealers: tuple[str, ...] = ()
    """The domains of the seals, the first sealer first, in A-labels and lower case; empty unless the result is `pass`
    and the last sealer signed the field From."""
    temporary: bool = False
    """The result is `fail` only because a query failed (SECURITY R27)."""


class _Tagged(NamedTuple):
    """A signature, which was parsed once."""

    entry: HeaderField
    tags: SignatureTags


_Field = TypeVar("_Field")


class _Set(NamedTuple):
    """The three fields of one instance."""

    results: HeaderField
    message_signature: _Tagged
    seal: _Tagged


class _Seal(NamedTuple):
    """A seal, and the digest of the fields that it covers."""

    signature: Signature
    digest: bytes


class ArcVerifier(SignatureVerifier):
    """Verifies the chain of one message that is read in pieces."""

    def __init__(self, first: SignatureVerifier | None = None) -> None:
        """See `SignatureVerifier`."""
        super().__init__(first)
        self._content: SignedContent | None = None
        self._seals: list[_Seal] = []
        self._answer = ArcAnswer(ArcResult.NONE, "the message has no chain")

    def _read(self, header: Header, fields: SignedFields) -> None:
        try:
            sets = _sets(fields)
            if not sets:
                return
            check_message(header, fields)
            self._seals = _seals(fields, sets)
            with _named(f"{MESSAGE_SIGNATURE} with i={len(sets)}"):
                self._content = self._read_content(fields, sets[-1].message_signature)
        except SignatureFault as fault:
            self._answer = ArcAnswer(ArcResult.FAIL, str(fault))

    async def finish(self, resolver: Resolver, now: float) -> ArcAnswer:
        """The result.

        Args:
            resolver: answers the queries for keys.
            now: the time, in seconds since the epoch.
        """
        self._bodies.finish()
        if self._content is None:
            return self._answer
        try:
            with _named(f"{MESSAGE_SIGNATURE} with i={len(self._seals)}"):
                self._content.check(now)
                await self._verify(resolver, self._content.signature, self._content.digest)
            for instance, seal in reversed([*enumerate(self._seals, 1)]):
                with _named(f"{SEAL} with i={instance}"):
                    await self._verify(resolver, seal.signature, seal.digest)
        except SignatureFault as fault:
            return ArcAnswer(ArcResult.FAIL, str(fault), temporary=fault.result is DkimResult.TEMPERROR)
        sealers = tuple(seal.signature.domain for seal in self._seals)
        reason = f"sealed by {', '.join(sealers)}"
        if "from" not in self._content.coverage.names:
            return ArcAnswer(ArcResult.PASS, f"{reason}, without the field From")
        return ArcAnswer(ArcResult.PASS, reason, sealers)

    async def _verify(self, resolver: Resolver, signature: Signature, digest: bytes) -> None:
        await self._keys.find(resolver, [signature])  # one by one, because the first that is not valid is the last
        await self._keys.verify(signature, digest)

    def _read_content(self, fields: SignedFields, last: _Tagged) -> SignedContent:
        """Read the last signature of the message, and hash the header fields that it covers."""
        entry, tags = last
        signature = tags.signature()
        check_algorithm(signature)
        coverage = tags.coverage("relaxed/relaxed")
        if SEAL.lower() in coverage.names:
            raise _invalid(f"{SEAL} is signed")
        body = self._bodies.add(coverage.relaxed_body)
        return SignedContent(signature, coverage, fields.digest(entry, coverage), body)


def _sets(fields: SignedFields) -> list[_Set]:
    """The sets in the order of their instances, which must be complete; empty if there is no field of ARC."""
    found = [fields.named(name.lower()) for name in (RESULTS, MESSAGE_SIGNATURE, SEAL)]
    for name, entries in zip((RESULTS, MESSAGE_SIGNATURE, SEAL), found, strict=True):
        if len(entries) > SETS_LIMIT:
            raise _invalid(f"there are more than {SETS_LIMIT} fields {name}")
    results, message_signatures, seals = found
    if not len(results) == len(message_signatures) == len(seals):
        raise _invalid("a set is missing or not complete")
    in_order = zip(
        _by_instance(RESULTS, ((_instance_of_results(fields.body(entry)), entry) for entry in results)),
        _by_instance(MESSAGE_SIGNATURE, (_parsed(fields, entry) for entry in message_signatures)),
        _by_instance(SEAL, (_parsed(fields, entry) for entry in seals)),
        strict=True,
    )
    return [_Set(*each) for each in in_order]


def _by_instance(name: str, numbered: Iterable[tuple[int, _Field]]) -> list[_Field]:
    """The fields of a name in the order of their instances, of which none may be missing."""
    found: dict[int, _Field] = {}
    with _named(name):
        for instance, each in numbered:
            if instance in found:
                raise _invalid(f"the instance {instance} occurs twice")
            found[instance] = each
    if max(found, default=0) != len(found):
        raise _invalid("a set is missing or not complete")
    return [found[instance] for instance in sorted(found)]


def _parsed(fields: SignedFields, entry: HeaderField) -> tuple[int, _Tagged]:
    """The instance of a signature, and its tags."""
    tags = SignatureTags(fields.body(entry))
    return _instance(b"i=" + tags.required("i").encode()), _Tagged(entry, tags)


def _instance_of_results(body: bytes) -> int:
    """The instance of a field ARC-Authentication-Results (RFC 8617 §4.1.1)."""
    start = list(islice(tokens(body[:_INSTANCE_OCTETS]), 4))
    end = next((at for at, token in enumerate(start) if token.kind == ";"), 0)
    return _instance(b"".join(token.octets for token in start[:end]))


def _instance(tag: bytes) -> int:
    """The instance that a tag `i` names (RFC 8617 §4.2.1)."""
    match = _INSTANCE.fullmatch(tag)
    if match is None or not 1 <= int(match[1]) <= SETS_LIMIT:
        raise _invalid(f"the instance is not a number from 1 to {SETS_LIMIT}")
    return int(match[1])


def _seals(fields: SignedFields, sets: list[_Set]) -> list[_Seal]:
    """The seals of the sets; each covers all sets up to its own (RFC 8617 §5.1.1)."""
    seals: list[_Seal] = []
    hashed = sha256()
    for instance, each in enumerate(sets, 1):
        with _named(f"{SEAL} with i={instance}"):
            signature = _seal(each.seal.tags, "none" if instance == 1 else "pass")
        hashed.update(fields.canonical(each.results, relaxed=True))
        hashed.update(fields.canonical(each.message_signature.entry, relaxed=True))
        own = hashed.copy()
        own.update(fields.unsigned(each.seal.entry, relaxed=True))
        seals.append(_Seal(signature, own.digest()))
        hashed.update(fields.canonical(each.seal.entry, relaxed=True))
    return seals


def _seal(tags: SignatureTags, status: str) -> Signature:
    """The signature of a seal that must say this of the chain before it (RFC 8617 §4.1.3, §5.2)."""
    if "h" in tags.values:
        raise _invalid("the tag h is not allowed")
    if tags.required("cv") != status:
        raise _invalid(f"the tag cv is {tags.values['cv'][:SHOWN]!a}, not {status}")
    signature = tags.signature()
    check_algorithm(signature)
    return signature


def _invalid(reason: str) -> SignatureFault:
    return SignatureFault(DkimResult.PERMERROR, reason)


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Name the field in the reason of a fault."""
    try:
        yield
    except SignatureFault as fault:
        raise SignatureFault(fault.result, f"{field}: {fault}") from None


async def verify_arc(message: bytes, *, resolver: Resolver, now: float) -> ArcAnswer:
    """Verify the chain of a message.

    Args:
        message: the message as it was received; its lines end in CRLF.
        resolver: answers the queries for keys.
        now: the time, in seconds since the epoch.

    Raises:
        PackageMissing: the package `cryptography` is not installed.
    """
    verifier = ArcVerifier()
    header, body = split(message)
    verifier.header(header)
    verifier.body(body)
    return await verifier.finish(resolver, now)
