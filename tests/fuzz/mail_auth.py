"""Records, signatures and DNS answers of hostile domains: SPF, DKIM, ARC and DMARC have a result for all of them.

    python tests/fuzz/mail_auth.py --seconds 60
    python tests/fuzz/mail_auth.py --seed 17 --cases 1     (a case that failed, again)

Promises: a case depends on its seed alone, but for the numbers of queries; what raises, or breaks a law, ends the run
with the seed and the target.
The answers of DNS are octets, of which some are changed, and go through the resolver of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dns.message
import dns.name
import dns.nameserver
import dns.query
import dns.rdatatype
import dns.rrset

from ironpost.dns.resolver import DnsResolver
from ironpost.mail_auth import (
    KeyFault,
    Records,
    RecordType,
    ResolverError,
    check_spf,
    evaluate_dmarc,
    of_arc,
    of_dkim,
    of_dmarc,
    of_spf,
    parse_key_record,
    results_field,
    verify_arc,
    verify_dkim,
)
from ironpost.mail_auth.dmarc_record import parse_record

if TYPE_CHECKING:
    from collections.abc import Callable

    Target = Callable[[random.Random], None]

NOW = 1_700_000_000.0
QUERIES_MAX = 60
"""Queries for one message; SPF has ten terms, of which one may need ten more for exchangers or names."""
WORDS = (
    b"v=spf1 ", b"v=spf1", b"v=DMARC1;", b"v=DKIM1;", b"-all", b"~all ", b" a ", b" mx ", b" ptr ", b" include:",
    b" a:",
    b" exists:", b" redirect=", b" exp=", b" ip4:", b" ip6:", b"192.0.2.1", b"/24", b"//64", b"2001:db8::1", b"%{d}",
    b"%{l}", b"%{L}", b"%{ir}", b"%{p}", b"%{h}", b"%{S}", b"%{d1r-.+,/_=}", b"%%", b"%_", b"%{", b"a.example",
    b"b.example", b".", b"." * 3, b"x" * 63, b"y" * 64, b"z." * 130, b" ", b" " * 300, b"\t", b"\r\n ", b";", b"; ",
    b"=", b":", b",", b"!", b"p=", b"p=reject", b"sp=none", b"np=quarantine", b"t=y", b"psd=y", b"psd=n", b"adkim=s",
    b"rua=mailto:a@b.example", b"ruf=", b"fo=1:d", b"k=rsa", b"k=ed25519", b"h=sha256", b"s=email", b"n=", b"i=1",
    b"i=2",
    b"a=rsa-sha256", b"a=ed25519-sha256", b"c=relaxed/simple", b"d=a.example", b"s=s", b"h=from:to:from", b"bh=", b"b=",
    b"l=1", b"x=1", b"cv=none", b"cv=pass", b"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA", b"AAAA", b"AA==", b"\x00",
    b"\xff", b"\xc3\xbc", b"\xed\xb3\xbf", b"\\", b'"', b"(", b")", b"<", b">", b"@", b"1", b"99999999999999999999",
)  # fmt: skip
TERMS = (
    b"-all", b"~all", b"?all", b"all", b"a", b"mx", b"ptr", b"a:b.example/24//64", b"mx:%{d1}.a.example",
    b"ptr:a.example",
    b"ip4:192.0.2.0/24", b"-ip6:2001:db8::/32", b"exists:%{L}.a.example", b"a:%{H}.a.example", b"exists:%{S}",
    b"exists:%{ir}.%{v}.%{p}.a.example",
    b"include:a.example", b"-include:%{h}.b.example", b"redirect=%{o}", b"redirect=%{S}.b.example", b"exp=%{d}",
    b"exp=%{l-}.b.example", b"x=%{d}", b"%{L} %{r} %{t}",
)  # fmt: skip
"""Terms of SPF."""
NAMES = (
    b"DKIM-Signature", b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results", b"From", b"To", b"X",
)  # fmt: skip


def soup(rng: random.Random, most: int = 12) -> bytes:
    """Octets that look like a record or a signature."""
    data = bytearray(rng.choice([b"", b"v=spf1 ", b"v=DMARC1; p=reject;", b"v=DKIM1; p=", b"v=1;"]))
    data += rng.choice([b"", b"; "]).join(rng.choices(WORDS, k=rng.randrange(most)))
    if data and rng.random() < 0.1:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def record(rng: random.Random, name: str) -> bytes:
    """A TXT record, of the kind that is looked for at the name in most cases."""
    if rng.random() < 0.3 or "_domainkey" in name:
        return soup(rng)
    if "_dmarc" in name:
        return b"v=DMARC1; p=reject;" + b"; ".join(rng.choices(WORDS, k=rng.randrange(6)))
    return b"v=spf1 " + b" ".join(rng.choices(TERMS, k=rng.randrange(6)))


def text(rng: random.Random) -> str:
    """Text of a client, with surrogates where the octets were not UTF-8."""
    octets = soup(rng, 5) + rng.choice([b"", b"\xff"])
    return octets.decode("utf-8", rng.choice(["surrogateescape", "replace"]))


def message(rng: random.Random) -> bytes:
    fields = [rng.choice(NAMES) + b":" + soup(rng, 20) + b"\r\n" for _ in range(rng.randrange(9))]
    return b"".join((*fields, b"From: jo@a.example\r\n\r\nHi.\r\n"))


class Domains:
    """Publishes soup at every name, and fails for some."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.count = 0

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        self.count += 1
        assert self.count <= QUERIES_MAX, "too many queries"
        if self.rng.random() < 0.1:
            raise ResolverError(f"{name} {kind}: timeout")
        if kind is not RecordType.TXT:
            return Records(self.rng.random() < 0.5)
        return Records(True, tuple(record(self.rng, name) for _ in range(self.rng.choice([1, 1, 1, 1, 5]))))


