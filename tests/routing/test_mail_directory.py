"""Which addresses exist, and where their mail goes."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from ironpost.compose.directory import directory
from ironpost.config import ConfigError, parse
from ironpost.model import Address, Recipient
from ironpost.model.patterns import Domains
from ironpost.routing.directory import (
    Alias,
    Closed,
    DirectoryError,
    Entry,
    Mailbox,
    NotLocal,
    Relayed,
    Unknown,
    expand,
)
from ironpost.routing.mail_directory import MailDirectory, key_of
from ironpost.routing.records import Record, RecordTable
from ironpost.routing.route import Kind, Routes

if TYPE_CHECKING:
    from collections.abc import Iterable

A = Address.parse

COMPANY = """
[local]
domains = ["mail.example", "shop.example"]
postmaster = "ada@mail.example"

[[mailbox]]
address = "Ada@mail.example"
[[mailbox]]
address = "jo@mail.example"
forward = ["jo@other.example"]
keep = true
[[mailbox]]
address = "left@mail.example"
disabled = true
[[mailbox]]
address = "moved@mail.example"
disabled = true
forward = ["ada@mail.example"]
[[mailbox]]
address = "flö@mail.example"
[[alias]]
address = "team@mail.example"
targets = ["staff@mail.example", "guest@other.example"]
[[alias]]
address = "staff@mail.example"
targets = ["ada@mail.example", "jo@mail.example"]
[[alias]]
address = "@shop.example"
targets = ["ada@mail.example"]

