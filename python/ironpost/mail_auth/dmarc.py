"""DMARC: whether SPF or DKIM confirms the domain that a message names as its author's (RFC 9989).

    answer = await evaluate_dmarc(message, spf=spf, dkim=signatures, resolver=resolver)
    answer.result, answer.policy, answer.reason

Promises: `evaluate_dmarc` always returns one of the five results with its reason. At most 8 names are looked up for
each domain, each name once for a message (SECURITY R52). A query that fails makes the result `temperror`, unless
another domain passes; one of SPF or DKIM does so if its domain is aligned (SECURITY R27).
Deviates: a record of a top-level domain without the tag `psd` counts as one with `psd=y`. Otherwise all domains below
it would be aligned with each other.
Refuses: with `permerror`, a message in which readers could see authors of several domains: with an invalid header
section, with several fields From, or with one that contains an invalid address (SECURITY R49). What to do with it is
left to the caller.
Standards: RFC 9989 §4.10 (tree walk), §4.10.1 (policy discovery), §4.10.2 (alignment), §5.3 (evaluation).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ironpost.mail_auth.dmarc_record import DmarcPolicy, DmarcRecord, Psd, is_record, select_record
from ironpost.mail_auth.names import is_name, normalised
from ironpost.message.address_list import all_addresses
from ironpost.message.section import Header
from ironpost.model import dns
from ironpost.model.dns import RecordType, ResolverError
from ironpost.model.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ironpost.mail_auth.spf import SpfAnswer
    from ironpost.model.dns import Resolver

WALK_LABELS: Final = 8
"""Names that are looked up for one domain, at most (RFC 9989 §4.10)."""
FROM_OCTETS: Final = 2048
"""Octets of a field From that is read; it takes some milliseconds."""


class DmarcResult(StrEnum):
    """The results of DMARC (RFC 9989 §9.2)."""

    NONE = "none"
    """No record applies to the author's domain."""
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class SignatureResult(Protocol):
    """The result of one DKIM signature."""

    @property
    def result(self) -> str:
        """`pass` if the signature is valid."""
        ...

    @property
    def domain(self) -> str:
        """The signing domain, the tag `d`."""
        ...

    @property
    def testing(self) -> bool:
        """Whether the domain wants its mail treated as unsigned (RFC 6376 §3.6.1)."""
        ...


class Authenticated(NamedTuple):
    """A domain that was authenticated; in an answer, one that is aligned with the author's."""

    method: str
    """`spf` or `dkim`; where overrides of DMARC are chosen also `arc`, with the domain of the last sealer."""
    domain: str


@dataclass(frozen=True, slots=True)
class DmarcAnswer:
    """The result for one message."""

    result: DmarcResult
    reason: str
    """Why, in one sentence without a full stop, in ASCII."""
    author: str = ""
    """The domain of the author, in A-labels; empty if there is not exactly one."""
    policy: DmarcPolicy = DmarcPolicy.NONE
    """What the owner of the domain asks to be done with this message: `none` unless the result is `fail`."""
    alignment: tuple[Authenticated, ...] = ()
    policy_domain: str = ""
    """The domain that publishes the record."""
    record: DmarcRecord | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """The record that applies to mail of a domain."""

    domain: str
    policy_domain: str = ""
    """The domain that publishes the record; empty if there is none."""
    record: DmarcRecord | None = None


