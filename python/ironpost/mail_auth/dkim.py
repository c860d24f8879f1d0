"""DKIM: whether the signatures of a message are valid (RFC 6376).

    for answer in await verify_dkim(message, resolver=resolver, now=now):
        answer.result, answer.domain, answer.reason

Promises: each signature gets one of the results with its reason. The first five signatures are verified; the reason of
the last one says how many more there are (SECURITY R23). Their keys are queried all at once. The octets are verified as
they were received (SECURITY R50). A query that fails makes the result `temperror` (SECURITY R27). The caller limits the
time: cancelling is safe.
Refuses: as `policy`, a signature that expired or does not cover the whole body; as `permerror`, keys of less than 1,024
or more than 4,096 bits, rsa-sha1, a message without exactly one field From, and one whose header section is not valid,
as its reader could see other fields (SECURITY R49).
Standards: RFC 6376 §3.5, §6.1; RFC 8301; RFC 8463; RFC 8601 §2.7.1 (results); RFC 8616 §5 (U-labels).
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.mail_auth.names import is_within, normalised
from ironpost.mail_auth.signature import (
    Coverage,
    DkimFailure,
    DkimResult,
    KeyFinder,
    Signature,
    SignatureFault,
    SignatureTags,
    SignatureVerifier,
    SignedContent,
    SignedFields,
    check_algorithm,
    check_message,
)
from ironpost.mail_auth.tag_list import SHOWN, words
from ironpost.message.section import split
from ironpost.model.text import counted

if TYPE_CHECKING:
    from ironpost.message.section import Header
    from ironpost.model.dns import Resolver
    from ironpost.wire import HeaderField

NAME: Final = "DKIM-Signature"
SIGNATURES_LIMIT: Final = 5
"""Signatures of a message that are verified (SECURITY R23)."""
B_OCTETS: Final = 6
"""Octets of `DkimAnswer.signature`, in base64 eight characters (RFC 8601 §2.7.1)."""


@dataclass(frozen=True, slots=True)
class DkimAnswer:
    """The result for one signature."""

    result: DkimResult
    reason: str
    """Why, in one sentence without a full stop, in ASCII."""
    domain: str = ""
    """The signing domain, the tag `d`, in A-labels and lower case; empty if the signature has a syntax error."""
    selector: str = ""
    algorithm: str = ""
    identity: str = ""
    """The tag `i`, on whose behalf the domain signs: an address, or `@domain`."""
    signature: str = ""
    """The first characters of the tag `b`, which tell signatures apart (RFC 8601 §2.7.1)."""
    testing: bool = False
    """The signature matches, but the domain is testing (`t=y` of its key) and wants the mail treated as unsigned."""
    failure: DkimFailure = DkimFailure.SIGNATURE
    """What is wrong, if the signature is not valid."""
    unmatched: tuple[str, ...] = ()
    """If the header fields do not match: the names of those that are signed, the tag `h`, in lower case."""


_UNREAD: Final = DkimAnswer(DkimResult.NONE, "")
"""What is known of a signature that cannot be parsed."""


class _Pending(NamedTuple):
    """A signature that is verified when the body has ended."""

    answer: DkimAnswer
    """What is known, without a result."""
    content: SignedContent
    identity: str
    """The domain of the tag `i`."""


class DkimVerifier(SignatureVerifier):
    """Verifies the signatures of one message that is read in pieces."""

    def __init__(self, first: SignatureVerifier | None = None) -> None:
        """See `SignatureVerifier`."""
        super().__init__(first)
        self._signatures: list[_Pending | DkimAnswer] = []
        self._not_verified = 0

    def _read(self, header: Header, fields: SignedFields) -> None:
        found = fields.named(NAME.lower())
        self._not_verified = len(found[SIGNATURES_LIMIT:])
        self._signatures = [self._parsed(header, fields, entry) for entry in found[:SIGNATURES_LIMIT]]

    async def finish(self, resolver: Resolver, now: float) -> tuple[DkimAnswer, ...]:
        """The results, in the order of the signatures in the message; empty if it has none.

        Args:
            resolver: answers the queries for keys.
            now: the time, in seconds since the epoch.
        """
        self._bodies.finish()
        checked = [_checked(each, now) for each in self._signatures]
        await self._keys.find(resolver, [each.content.signature for each in checked if isinstance(each, _Pending)])
        answers = [await _verified(each, self._keys) if isinstance(each, _Pending) else each for each in checked]
        if self._not_verified:
            more = f"{counted(self._not_verified, 'more signature')} not verified"
            answers[-1] = replace(answers[-1], reason=f"{answers[-1].reason}; {more}")
        return tuple(answers)

    def _parsed(self, header: Header, fields: SignedFields, entry: HeaderField) -> _Pending | DkimAnswer:
        """Parse a signature, and hash the header fields that it covers."""
        answer = _UNREAD
        try:
            tags = SignatureTags(fields.body(entry))
            signature = tags.signature()
            identity = tags.values.get("i", f"@{signature.domain}")
            shown = b64encode(signature.octets[:B_OCTETS]).decode()
            answer = DkimAnswer(
                DkimResult.NONE, "", signature.domain, signature.selector, signature.algorithm, identity, shown
            )
            coverage = _coverage(tags, signature)
            domain = _identity_domain(identity, signature)
            check_message(header, fields)
        except SignatureFault as fault:
            return replace(answer, result=fault.result, reason=str(fault), failure=fault.failure)
        body = self._bodies.add(coverage.relaxed_body)
        return _Pending(answer, SignedContent(signature, coverage, fields.digest(entry, coverage), body), domain)


def _coverage(tags: SignatureTags, signature: Signature) -> Coverage:
    """What a signature covers, after the checks of RFC 6376 §6.1.1."""
    if tags.required("v") != "1":
        raise SignatureFault(DkimResult.NEUTRAL, f"the version {tags.values['v'][:SHOWN]!a} is not known")
    check_algorithm(signature)
    if "dns/txt" not in words(tags.values.get("q", "dns/txt")):
        raise SignatureFault(DkimResult.NEUTRAL, "the key is not in DNS (tag q)")
    coverage = tags.coverage("simple/simple")
    if "from" not in coverage.names:
        raise SignatureFault(DkimResult.PERMERROR, "the field From is not signed")
    return coverage


def _identity_domain(identity: str, signature: Signature) -> str:
    """The domain of the tag `i`, in A-labels and lower case."""
    _, at, domain = identity.rpartition("@")
    try:
        domain = normalised(domain)
    except ValueError as error:
        raise SignatureFault(DkimResult.NEUTRAL, f"the tag i is invalid: {error}") from None
    if not at:
        raise SignatureFault(DkimResult.NEUTRAL, "the tag i has no @")
    if not is_within(domain, signature.domain):
        raise SignatureFault(DkimResult.PERMERROR, f"{domain} of the tag i is not within {signature.domain}")
    return domain


def _checked(pending: _Pending | DkimAnswer, now: float) -> _Pending | DkimAnswer:
    """The result of a signature, if it can be known without its key."""
    if isinstance(pending, _Pending):
        try:
            pending.content.check(now)
        except SignatureFault as fault:
            return replace(pending.answer, result=fault.result, reason=str(fault), failure=fault.failure)
    return pending


async def _verified(pending: _Pending, keys: KeyFinder) -> DkimAnswer:
    """The result of a signature whose key was queried."""
    try:
        key = await keys.verify(pending.content.signature, pending.content.digest, pending.identity)
    except SignatureFault as fault:
        unmatched = pending.content.coverage.names if fault.result is DkimResult.FAIL else ()
        return replace(
            pending.answer, result=fault.result, reason=str(fault), failure=fault.failure, unmatched=unmatched
        )
    reason = f"signed with the key {pending.content.signature.key_name}"
    return replace(pending.answer, result=DkimResult.PASS, reason=reason, testing=key.testing)


async def verify_dkim(message: bytes, *, resolver: Resolver, now: float) -> tuple[DkimAnswer, ...]:
    """Verify the signatures of a message.

    Args:
        message: the message as it was received; its lines end in CRLF.
        resolver: answers the queries for keys.
        now: the time, in seconds since the epoch.

    Returns:
        The results, in the order of the signatures in the message; empty if it has none.

    Raises:
        PackageMissing: the package `cryptography` is not installed.
    """
    verifier = DkimVerifier()
    header, body = split(message)
    verifier.header(header)
    verifier.body(body)
    return await verifier.finish(resolver, now)