[[relay]]
domains = ["branch.example"]
recipients = ["jo@branch.example"]
[[relay]]
domains = ["*.branch.example"]
[[mailbox]]
address = "kim@branch.example"
[[alias]]
address = "info@branch.example"
targets = ["ada@mail.example"]
"""


def find(found: MailDirectory, text: str) -> Entry:
    entry = found.find(A(text))
    assert isinstance(entry, tuple)
    return entry


def expanded(found: MailDirectory, *texts: str) -> list[str]:
    async def main() -> list[str]:
        result = expand(tuple(Recipient(A(text)) for text in texts), found, accepted=len(texts))
        return [str(each.address) for each in (result if isinstance(result, tuple) else await result)]

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("ada@mail.example", Mailbox, "mail.example is local; ada@mail.example: mailbox[1]"),
        ("ADA@Mail.Example", Mailbox, "mail.example is local; ada@mail.example: mailbox[1]"),
        ("ada+news@mail.example", Mailbox, "ada@mail.example with the detail news: mailbox[1]"),
        ("flö@mail.example", Mailbox, "flö@mail.example: mailbox[5]"),
        ("flo\u0308@mail.example", Mailbox, "flö@mail.example: mailbox[5]"),
        ("FLÖ@mail.example", Unknown, "is not listed"),
        ("jo@mail.example", Alias, "mailbox[2], with a copy in the mailbox"),
        ("left@mail.example", Closed, "mailbox[3], disabled"),
        ("moved@mail.example", Alias, "mailbox[4]"),
        ("team@mail.example", Alias, "alias[1]"),
        ("nobody@mail.example", Unknown, "mail.example is local, and nobody@mail.example is not listed"),
        ("+news@mail.example", Unknown, "is not listed"),
        ("any@shop.example", Alias, "any@shop.example is not listed; @shop.example: alias[3]"),
        ("postmaster@mail.example", Alias, "postmaster goes to ada@mail.example (local.postmaster)"),
        ("Abuse@shop.example", Alias, "abuse goes to ada@mail.example (local.postmaster)"),
        ("postmaster", Alias, "it goes to ada@mail.example (local.postmaster)"),
        ("jo@branch.example", Relayed, "branch.example is a relay domain by relay[1]"),
        ("kim@branch.example", Relayed, "kim@branch.example: mailbox[6]"),
        ("info@branch.example", Alias, "info@branch.example: alias[4]"),
        ("x@branch.example", Unknown, "x@branch.example is not listed"),
        ("Postmaster@branch.example", Relayed, "Postmaster is accepted although it is not listed"),
        ("abuse@branch.example", Relayed, "abuse is accepted although it is not listed"),
        ("x@new.branch.example", Relayed, "new.branch.example is a relay domain by relay[2]"),
        ("x@other.example", NotLocal, "other.example is not local"),
    ],
)  # fmt: skip
def test_the_entries_of_a_company(text: str, kind: type, reason: str) -> None:
    entry = find(directory(parse(COMPANY)), text)
    assert (type(entry), reason in entry.reason) == (kind, True), entry


def test_a_relay_domain_names_who_knows_the_addresses_that_are_not_listed() -> None:
    asked = RecordTable({})
    listed = 'recipients = ["jo@branch.example"]\n'
    text = COMPANY.replace(listed, listed + 'verify = "callout"\n')
    found = directory(parse(text), callout=asked)
    entries = [find(found, f"{name}@branch.example") for name in ("x", "jo", "kim", "postmaster")]
    assert [isinstance(each, Relayed) and each.verifier for each in entries] == [asked, None, None, asked]
    elsewhere = find(found, "x@new.branch.example")
    assert isinstance(elsewhere, Relayed)
    assert elsewhere.verifier is None


def test_a_mailbox_has_its_own_address_and_the_detail() -> None:
    entry = find(directory(parse(COMPANY)), "ADA+News@mail.example")
    assert isinstance(entry, Mailbox)
    assert (str(entry.address), entry.detail) == ("ada@mail.example", "news")


def test_a_disabled_mailbox_is_refused_permanently() -> None:
    entry = find(directory(parse(COMPANY)), "left@mail.example")
    assert isinstance(entry, Closed)
    assert (entry.reply.code, entry.reply.enhanced) == (550, "5.2.1")


@pytest.mark.parametrize(("others", "kept"), [((), Closed), (("x@other.example",), Alias)])
def test_a_disabled_mailbox_keeps_no_copy_even_if_it_is_its_own_target(others: tuple[str, ...], kept: type) -> None:
    targets = tuple(map(Address.parse, ("ADA@mail.example", *others)))
    record = Record("people", targets, keep=True, disabled=True)
    entry = find(
        MailDirectory(Domains(["mail.example"]), [RecordTable({"ada@mail.example": record})]), "ada@mail.example"
    )
    assert isinstance(entry, kept)
    if isinstance(entry, Alias):
        assert (list(map(str, entry.targets)), entry.mailbox, entry.disabled) == ([*others], None, True)


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("team@mail.example", ["ada@mail.example", "jo@other.example", "jo@mail.example", "guest@other.example"]),
        ("jo+x@mail.example", ["jo@other.example", "jo+x@mail.example"]),
        ("JO@mail.example", ["jo@other.example", "JO@mail.example"]),
        ("moved@mail.example", ["ada@mail.example"]),
        ("postmaster", ["ada@mail.example"]),
    ],
)
def test_aliases_are_expanded_and_a_kept_copy_stays(text: str, targets: list[str]) -> None:
    found = directory(parse(COMPANY))
    assert sorted(expanded(found, text)) == sorted(targets)


def test_the_kept_copy_knows_its_mailbox() -> None:
    entry = find(directory(parse(COMPANY)), "Jo+x@mail.example")
    assert isinstance(entry, Alias)
    assert entry.mailbox is not None
    assert (str(entry.mailbox.address), entry.mailbox.detail) == ("jo@mail.example", "x")


def test_without_entries_every_address_exists_and_nothing_is_expanded() -> None:
    found = directory(parse('local.domains = ["mail.example"]'))
    assert not found.has_aliases
    for text in ("any@mail.example", "postmaster@mail.example", "postmaster"):
        assert isinstance(find(found, text), Mailbox)
    assert isinstance(find(found, "any@other.example"), NotLocal)


def test_listed_recipients_count_beside_entries() -> None:
    head = '[local]\ndomains = ["a.example"]\nrecipients = ["x+y@a.example"]\n'
    found = directory(parse(head + '[[mailbox]]\naddress = "jo@a.example"'))
    entries = {text: find(found, text) for text in ("jo@a.example", "x+y@a.example", "x@a.example", "abuse@a.example")}
    assert [type(entry) for entry in entries.values()] == [Mailbox, Mailbox, Unknown, Mailbox]


@pytest.mark.parametrize(("separator", "kind"), [("-+", Mailbox), ("+", Unknown), ("", Unknown)])
def test_the_separator_is_configurable(separator: str, kind: type) -> None:
    head = f'local.domains = ["a.example"]\ndirectory.separator = "{separator}"\n'
    found = directory(parse(head + '[[mailbox]]\naddress = "jo@a.example"'))
    assert isinstance(find(found, "jo-x+y@a.example"), kind)


def test_mail_for_a_recipient_that_a_relay_domain_lost_is_still_relayed() -> None:
    decision = Routes(directory(parse(COMPANY))).decide(A("gone@branch.example"))
    assert decision.route.kind is Kind.MX  # type: ignore[union-attr] # nothing is pending


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[mailbox]]\naddress = "jo@other.example"', "jo@other.example is in no local domain"),
        ('[[mailbox]]\naddress = "jo"', "an address|not a valid address"),
        ('[[mailbox]]\naddress = "Jo@localhost"\n[[mailbox]]\naddress = "jo@localhost"', "listed twice"),
        ('[[mailbox]]\naddress = "jo@localhost"\nkeep = true', "without forward"),
        ('[[mailbox]]\naddress = "Postmaster@localhost"\ndisabled = true', "mail for Postmaster must be accepted"),
        ('[[mailbox]]\naddress = "abuse@localhost"\ndisabled = true', "mail for abuse must be accepted"),
        ('[[mailbox]]\naddress = "jo@localhost"\nforward = []', "empty"),
        ('[[alias]]\naddress = "jo@localhost"\ntargets = ["x"]', "address"),
        ('[[relay]]\ndomains = ["*"]', "open relay"),
        ('[[relay]]\ndomains = ["a.example"]\nunverified = "accept"', 'without verify = "callout"'),
        ('[[relay]]\ndomains = ["localhost"]', "localhost is also local"),
        ('directory.separator = "@"', "cannot separate"),
    ],
)
def test_a_wrong_entry_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(text)


class Remote:
    """A source that answers after an iteration of the event loop."""

    def __init__(self, keys: Iterable[str], *, failing: bool = False) -> None:
        self.keys = set(keys)
        self.failing = failing
        self.asked: list[str] = []

    async def lookup(self, key: str, /) -> Record | None:
        await asyncio.sleep(0)
        self.asked.append(key)
        if self.failing:
            raise DirectoryError("down")
        return Record("remote") if key in self.keys else None


def test_sources_with_io_are_awaited_in_order() -> None:
    async def main() -> None:
        source = Remote(["jo@a.example"])
        found = MailDirectory(Domains(["a.example"]), [source, Remote(["max@a.example"])], separator="+")
        for text, kind in {"jo+x@a.example": Mailbox, "max@a.example": Mailbox, "no@a.example": Unknown}.items():
            entry = found.find(A(text))
            assert not isinstance(entry, tuple)
            assert isinstance(await entry, kind)
        assert source.asked[:2] == ["jo+x@a.example", "jo@a.example"]

    asyncio.run(main())


def test_a_source_that_fails_is_never_an_unknown_recipient() -> None:
    async def main() -> None:
        found = MailDirectory(Domains(["a.example"]), [Remote([], failing=True)])
        with pytest.raises(DirectoryError):
            await found.find(A("jo@a.example"))  # type: ignore[misc] # it is pending

    asyncio.run(main())


@pytest.mark.filterwarnings("error")
def test_lookups_that_are_given_up_are_closed() -> None:
    async def main() -> None:
        found = MailDirectory(Domains(["a.example"]), [Remote([], failing=True)])
        pending = Routes(found).decide(A("jo@a.example"))
        pending.close()  # type: ignore[union-attr] # a source with I/O
        two = tuple(Recipient(A(f"{name}@a.example")) for name in ("jo", "max"))
        with pytest.raises(DirectoryError):
            await expand(two, found, accepted=2)  # type: ignore[misc] # with I/O

    asyncio.run(main())
    gc.collect()


def test_a_thousand_targets_leave_the_event_loop_to_others() -> None:
    targets = ", ".join(f'"x{n}@mail.example"' for n in range(1000))
    text = f'local.domains = ["mail.example"]\n[[alias]]\naddress = "all@mail.example"\ntargets = [{targets}]'
    found = directory(parse(text))

    async def main() -> None:
        turns = 0
        done = asyncio.ensure_future(expand((Recipient(A("all@mail.example")),), found, accepted=1))  # type: ignore[arg-type]
        while not done.done():
            await asyncio.sleep(0)
            turns += 1
        assert len(done.result()) == 1000
        assert turns > 5

    asyncio.run(main())


def test_keys_have_no_quotes_and_fold_ascii_only() -> None:
    assert key_of(A('"Jo Doe"@A.example')) == "jo doe@a.example"
    assert key_of(A("JÖ@a.example")) == "JÖ@a.example"