async def evaluate_dmarc(
    message: bytes | Header, *, spf: SpfAnswer | None, dkim: Iterable[SignatureResult], resolver: Resolver
) -> DmarcAnswer:
    """Evaluate the author's domain of a message.

    Args:
        message: the message as it was received, or its header section, as octets or parsed.
        spf: the result for the reverse-path, or for HELO if the reverse-path is null; None if it was not checked.
        dkim: the results of the signatures.
        resolver: answers the queries.
    """
    try:
        author = author_domain(message if isinstance(message, Header) else Header(message))
    except ValueError as error:
        return DmarcAnswer(DmarcResult.PERMERROR, str(error))
    walker, dkim = TreeWalker(resolver), tuple(dkim)
    try:
        found = await walker.discover(author)
    except ResolverError as error:
        return DmarcAnswer(DmarcResult.TEMPERROR, f"DNS lookup failed: {error}", author)
    record = found.record
    if record is None:
        return DmarcAnswer(DmarcResult.NONE, f"no DMARC record applies to {author}", author)
    result, policy = DmarcResult.NONE, DmarcPolicy.NONE
    aligned: tuple[Authenticated, ...] = ()
    try:
        if not record.applies:
            reason = f"the DMARC record of {found.policy_domain} has no valid policy"
        elif aligned := await walker.aligned(passed := with_result("pass", spf, dkim), author, record):
            result, reason = DmarcResult.PASS, f"{_shown(aligned)} confirms {author}"
        elif unknown := await walker.aligned(with_result("temperror", spf, dkim), author, record):
            result, reason = DmarcResult.TEMPERROR, f"{_shown(unknown)} could not be checked"
        else:
            result, policy = DmarcResult.FAIL, await walker.policy(found)
            why = f"{_shown(passed)} does not confirm {author}" if passed else "neither SPF nor DKIM passed"
            reason = f"{why}; {found.policy_domain} asks for {policy}"
    except ResolverError as error:
        result, reason = DmarcResult.TEMPERROR, f"DNS lookup failed: {error}"
    return DmarcAnswer(result, reason, author, policy, aligned, found.policy_domain, record)


def with_result(result: str, spf: SpfAnswer | None, dkim: Iterable[SignatureResult]) -> tuple[Authenticated, ...]:
    """The domains for which SPF or DKIM had a result, each once, in lower case.

    The signatures of a domain that is testing do not count.
    """
    listed = [("dkim", each.domain) for each in dkim if each.result == result and not each.testing]
    if spf is not None and spf.result == result:
        listed.insert(0, ("spf", spf.domain))
    found: dict[Authenticated, None] = {}
    for method, domain in listed:
        with suppress(ValueError):  # no record could be found for it
            found[Authenticated(method, normalised(domain))] = None
    return tuple(found)


def _shown(domains: Iterable[Authenticated]) -> str:
    return " and ".join(f"{each.method} of {each.domain}" for each in domains)


def author_domain(header: Header) -> str:
    """The domain of the author, in A-labels and lower case (RFC 9989 §5.3.1).

    Raises:
        ValueError: there is not exactly one; the text says why, in ASCII.
    """
    if ambiguity := header.ambiguity:
        raise ValueError(ambiguity)
    fields = header.values("From")
    if len(fields) != 1:
        raise ValueError(f"the message has {counted(len(fields), 'field')} From; one is required")
    if len(fields[0]) > FROM_OCTETS:
        raise ValueError(f"the field From has {len(fields[0])} octets; at most {FROM_OCTETS} are read")
    try:
        domains = {each.key for each in all_addresses(fields[0])}
    except ValueError as error:
        raise ValueError(f"the field From is not valid: {error}") from None
    found = {domain if domain.startswith("[") else normalised(domain) for domain in domains}
    if len(found) != 1:
        raise ValueError(f"the field From has addresses of {counted(len(found), 'domain')}; one is required")
    author = found.pop()
    if author.startswith("["):
        raise ValueError(f"the author in the field From is at {author}, which is not a domain")
    return author


def record_name(domain: str) -> str:
    """The name of the TXT record of a domain (RFC 9989 §4.5)."""
    return f"_dmarc.{domain}"


