"""Where bare CR and LF are accepted, neither can hide a header field."""

from __future__ import annotations

import asyncio

import pytest
from tests.mta.test_inbound import Talk

from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION, Dialect

ROLES = [("mx", SMTP), ("submission", SUBMISSION), ("lmtp", LMTP)]
GOOD = "From: a@b.example\r\nSubject: x\r\n\r\n"
BAD = [
    "From: a@b.example\r\nSubject: x\nBcc: c@d.example\r\n\r\nbody\r\n",
    "From: a@b.example\r\nSubject: x\rFrom: other@b.example\r\n\r\nbody\r\n",
    "From: a@b.example\r\nX: y\nReturn-Path: <forged@b.example>\r\n\r\nbody\r\n",
    "From: a@b.example\n\nbody\r\n",
    "From: a@b.example\r\nSubject: x\r\n\nBcc: c@d.example\r\n\r\nbody\r\n",
    "From: a@b.example\r\nX: "
    + "x" * 900
    + "\r\n"
    + ("Y: " + "y" * 900 + "\r\n") * 100
    + "Z: z\nBcc: c@d.example\r\n\r\n",
]


async def answer(content: str, role: str, dialect: Dialect, *, chunking: bool) -> str:
    talk = Talk(role=role, dialect=dialect._replace(authenticate=False), newlines="accept")
    hello = "LHLO" if dialect is LMTP else "EHLO"
    octets = content.encode()
    talk.say(f"{hello} a.example", "MAIL FROM:<a@b.example>", "RCPT TO:<jo@example.org>")
    if chunking:
        said = talk.say(b"BDAT %d LAST\r\n%b" % (len(octets), octets))
    else:
        talk.say("DATA")
        said = talk.say(octets + b".\r\n")
    await asyncio.sleep(0)
    if talk.store.asked:
        talk.store.finish()
    return said + await talk.settle()


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize(("role", "dialect"), ROLES)
@pytest.mark.parametrize("content", BAD)
def test_f25_bare_cr_and_lf_in_a_header_section_are_refused(
    content: str, role: str, dialect: Dialect, chunking: bool
) -> None:
    assert asyncio.run(answer(content, role, dialect, chunking=chunking)).startswith("554 5.6.0 ")


@pytest.mark.parametrize(("role", "dialect"), ROLES)
@pytest.mark.parametrize("content", [GOOD + "a\nb\rc\r\n", GOOD, GOOD + "\n\r\n"])
def test_f25_bare_cr_and_lf_in_a_body_are_accepted_if_configured(content: str, role: str, dialect: Dialect) -> None:
    assert asyncio.run(answer(content, role, dialect, chunking=True)).startswith("250 ")
