"""Content is checked, changed, signed and stored in the same way, however it is cut into pieces."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from tests.mta.signing_kit import key, signers, signing
from tests.mta.test_inbound import NOW, Talk

from ironpost.model.patterns import AddressPattern
from ironpost.policy import Check, Context, Facts
from ironpost.policy.check import NoOptions
from ironpost.routing.rewriting import RewriteRule, Rewriting
from ironpost.wire import DEFAULT_LIMITS

RULES = Rewriting([RewriteRule((AddressPattern("old.example"),), "example.org")])
HERE = b"From: Flo <flo@old.example>\r\nTo: jo@old.example\r\n"
LARGE = HERE + b"".join(b"X-%d: %b\r\n" % (number, b"x" * 60) for number in range(300))
"""More than is rewritten at once."""
LARGEST = HERE + b"X: y\r\n" * (DEFAULT_LIMITS.header_fields - 6)
"""With Received, Date, Message-ID and a signature it has the maximum number of fields."""
STORED = [
    pytest.param(HERE + b"\r\nbody\r\n", id="message"),
    pytest.param(HERE, id="no empty line"),
    pytest.param(HERE + b"\r\n", id="no body"),
    pytest.param(b"From old@old.example Fri\r\n" + HERE + b"\r\nbody\r\n", id="mbox line"),
    pytest.param(b"Bcc: a@b.example\r\nX-Secret: x\r\n" + HERE + b"Bcc: c@d.example\r\n\r\nbody\r\n", id="removed"),
    pytest.param(HERE + b"X-Secret: x\r\n", id="removed, no empty line"),
    pytest.param(HERE + b"Date: x\r\nMessage-ID: y\r\n\r\n\r\n\r\n", id="identified, empty lines"),
    pytest.param(LARGE + b"\r\nbody\r\n", id="large"),
    pytest.param(LARGEST + b"\r\nbody\r\n", id="many fields"),
]

SIZES = [2, 100, 100_000]
"""Of the largest piece of a message."""


class Strips(Check):
    name = "strips"

    def __init__(self) -> None:
        super().__init__(NoOptions(), Context())

    def strip(self, facts: Facts) -> frozenset[str]:
        return frozenset({"x-secret"})


async def taken(content: bytes, role: str, pieces: list[bytes], *, strip: bool, chunking: bool = False) -> Talk:
    """Send a message from our own network, with rules and keys; return the session once the server waits for it."""
    checks = [Strips()] if strip else []
    talk = Talk(*checks, role=role, rewriting=RULES, signing=signing(key()))
    talk.say("EHLO a.example", "MAIL FROM:<flo@old.example>", "RCPT TO:<jo@example.org>")
    if chunking:
        pieces = [b"BDAT %d\r\n%b" % (len(piece), piece) for piece in pieces] + [b"BDAT 0 LAST\r\n"]
    else:
        talk.say("DATA")
        pieces = [*pieces, b".\r\n"]
    for piece in pieces:
        talk.say(piece)
        if not talk.store.asked:
            await talk.settle()
    return talk


def stored(talk: Talk) -> tuple[bytes, bytes]:
    """What is put above the message, and what is stored of it."""
    ((message, _),) = talk.store.asked
    return message.prefix, talk.store.spools[0].octets


def cut(content: bytes, size: int) -> list[bytes]:
    """The content in pieces of random sizes."""
    random, pieces = Random(size), []
    while content:
        end = random.randint(1, size)
        pieces.append(content[:end])
        content = content[end:]
    return pieces


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("role", ["mx", "submission"])
@pytest.mark.parametrize("content", STORED)
def test_pieces_of_any_size_are_stored_and_signed_as_one(
    content: bytes, role: str, chunking: bool, strip: bool
) -> None:
    whole = stored(asyncio.run(taken(content, role, [content], strip=strip)))
    names = (b"Bcc:",) * (role == "submission") + (b"X-Secret:",) * strip
    lines = content.removeprefix(b"From old@old.example Fri\r\n").replace(b"old.example", b"example.org")
    expected = b"".join(line for line in lines.splitlines(keepends=True) if not line.startswith(names))
    if role == "submission":
        expected = expected.replace(b"Message-ID: y\r\n", b"")  # not valid
    assert whole[1] == expected
    for size in SIZES:
        pieces = cut(content, size)
        again = stored(asyncio.run(taken(content, role, pieces, strip=strip, chunking=chunking)))
        assert again == whole
    assert signers(b"".join(whole), [key()], NOW) == ["ed._domainkey.example.org"]


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("role", ["mx", "submission"])
def test_a_large_header_section_without_an_empty_line_is_refused(role: str, chunking: bool, strip: bool) -> None:
    for size in SIZES:
        talk = asyncio.run(taken(LARGE, role, cut(LARGE, size), strip=strip, chunking=chunking))
        assert talk.store.asked == []