class TreeWalker:
    """Finds records, and looks up each name once (RFC 9989 §4.10)."""

    def __init__(self, resolver: Resolver) -> None:
        """Ask this resolver."""
        self._resolver = resolver
        self._records: dict[str, DmarcRecord | None] = {}
        self.problems: list[str] = []
        """What is wrong at the names that were looked up, beside `DmarcRecord.problems`; in ASCII."""

    async def discover(self, domain: str) -> Discovery:
        """Find the record that applies to a domain, which is in A-labels and lower case (RFC 9989 §4.10.1).

        Raises:
            ResolverError: a query failed.
        """
        record = await self._record(domain)
        if record is not None:
            return Discovery(domain, domain, record)
        found = await self._walk(domain)
        suffix = next((name for name, each in found.items() if each.psd is Psd.YES), "")
        publisher = next((name for name in (_organization(domain, found), suffix) if name in found), "")
        return Discovery(domain, publisher, found.get(publisher))

    async def organization(self, domain: str) -> str:
        """Return the organizational domain of a domain (RFC 9989 §4.10.2).

        Raises:
            ResolverError: a query failed.
        """
        return _organization(domain, await self._walk(domain))

    async def aligned(
        self, passed: Iterable[Authenticated], author: str, record: DmarcRecord
    ) -> tuple[Authenticated, ...]:
        """Return the authenticated domains that are aligned with the author's (RFC 9989 §4.10.2).

        Raises:
            ResolverError: a query failed, and no domain is aligned.
        """
        aligned: list[Authenticated] = []
        failure: ResolverError | None = None
        for each in passed:
            strict = record.strict_spf if each.method == "spf" else record.strict_dkim
            try:
                if each.domain == author or (not strict and await self._same_organization(each.domain, author)):
                    aligned.append(each)
            except ResolverError as error:
                failure = error
        if failure is not None and not aligned:
            raise failure
        return tuple(aligned)

    async def _same_organization(self, domain: str, author: str) -> bool:
        if domain.rpartition(".")[2] != author.rpartition(".")[2]:
            return False
        return await self.organization(domain) == await self.organization(author)

    async def policy(self, found: Discovery) -> DmarcPolicy:
        """What to do with mail of the domain that fails, after the tag `t`.

        Raises:
            ResolverError: the query whether the domain exists failed.
        """
        record = found.record
        if record is None:
            return DmarcPolicy.NONE
        policy = record.policy
        if found.policy_domain != found.domain:
            policy = record.subdomains
            if record.nonexistent is not policy and not await self._exists(found.domain):
                policy = record.nonexistent
        if record.testing:
            return DmarcPolicy.QUARANTINE if policy is DmarcPolicy.REJECT else DmarcPolicy.NONE
        return policy

    async def _exists(self, domain: str) -> bool:
        return (await self._resolver.resolve(domain, RecordType.A)).exists

    async def _walk(self, domain: str) -> dict[str, DmarcRecord]:
        """The records of a domain and of those above it, the longest name first, up to one that ends the walk."""
        found = {}
        labels = domain.split(".")
        names = [domain]
        names += [".".join(labels[at:]) for at in range(max(1, len(labels) - WALK_LABELS + 1), len(labels))]
        for name in names:
            record = await self._record(name)
            if record is not None:
                found[name] = record
                if record.psd is not Psd.UNKNOWN:
                    break
        return found

    async def _record(self, name: str) -> DmarcRecord | None:
        if name not in self._records:
            record = None
            if is_name(at := record_name(name)):
                published = (await dns.txt(self._resolver, at)).data
                record = select_record(published)
                if record is None and any(map(is_record, published)):
                    self.problems.append(f"{sum(map(is_record, published))} DMARC records at {at}; none of them counts")
                elif record is None:
                    self.problems += dns.without_version(at, published, "v=DMARC1;")
            if record is not None and record.psd is Psd.UNKNOWN and "." not in name:
                record = replace(record, psd=Psd.YES)
            self._records[name] = record
        return self._records[name]


def _organization(domain: str, found: dict[str, DmarcRecord]) -> str:
    """Choose the organizational domain from the records of a walk (RFC 9989 §4.10.2)."""
    for name, record in found.items():
        if record.psd is Psd.YES and name != domain:
            below = domain.removesuffix(f".{name}").rpartition(".")[2]
            return f"{below}.{name}"
    return min(found, key=len, default=domain)