class Hostile(dns.nameserver.Nameserver):
    """A name server; its answers are valid at first, and then some of their octets are changed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def __str__(self) -> str:
        return "hostile"

    def kind(self) -> str:
        return "hostile"

    def is_always_max_size(self) -> bool:
        return True

    def answer_nameserver(self) -> str:
        return "192.0.2.53"

    def answer_port(self) -> int:
        return 53

    async def async_query(self, request: dns.message.QueryMessage, *_: Any, **__: Any) -> dns.message.Message:
        octets = self.octets(request)
        response = dns.message.from_wire(octets, ignore_trailing=self.rng.random() < 0.5)
        if not request.is_response(response):
            raise dns.query.BadResponse
        return response

    def octets(self, request: dns.message.QueryMessage) -> bytes:
        rng, (question,) = self.rng, request.question
        response = dns.message.make_response(request)
        response.set_rcode(rng.choice([0, 0, 0, 0, 2, 3, 5]))
        for _ in range(rng.randrange(4)):
            kind = rng.choice([question.rdtype, question.rdtype, dns.rdatatype.CNAME])
            name = rng.choice([question.name, question.name, dns.name.from_text("a.example")])
            data = self.data(kind, question.name.to_text())
            response.answer.append(dns.rrset.from_text(name, rng.randrange(3), "IN", kind, data))
        octets = bytearray(response.to_wire())
        for _ in range(rng.choice([0, 0, 1, 2, 9])):
            octets[rng.randrange(len(octets))] = rng.choice([0, 1, 12, 0xC0, 0xFF, rng.randrange(256)])
        return bytes(octets[: rng.randrange(len(octets))] if rng.random() < 0.1 else octets)

    def data(self, kind: dns.rdatatype.RdataType, name: str) -> str:
        rng = self.rng
        if kind is dns.rdatatype.TXT:
            octets = record(rng, name)
            strings = (octets[at : at + 255] for at in range(0, len(octets) or 1, 255))
            escaped = ("".join(f"\\{octet:03}" for octet in each) for each in strings)
            return " ".join(f'"{each}"' for each in escaped)
        host = rng.choice(["a.example.", "b.example.", ".", "x\\.y\\032\\255.example."])
        return {
            dns.rdatatype.A: "192.0.2.1",
            dns.rdatatype.AAAA: "2001:db8::1",
            dns.rdatatype.MX: f"10 {host}",
            dns.rdatatype.TLSA: "3 1 1 " + "00" * 32,
        }.get(kind, host)


def hostile(rng: random.Random) -> DnsResolver:
    resolver = DnsResolver(nameservers=[("192.0.2.53", 53)], lifetime=1.0, cache_size=rng.choice([0, 100]))
    resolver._resolver.nameservers = [Hostile(rng)]
    return resolver


async def evaluated(rng: random.Random, resolver: Any) -> None:
    """All that the server finds out about a message, and the field that says so."""
    ip = rng.choice(["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"])
    sender = rng.choice(["", "jo@a.example", *[f"{text(rng)}@a.example"] * 3, text(rng)])
    spf = await check_spf(ip=ip, helo=text(rng), sender=sender, resolver=resolver, now=NOW, receiver=text(rng))
    content = message(rng)
    dkim = await verify_dkim(content, resolver=resolver, now=NOW)
    arc = await verify_arc(content, resolver=resolver, now=NOW)
    dmarc = await evaluate_dmarc(content, spf=spf, dkim=dkim, resolver=resolver)
    for answer in (spf, *dkim, arc, dmarc):
        assert answer.reason.isascii(), "a reason that is not ASCII"
    assert spf.explanation.isascii(), "an explanation that is not ASCII"
    field = results_field("us.example", [of_spf(spf), *map(of_dkim, dkim), of_arc(arc, ip), of_dmarc(dmarc)])
    assert field.isascii(), "a field that is not ASCII"


def domains(rng: random.Random) -> None:
    """Records and signatures of domains."""
    asyncio.run(evaluated(rng, Domains(rng)))


def answers(rng: random.Random) -> None:
    """The same with answers of DNS as octets."""
    asyncio.run(evaluated(rng, hostile(rng)))


def queries(rng: random.Random) -> None:
    """Answers of DNS for every type of record."""

    async def ask() -> None:
        resolver = hostile(rng)
        for kind in RecordType:
            with suppress(ResolverError):
                records = await resolver.resolve("b.example", kind)
                assert records.exists or not records.data, "data of a name that does not exist"

    asyncio.run(ask())


def key(rng: random.Random) -> None:
    """Records of keys."""
    with suppress(KeyFault):
        assert parse_key_record(soup(rng)).bits > 0


def policy(rng: random.Random) -> None:
    """Records of DMARC."""
    record = parse_record(b"v=DMARC1;" + soup(rng, 30))
    assert all(map(str.isascii, (record.text, *record.problems))), "text that is not ASCII"


TARGETS: tuple[Target, ...] = (domains, domains, answers, queries, key, policy)


def run(seed: int) -> None:
    """One case.

    Raises:
        Exception: what a target raised, with a note that has the seed.
    """
    target = TARGETS[seed % len(TARGETS)]
    try:
        target(random.Random(seed))
    except Exception as error:
        error.add_note(f"seed {seed}, target {target.__name__}")
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="stop after this time (default 10)")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="stop after this many cases")
    parser.add_argument("--seed", type=int, default=None, help="the first case's seed (default: from the clock)")
    options = parser.parse_args()
    first = time.time_ns() // 1000 if options.seed is None else options.seed
    end = time.monotonic() + options.seconds
    done = 0
    while done < options.cases and time.monotonic() < end:
        run(first + done)
        done += 1
    print(f"{done} cases from seed {first}: each has a result")
    return 0


if __name__ == "__main__":
    sys.exit(main())
