"""SPF: whether the domain of a sender allows a client to send its mail (RFC 7208).

    answer = await check_spf(ip="192.0.2.1", helo="mx.example", sender="a@b.example", resolver=resolver, now=now)
    answer.result, answer.reason

Promises: `check_spf` always returns one of the seven results with its reason. At most 10 terms that need DNS, 2 of
their queries without an answer, 10 exchangers and 10 names of the client are looked at (SECURITY R23); a query is sent
once, and each address in an answer is parsed once. A query that fails makes the result `temperror`. The time is limited
by the caller: cancelling is safe.
Refuses: nothing; what is wrong in DNS is `permerror`.
Standards: RFC 7208 §2.4 (identities), §4 (evaluation), §5.5 (names of the client), §6.2 (explanations); RFC 8616 §4
(U-labels, and local parts that are not ASCII).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ironpost.mail_auth.names import is_name, is_within, normalised
from ironpost.mail_auth.spf_macros import SpfError, parse_explanation
from ironpost.mail_auth.spf_record import RECORD_LIMIT, Directive, Mechanism, SpfResult, is_record, select_record
from ironpost.model.dns import Records, RecordType, ResolverError
from ironpost.model.network import parse_ip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ironpost.mail_auth.spf_macros import MacroString
    from ironpost.mail_auth.spf_record import SpfRecord
    from ironpost.model.dns import Resolver
    from ironpost.model.network import IPAddress

LOOKUP_LIMIT: Final = 10
"""Terms that need DNS (RFC 7208 §4.6.4)."""
VOID_LIMIT: Final = 2
"""Queries of terms without an answer (RFC 7208 §4.6.4)."""
NAMES_LIMIT: Final = 10
"""Exchangers of a domain, and names of a client, whose addresses are looked up (RFC 7208 §4.6.4)."""
EXPLANATION_LIMIT: Final = 400
"""Characters of an explanation, which must fit into a reply; what is longer is cut off."""
RECORDS_LIMIT: Final = 20
"""Records in an answer; there are fewer, unless a domain has several by mistake."""

_NO_SUCH_NAME: Final[Records[Any]] = Records(False)


@dataclass(frozen=True, slots=True)
class SpfAnswer:
    """The result of a check."""

    result: SpfResult
    reason: str
    """Why, in one sentence without a full stop; text from DNS in it is ASCII."""
    domain: str
    """The domain that was checked, in A-labels if it has them."""
    identity: str
    """Where the domain is from: `mailfrom` or `helo` (RFC 7208 §2.3, §2.4)."""
    explanation: str = ""
    """For `fail`, the text that the domain wants its senders to see; in printable ASCII, written by a third party."""
    lookups: int = 0
    """Number of terms that needed DNS."""
    queries: int = 0
    """Number of DNS queries that were answered."""
    records: tuple[tuple[str, bytes], ...] = ()
    """The first SPF records that were read, each with its domain, in the order of the queries."""


async def check_spf(
    *, ip: str, helo: str, sender: str, resolver: Resolver, now: float, receiver: str = "unknown"
) -> SpfAnswer:
    """Check the domain of the reverse-path, or that of HELO if the reverse-path is null (RFC 7208 §2.4).

    Args:
        ip: the address of the client; its zone is ignored, and one that maps an IPv4 address counts as that.
        helo: the domain or address literal in HELO or EHLO.
        sender: the reverse-path without angle brackets; empty if it is null.
        resolver: answers the queries.
        now: the time, in seconds since the epoch, for explanations.
        receiver: the name of this host, for explanations.

    Raises:
        ValueError: `ip` is not an IP address.
    """
    client = parse_ip(ip)
    if client is None:
        raise ValueError(f"{ip!a} is not an IP address")
    identity = "mailfrom" if sender else "helo"
    local_part, _, domain = (sender or helo).rpartition("@")
    try:
        domain = normalised(domain)
    except ValueError as error:
        return SpfAnswer(SpfResult.NONE, str(error), domain, identity)
    check = _Check(client, local_part or "postmaster", domain, helo, resolver, now, receiver)
    result, reason, explanation = SpfResult.NONE, "", ""
    try:
        result, reason, explanation = await check.run()
    except SpfError as error:
        result, reason = SpfResult.PERMERROR, str(error)
    except ResolverError as error:
        result, reason = SpfResult.TEMPERROR, f"DNS lookup failed: {error}"
    records = tuple(islice(check.records(), RECORDS_LIMIT))
    return SpfAnswer(result, reason, domain, identity, explanation, check.lookups, len(check.answers), records)


class _Check:
    """One evaluation, with the counts of its limits, which include and redirect share."""

    def __init__(
        self,
        client: IPAddress,
        local_part: str,
        domain: str,
        helo: str,
        resolver: Resolver,
        now: float,
        receiver: str,
    ) -> None:
        self.lookups = 0
        self.answers: dict[tuple[str, RecordType], Records[Any]] = {}
        self._failures: dict[tuple[str, RecordType], ResolverError] = {}
        self._numbers: dict[str, tuple[int, ...]] = {}
        """The addresses of hosts, of the client's version of IP; an answer may have thousands."""
        self._voids = 0
        self._client = client
        self._local_part = local_part
        self._domain = domain
        self._helo = helo
        self._resolver = resolver
        self._now = now
        self._receiver = receiver
        self._address_type = RecordType.A if client.version == 4 else RecordType.AAAA

    def records(self) -> Iterator[tuple[str, bytes]]:
        """The SPF records that were read, each with its domain."""
        for (name, kind), answer in self.answers.items():
            if kind is RecordType.TXT:
                yield from ((name, each[:RECORD_LIMIT]) for each in answer.data if is_record(each))

    async def run(self) -> tuple[SpfResult, str, str]:
        """Check the domain; the result, its reason and its explanation."""
        if "." not in self._domain:
            return SpfResult.NONE, f"{self._domain} is a single label", ""
        record = await self._record(self._domain)
        if record is None:
            return SpfResult.NONE, f"{self._domain} has no SPF record", ""
        record, domain, directive = await self._evaluate(record, self._domain)
        if directive is None:
            return SpfResult.NEUTRAL, f"{self._client} matches nothing in the record of {domain}", ""
        reason = f"{self._client} matches {directive.text} of {domain}"
        explanation = ""
        if directive.result is SpfResult.FAIL and record.explanation is not None:
            explanation = await self._explain(record.explanation, domain)
        return directive.result, reason, explanation

    async def _evaluate(self, record: SpfRecord, domain: str) -> tuple[SpfRecord, str, Directive | None]:
        """The first directive that matches, with the record and the domain that has it, after redirects."""
        while True:
            for directive in record.directives:
                if await self._matches(directive, domain):
                    return record, domain, directive
            if record.redirect is None:
                return record, domain, None
            self._count_lookup()
            name = await self._name(record.redirect, domain)
            record, domain = await self._referred(name, domain), name

    async def _matches(self, directive: Directive, domain: str) -> bool:
        mechanism = directive.mechanism
        if mechanism is Mechanism.ALL:
            return True
        if directive.network is not None:
            return self._client in directive.network
        self._count_lookup()
        name = domain if directive.target is None else await self._name(directive.target, domain)
        if not name.isascii():
            return False  # RFC 8616 §4: by a local part
        if mechanism is Mechanism.INCLUDE:
            *_, match = await self._evaluate(await self._referred(name, domain), name)
            return match is not None and match.result is SpfResult.PASS
        if mechanism is Mechanism.PTR:
            return any(is_within(each, name) for each in await self._client_names())
        if mechanism is Mechanism.EXISTS:
            return bool((await self._query(name, RecordType.A)).data)
        if mechanism is Mechanism.A:
            return await self._has_address(directive, name)
        exchangers = (await self._query(name, RecordType.MX)).data
        if len(exchangers) > NAMES_LIMIT:
            raise SpfError(f"{name} has {len(exchangers)} exchangers; only {NAMES_LIMIT} are allowed")
        for each in exchangers:
            if await self._has_address(directive, each.host):
                return True
        return False

    async def _referred(self, name: str, domain: str) -> SpfRecord:
        """The record of a name that the record of `domain` refers to; there must be one."""
        record = await self._record(name)
        if record is None:
            raise SpfError(f"{domain} refers to {name!a}, which has no SPF record")
        return record

    async def _record(self, domain: str) -> SpfRecord | None:
        answer = await self._query(domain, RecordType.TXT)
        try:
            return select_record(answer.data)
        except SpfError as error:
            raise SpfError(f"{domain}: {error}") from None

    def _count_lookup(self) -> None:
        if self.lookups == LOOKUP_LIMIT:
            raise SpfError(f"more than {LOOKUP_LIMIT} terms need DNS")
        self.lookups += 1

    async def _has_address(self, directive: Directive, host: str) -> bool:
        prefix = directive.prefix_v4 if self._client.version == 4 else directive.prefix_v6
        shift = self._client.max_prefixlen - prefix
        network = int(self._client) >> shift
        return any(each >> shift == network for each in await self._addresses(host))

    async def _addresses(self, host: str) -> tuple[int, ...]:
        """The addresses of a host as numbers."""
        answer = await self._query(host, self._address_type)
        key = host.lower()
        if key not in self._numbers:
            self._numbers[key] = tuple(int(ip_address(each)) for each in answer.data)
        return self._numbers[key]

    async def _client_names(self) -> tuple[str, ...]:
        """The names of the client whose addresses include its address (RFC 7208 §5.5)."""
        try:
            names = (await self._query(self._client.reverse_pointer, RecordType.PTR)).data
        except ResolverError:
            return ()
        found = []
        for name in names[:NAMES_LIMIT]:
            try:
                if int(self._client) in await self._addresses(name):
                    found.append(name)
            except ResolverError:
                continue
        return tuple(found)

    @cached_property
    def _values(self) -> dict[str, str]:
        """The values of the letters that are the same everywhere (RFC 7208 §7.2)."""
        client, v4 = str(self._client), self._client.version == 4
        return {
            "s": f"{self._local_part}@{self._domain}",
            "l": self._local_part,
            "o": self._domain,
            "i": client if v4 else ".".join(self._client.exploded.replace(":", "").upper()),
            "h": self._helo,
            "v": "in-addr" if v4 else "ip6",
            "c": client,
            "r": self._receiver,
            "t": str(int(self._now)),
        }

    async def _macro_values(self, text: MacroString, domain: str) -> dict[str, str]:
        if not text.letters:
            return {}
        values = {**self._values, "d": domain}
        if "p" in text.letters:
            names = await self._client_names()
            inside = [name for name in names if is_within(name, domain)]
            same = [name for name in inside if len(name) == len(domain)]
            values["p"] = next(iter((*same, *inside, *names)), "unknown")
        return values

    async def _name(self, target: MacroString, domain: str) -> str:
        return target.expand_name(await self._macro_values(target, domain))

    async def _explain(self, target: MacroString, domain: str) -> str:
        """The explanation of a fail; empty if there is none in ASCII (RFC 7208 §6.2)."""
        try:
            answer = await self._query(await self._name(target, domain), RecordType.TXT)
            if len(answer.data) != 1:
                return ""
            text = parse_explanation(answer.data[0].decode("ascii"))
            explanation = text.expand(await self._macro_values(text, domain), EXPLANATION_LIMIT)
        except (ResolverError, SpfError, UnicodeDecodeError):
            return ""
        return explanation if explanation.isascii() and explanation.isprintable() else ""

    async def _query(self, name: str, kind: RecordType) -> Records[Any]:
        """Send a query, once in this evaluation. A name that DNS cannot hold does not exist."""
        key = (name.lower(), kind)
        answer = self.answers.get(key)
        if answer is None:
            if key in self._failures:
                raise self._failures[key]
            if not is_name(name):
                return _NO_SUCH_NAME
            try:
                answer = self.answers[key] = await self._resolver.resolve(name, kind)
            except ResolverError as error:
                self._failures[key] = error
                raise
        if not answer.data and kind is not RecordType.TXT:  # without TXT, evaluation ends anyway
            self._voids += 1
            if self._voids > VOID_LIMIT:
                raise SpfError(f"more than {VOID_LIMIT} queries had no answer")
        return answer
