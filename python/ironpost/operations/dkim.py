"""Checks of DKIM: the key that a domain publishes, and the signatures of a message (RFC 6376).

Promises: DNS is asked now, through the resolver of the server; nothing is changed. The time is not limited as in the
server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth import DkimResult, KeyFault, key_name, parse_key_record, verify_dkim
from ironpost.mail_auth.keys import RSA_BITS_RECOMMENDED
from ironpost.message.section import Header
from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.operations.operation import Operation, OperationError, Reason, Scope

if TYPE_CHECKING:
    from ironpost.operations.context import DataDirectory


class DkimKeyResult(Enum):
    """The result for a key."""

    GOOD = "good"
    ABSENT = "no key"
    FAULTY = "faulty"
    UNKNOWN = "unknown"
    """DNS does not answer now."""


@dataclass(frozen=True, slots=True)
class DkimKeyRequest:
    """The key to check."""

    domain: str
    selector: str


@dataclass(frozen=True, slots=True)
class DkimKeyCheck:
    """What was found, and what is wrong with it."""

    name: str
    """Where the key is published, in A-labels."""
    result: DkimKeyResult
    records: tuple[str, ...] = ()
    algorithm: str = ""
    """`rsa-sha256` or `ed25519-sha256`; empty without a valid key."""
    bits: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DkimVerifyRequest:
    """The message whose signatures are verified."""

    message: bytes


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """The result for one signature."""

    result: str
    """A `DkimResult`."""
    domain: str
    """The signing domain, in A-labels; empty if the signature has a syntax error."""
    selector: str
    algorithm: str
    reason: str
    testing: bool
    """The domain is testing: DMARC treats its mail as unsigned."""
    unmatched: tuple[str, ...] = ()
    """The header fields that were signed, if they do not match: one of them was changed."""


@dataclass(frozen=True, slots=True)
class DkimVerification:
    """The result for a message."""

    result: DkimResult
    """`pass` if a signature is valid, else that of the first one; `none` without signatures."""
    signatures: tuple[SignatureCheck, ...]
    fault: str = ""
    """What is wrong with the header section, in which signatures may be hidden; empty if nothing is."""


async def _check_key(data: DataDirectory, request: DkimKeyRequest) -> DkimKeyCheck:
    try:
        name = key_name(request.selector, request.domain)
    except ValueError as error:
        raise OperationError(Reason.INVALID, str(error)) from None
    try:
        records = (await dns.txt(data.resolver(), name)).data
    except ResolverError as error:
        return DkimKeyCheck(name, DkimKeyResult.UNKNOWN, problems=(f"DNS lookup failed: {error}",))
    texts = tuple(each.decode("ascii", "backslashreplace") for each in records)
    if not records:
        selector, suffix, _ = request.selector.partition("._domainkey")
        problems = [f"the selector is {selector}, without {suffix}"] if suffix else []
        return DkimKeyCheck(name, DkimKeyResult.ABSENT, problems=tuple(problems))
    problems = [] if len(records) == 1 else [f"{len(records)} records; a verifier may use any of them"]
    algorithm, bits = "", 0
    try:
        key = parse_key_record(records[0])
        algorithm, bits = key.algorithm, key.bits
    except KeyFault as error:
        problems.append(str(error))
    else:
        if key.services.isdisjoint({"*", "email"}):
            problems.append("the key is not for mail (tag s)")
        if key.testing:
            problems.append("the domain is testing: its mail is to be treated as if it were not signed (tag t)")
        if algorithm == "rsa-sha256" and bits < RSA_BITS_RECOMMENDED:
            problems.append(f"the RSA key has {bits} bits; {RSA_BITS_RECOMMENDED} are recommended")
    return DkimKeyCheck(
        name, DkimKeyResult.FAULTY if problems else DkimKeyResult.GOOD, texts, algorithm, bits, tuple(problems)
    )


async def verified(data: DataDirectory, message: bytes) -> DkimVerification:
    """Verify the signatures of a message."""
    answers = await verify_dkim(message, resolver=data.resolver(), now=time.time())
    signatures = tuple(
        SignatureCheck(
            each.result.value,
            each.domain,
            each.selector,
            each.algorithm,
            each.reason,
            each.testing,
            tuple(dict.fromkeys(each.unmatched)),
        )
        for each in answers
    )
    results = [each.result for each in answers]
    result = DkimResult.PASS if DkimResult.PASS in results else next(iter(results), DkimResult.NONE)
    return DkimVerification(result, signatures, Header(message).ambiguity)


async def _verify(data: DataDirectory, request: DkimVerifyRequest) -> DkimVerification:
    return await verified(data, request.message)


CHECK: Final = Operation("dkim.check", DkimKeyRequest, DkimKeyCheck, Scope.LOCAL, _check_key)
VERIFY: Final = Operation("dkim.verify", DkimVerifyRequest, DkimVerification, Scope.LOCAL, _verify)
