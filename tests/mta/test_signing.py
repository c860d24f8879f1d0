"""Which mail is signed, with which keys, and that the signatures match what is stored."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from tests.mta.runner_kit import NEVER, NOW, Chance, VirtualClock, scenario
from tests.mta.signing_kit import answers, key, signers, signing
from tests.mta.test_inbound import LOCAL, OUTSIDE, Talk
from tests.mta.test_inbound import NOW as THEN
from tests.mta.test_pickup import Site

from ironpost import wire
from ironpost.message.section import Header
from ironpost.model import NULL, Address, Envelope, Origin
from ironpost.model.network import LOOPBACK
from ironpost.model.patterns import AddressPattern
from ironpost.mta.pickup import PickedUp
from ironpost.mta.report_mail import ReportMail
from ironpost.mta.signing import Signing
from ironpost.protocol.server.transaction import Identity
from ironpost.routing.rewriting import RewriteRule, Rewriting
from ironpost.storage.memory import MemoryStore
from ironpost.telemetry.metrics import Counters
from ironpost.testing import directory

if TYPE_CHECKING:
    from pathlib import Path

HERE = "From: Flo <flo@example.org>\r\nTo: jo@example.org\r\nSubject: Hi\r\n\r\nHi  there \r\n\r\n\r\n"


def stored(
    content: str | bytes,
    using: Signing,
    *,
    login: str = "",
    mail: str = "flo@example.org",
    size: int = 1000,
    **more: Any,
) -> bytes:
    """The message as it is stored, after a client has sent it."""

    async def run() -> bytes:
        talk = Talk(signing=using, **more)
        talk.session.identity = Identity(login, "PLAIN") if login else None
        talk.start(mail=f"MAIL FROM:<{mail}>{' SMTPUTF8' if not mail.isascii() else ''}")
        octets = content.encode() + b".\r\n"
        for at in range(0, len(octets), size):
            talk.say(octets[at : at + size])
        ((message, _),) = talk.store.asked
        assert talk.session.extra.signer is None  # idle sessions hold no content
        return message.prefix + talk.store.spools[0].octets

    return asyncio.run(run())


@pytest.mark.parametrize("role", ["mx", "submission"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_message_is_signed_with_every_key_of_its_author(role: str, size: int) -> None:
    keys = [key(), key(selector="rsa", bits=2048), key("other.example")]
    message = stored(HERE, signing(*keys), role=role, size=size)
    assert signers(message, keys, THEN) == ["ed._domainkey.example.org", "rsa._domainkey.example.org"]
    assert message.startswith(b"DKIM-Signature: ")  # above Received
    assert message.index(b"DKIM-Signature: ") < message.index(b"Received: ")


@pytest.mark.parametrize("role", ["mx", "submission"])
@pytest.mark.parametrize("size", [7, 1000])
def test_the_header_section_is_parsed_once(role: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Mock(side_effect=wire.scan_header)
    monkeypatch.setattr(wire, "scan_header", parse)
    message = stored(HERE, signing(key()), role=role, size=size)
    assert message.endswith(HERE.encode())
    assert sum(b"From: Flo" in call.args[0] for call in parse.call_args_list) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Date: Fri", b"Date: Mon"),
        (b"Message-ID: <Q1@", b"Message-ID: <Q2@"),
        (b"Subject: Hi", b"Subject: Ho"),
        (b"To: jo@", b"Cc: x@mx.example\r\nTo: jo@"),
        (b"Hi  there", b"Hi there now"),
    ],
)
def test_what_the_server_adds_is_signed_too(old: bytes, new: bytes) -> None:
    message = stored(HERE, signing(key()), role="submission")
    assert old in message
    (found,) = answers(message.replace(old, new, 1), [key()], THEN)
    assert found.result == "fail"


def test_the_message_is_signed_as_it_is_stored_after_all_changes() -> None:
    content = HERE.replace("example.org", "old.example").replace("Subject", "Bcc: secret@old.example\r\nSubject")
    rules = Rewriting([RewriteRule((AddressPattern("old.example"),), "example.org")])
    message = stored(
        content, signing(key()), role="submission", rewriting=rules, login="flo@old.example", mail="flo@old.example"
    )
    assert b"old.example" not in message.partition(b"\r\n\r\n")[0].partition(b"From:")[2]
    assert signers(message, [key()], THEN) == ["ed._domainkey.example.org"]


@pytest.mark.parametrize(
    ("author", "expected"),
    [
        ("flo@EXAMPLE.org", "ed._domainkey.example.org"),
        ("flo@news.example.org", "ed._domainkey.example.org"),
        ("flo@a.deep.example.org", "near._domainkey.deep.example.org"),
        ("flo@b\u00fccher.example", "idn._domainkey.xn--bcher-kva.example"),
        ("flo@notexample.org", ""),
        ("flo@org", ""),
        ("flo@[127.0.0.1]", ""),
    ],
)
def test_the_nearest_domain_above_the_author_signs(author: str, expected: str) -> None:
    keys = [key(), key("deep.example.org", "near"), key("xn--bcher-kva.example", "idn")]
    mail = "fl\u00f6@example.org" if not author.isascii() else "flo@example.org"
    message = stored(HERE.replace("flo@example.org", author), signing(*keys), mail=mail)
    assert signers(message, keys, THEN) == ([expected] if expected else [])
    assert (b"DKIM-Signature" in message) == bool(expected)


@pytest.mark.parametrize(
    ("content", "more"),
    [
        pytest.param(HERE, {"ip": OUTSIDE}, id="another client"),
        pytest.param(HERE, {"role": "lmtp"}, id="a front server"),
        pytest.param(HERE.replace("flo@", "flo@x.example, flo@"), {}, id="authors of two domains"),
        pytest.param(HERE.replace("Flo ", "ceo@bank.example, "), {}, id="an author of another domain without brackets"),
        pytest.param(HERE.replace("Flo ", "<ceo@bank.example.>, "), {}, id="an author that is not valid"),
        pytest.param(HERE.replace("Flo ", "ceo@bank.example. "), {}, id="a display name that looks like an author"),
        pytest.param("From: x@example.org\r\n" + HERE, {}, id="two fields From"),
        pytest.param(HERE.replace("From", "Sender"), {}, id="no field From"),
        pytest.param(HERE.replace("To: ", "no field\r\nTo: "), {}, id="a malformed header section"),
        pytest.param(HERE.replace("there ", "th\nere"), {"newlines": "accept"}, id="a line ending that will change"),
    ],
)
def test_mail_that_is_not_signed(content: str, more: dict[str, Any]) -> None:
    message = stored(content, signing(key()), **more)
    assert b"DKIM-Signature" not in message
    assert message.endswith(content.encode())


@pytest.mark.parametrize(
    ("login", "reverse_path", "signed"),
    [
        ("flo@example.org", "flo@example.org", True),
        ("flo@example.org", "list@sub.example.org", True),
        ("flo@example.org", "", True),
        ("flo", "", False),
        ("flo", "list@sub.example.org", False),
        ("flo@sub.example.org", "flo@sub.example.org", False),
        ("flo@org", "flo@org", False),
        ("flo", "flo@example.org", True),
        ("eve@evil.example", "eve@evil.example", False),
        ("eve@evil.example", "", False),
        ("eve", "eve@evil.example", False),
        ("eve", "eve@[192.0.2.1]", False),
        ("", "eve@evil.example", True),
    ],
)
def test_r49_a_login_signs_only_for_authors_in_its_domain(login: str, reverse_path: str, signed: bool) -> None:
    """Otherwise a customer could write as another one, and DMARC would confirm it."""
    signer = signing(key()).begin(Origin(OUTSIDE, identity=login, listener="mx") if login else Origin(LOCAL), THEN)
    assert signer is not None
    header, _, body = HERE.partition("\r\n\r\n")
    signer.header(Header(f"{header}\r\n\r\n".encode()))
    signer.body(body.encode())
    sender = Address.parse(reverse_path) if reverse_path else NULL
    found = signer.finish(b"", Envelope(sender, (), origin=Origin(identity=login)))
    assert bool(found.fields) == bool(found.keys) == signed


ADDED = b"Date: x\r\nMessage-ID: y\r\n"
AUTHOR = b"From: flo@example.org\r\n"
ROOM = wire.DEFAULT_LIMITS.header_octets - len(ADDED + AUTHOR + b"X: \r\n")


@pytest.mark.parametrize(
    ("fields", "is_signed"),
    [
        (b"X: y\r\n" * 997, True),
        (b"X: y\r\n" * 998, False),
        (b"X: %b\r\n" % (b"y" * ROOM), True),
        (b"X: %b\r\n" % (b"y" * (ROOM + 1)), False),
    ],
    ids=["fields", "too many fields", "octets", "too many octets"],
)
def test_a_message_that_exceeds_a_limit_with_the_fields_that_are_added_is_not_signed(
    fields: bytes, is_signed: bool
) -> None:
    signer = signing(key()).begin(Origin(LOCAL), THEN)
    assert signer is not None
    signer.header(Header(AUTHOR + fields + b"\r\n"))
    found = signer.finish(ADDED, Envelope(NULL, (), origin=Origin(LOCAL)))
    assert bool(found.fields) == bool(found.keys) == is_signed


def test_without_keys_nothing_is_read() -> None:
    assert not Signing().active
    assert Signing().begin(Origin(LOCAL), THEN) is None
    assert stored(HERE, Signing()).endswith(HERE.encode())


def test_new_keys_sign_the_next_message() -> None:
    using, new = signing(key()), key(selector="new")
    assert signers(stored(HERE, using), [key(), new], THEN) == ["ed._domainkey.example.org"]
    using.use([new], LOOPBACK)
    assert signers(stored(HERE, using), [key(), new], THEN) == ["new._domainkey.example.org"]


def test_a_message_that_is_refused_keeps_nothing() -> None:
    talk = Talk(signing=signing(key()), role="submission")
    talk.start()
    assert talk.say(b"To: jo@example.org\r\n\r\n.\r\n").startswith("554 5.6.0 ")
    assert talk.session.extra.signer is None


def test_signatures_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()

    async def run() -> None:
        talk = Talk(signing=signing(key(), metrics=counters))
        for content in (HERE, HERE.replace("<flo@example.org>", "<flo@other.example>")):
            talk.start()
            talk.say(content.encode() + b".\r\n")
            talk.store.finish()
            await talk.settle()

    with caplog.at_level(logging.INFO, "ironpost.inbound"):
        asyncio.run(run())
    signed = [json.loads(each.getMessage()).get("signed") for each in caplog.records]
    assert signed == [["ed._domainkey.example.org"], None]
    assert counters.snapshot()["messages_signed"] == {"": 1}


def test_mail_of_programs_is_signed(tmp_path: Path) -> None:
    keys = [key("mx.example")]
    site = Site(tmp_path)
    site.signing.use(keys, LOOPBACK)
    site.leave("ann@mx.example")
    assert site.run() == PickedUp(queued=1, refused=0, waiting=0)
    (message,) = site.accepted
    assert signers(asyncio.run(message.body.head(10_000)), keys, NOW) == ["ed._domainkey.mx.example"]


def test_bounces_are_signed_by_the_domain_above_the_host_name() -> None:
    keys = [key("local.example")]

    async def act(world: Any) -> bytes:
        await world.put("M1")
        await world.settle()
        ((_, _, to, bounce),) = world.local.calls
        assert to == ["from@local.example"]
        return bytes(bounce)

    bounce = scenario({"remote": lambda message, recipient: NEVER, "signing": signing(*keys)}, act)
    assert b"From: Mail Delivery System <MAILER-DAEMON@mx.local.example>" in bounce
    assert signers(bounce, keys, NOW) == ["ed._domainkey.local.example"]


def test_reports_to_other_domains_are_signed() -> None:
    keys, clock = [key("local.example")], VirtualClock()
    store, accepted = MemoryStore(now=clock.now), []
    mail = ReportMail(
        store=store, accept=accepted.append, signing=signing(*keys),
        directory=lambda: directory.local(["local.example"]), clock=clock, random=Chance(),
    )  # fmt: skip
    content = b"From: <reports@local.example>\r\nSubject: Report\r\n\r\ntext\r\n"
    asyncio.run(
        mail.queue(Address.parse("reports@local.example"), content, [Address.parse("reports@other.example")], {})
    )
    stored = asyncio.run(accepted[0].body.head(10_000))
    assert stored.endswith(content)
    assert signers(stored, keys, NOW) == ["ed._domainkey.local.example"]
