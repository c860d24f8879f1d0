"""DKIM and ARC against a judge: dkimpy verifies what is signed here, and the other way round."""

from __future__ import annotations

import asyncio
import contextlib
import re

import dkim
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.mail_auth.signed import KeyServer, key, sealed

from ironpost.mail_auth import sign, verify_arc, verify_dkim

KEY = key(bits=1024)
PEM = KEY.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
FORMS = st.sampled_from([b"simple", b"relaxed"])
DISPUTED = re.compile(rb"\r(?!\n)|(?<!\r)\n|^[!-9;-~]+[ \t]+:", re.MULTILINE)
"""What dkimpy reads in another way: a bare CR or LF is a line end for it, and it keeps white space before a colon."""
NOW = 1_700_000_000.0
LINES = st.lists(st.text(" \tab:", max_size=8), max_size=6).map(lambda lines: "".join(f"{line}\r\n" for line in lines))
MESSAGES = st.builds(
    lambda subject, others, body: f"From: jo@a.example\r\nSubject:{subject}\r\n{others}\r\n{body}".encode(),
    st.sampled_from(["", " ", "a", " a  b ", "\ta\r\n\t b", " a:b\r\n  c\r\n d"]),
    st.lists(st.sampled_from(["To: jo\r\n", "to:  eve\r\n", "Subject: b\r\n", "X-Y:z\r\n"])).map("".join),
    LINES,
)


def judged(message: bytes) -> bool:
    """Whether dkimpy says that the first signature is valid."""
    with contextlib.suppress(Exception):  # it has many for messages that are not valid
        return dkim.verify(message, dnsfunc=lambda *_, **__: KEY.record.encode())
    return False


def passes(message: bytes) -> bool:
    answers = asyncio.run(verify_dkim(message, resolver=KeyServer({KEY.name: [KEY.record.encode()]}), now=NOW))
    return bool(answers) and answers[0].result == "pass"


@given(message=MESSAGES)
def test_dkimpy_verifies_what_is_signed(message: bytes) -> None:
    assert judged(sign(message, [KEY], NOW) + message)


def signed_by_dkimpy(message: bytes, header: bytes, body: bytes) -> bytes:
    names = [b"from", b"subject", b"to"]
    field = dkim.sign(message, b"s", b"a.example", PEM, canonicalize=(header, body), include_headers=names)
    return field + message


@given(message=MESSAGES, header=FORMS, body=FORMS)
def test_what_dkimpy_signs_is_verified(message: bytes, header: bytes, body: bytes) -> None:
    assert passes(signed_by_dkimpy(message, header, body))


@given(
    message=MESSAGES,
    header=FORMS,
    body=FORMS,
    at=st.integers(0, 1_000),
    octet=st.sampled_from([b"", b"a", b" ", b"\r\n", b"\t", b";", b"="]),
    keep=st.booleans(),
)
def test_after_a_change_both_say_the_same(
    message: bytes, header: bytes, body: bytes, at: int, octet: bytes, keep: bool
) -> None:
    message = signed_by_dkimpy(message, header, body)
    at %= len(message)
    changed = message[:at] + octet + message[at + (not keep) :]
    assume(DISPUTED.search(changed) is None)
    assert passes(changed) == judged(changed)


def chain_judged(message: bytes) -> bool:
    """Whether dkimpy says that the chain is valid."""
    with contextlib.suppress(Exception):
        status: bytes = dkim.arc_verify(message, dnsfunc=lambda *_, **__: KEY.record.encode())[0]
        return status == b"pass"
    return False


def chain_passes(message: bytes) -> bool:
    resolver = KeyServer({KEY.name: [KEY.record.encode()]})
    return asyncio.run(verify_arc(message, resolver=resolver, now=NOW)).result == "pass"


@given(message=MESSAGES, count=st.integers(1, 3))
def test_chains_of_dkimpy_are_verified(message: bytes, count: int) -> None:
    message = b"Authentication-Results: us.example; arc=none; spf=fail smtp.mailfrom=a.example\r\n" + message
    for _ in range(count):
        message = b"".join(dkim.arc_sign(message, b"s", b"a.example", PEM, b"us.example")) + message
        message = message.replace(b"us.example; arc=none", b"us.example; arc=pass")
    assert chain_passes(message)


@given(
    message=MESSAGES,
    twice=st.booleans(),
    at=st.integers(0, 2_000),
    octet=st.sampled_from([b"", b"a", b" ", b"\r\n", b";", b"=", b"2"]),
    keep=st.booleans(),
)
def test_after_a_change_both_say_the_same_of_a_chain(
    message: bytes, twice: bool, at: int, octet: bytes, keep: bool
) -> None:
    message = sealed(message, KEY)
    message = sealed(message, KEY) if twice else message
    at %= len(message)
    changed = message[:at] + octet + message[at + (not keep) :]
    assume(DISPUTED.search(changed) is None)
    assert chain_passes(changed) == chain_judged(changed)
