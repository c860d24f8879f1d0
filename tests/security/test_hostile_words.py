"""Words that are something in another language, said to a running server, stay words (SECURITY R40 to R44, R47)."""

from __future__ import annotations

import json
import socket
import stat
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 30.0
HOSTILE = b"'\";--"
VERBS = (
    b"HELO EHLO LHLO MAIL RCPT DATA BDAT RSET VRFY EXPN HELP NOOP STARTTLS AUTH ETRN ATRN TURN SEND SOML SAML BURL "
    b"XCLIENT XFORWARD XYZZY"
).split()
SENDER = b'"\'\\";--"@sender.example'
RECIPIENT = b'"$(touch x)`touch x`|touch x;../../../x\'\\";--%s{0}"@localhost'


class Talk:
    """A raw client."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self.file = self.socket.makefile("rb")
        assert self.reply().startswith(b"220")

    def reply(self) -> bytes:
        octets = b""
        while line := self.file.readline():
            octets += line
            if line[3:4] != b"-":
                break
        return octets

    def say(self, line: bytes) -> bytes:
        self.socket.sendall(line + b"\r\n")
        return self.reply()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.mark.parametrize("tail", [b"", b"\0"], ids=["plain", "NUL"])
def test_r41_r44_every_verb_takes_hostile_words_for_words(serve: Callable, tail: bytes) -> None:
    running = serve()
    for verb in VERBS:
        for before in (b"", b" FROM:<", b" TO:<"):
            talk = Talk(running.port)
            talk.say(b"EHLO client.example")
            said = talk.say(verb + (before or b" ") + HOSTILE + tail + (b">" if before else b""))
            assert said[:3].isdigit(), verb
            assert said[:1] in {b"2", b"5"}, (verb, said)
            talk.close()
    talk = Talk(running.port)
    assert talk.say(b"NOOP").startswith(b"250 ")
    talk.close()
    assert running.stop() == 0
    assert all(json.loads(line)["logger"].startswith("ironpost") for line in running.log().splitlines())


def test_r40_r42_an_address_is_never_a_program_a_path_or_a_query(serve: Callable) -> None:
    running = serve()
    talk = Talk(running.port)
    for line in (b"EHLO ';--.example", b"HELO [x:';--]", b"MAIL FROM:<%b>" % SENDER, b"RCPT TO:<%b>" % RECIPIENT):
        said = talk.say(line)
        assert said.startswith(b"501" if line.startswith(b"EHLO") else b"250"), said
    assert talk.say(b"DATA").startswith(b"354")
    assert talk.say(b"X-Deliver-To: /etc/x\r\nBcc: evil@elsewhere.example\r\n\r\n$(touch x)\r\n.").startswith(b"250")
    talk.close()
    (message,) = running.wait_for_mail()
    running.wait_until_empty()
    assert message.startswith(b"Return-Path: <%b>\n" % SENDER)
    assert b"for <%b>;" % RECIPIENT in message.replace(b"\n ", b" ")
    assert message.endswith(b"\n\n$(touch x)\n")
    assert {path.name for path in running.folder.iterdir()} == {"data", "log", "ironpost.toml"}
    (name,) = [path.name for path in (running.data / "mail" / "new").iterdir()]
    assert set(name) <= set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_,=")  # `,S=` is the size
    assert running.stop() == 0
    for line in running.log().splitlines():
        assert line.isprintable()
        assert line.isascii()
        json.loads(line)


def test_r47_nothing_in_the_data_directory_is_anybody_elses(serve: Callable) -> None:
    running = serve()
    talk = Talk(running.port)
    for line in (b"EHLO c.example", b"MAIL FROM:<>", b"RCPT TO:<a@localhost>", b"DATA", b"x" * 900 + b"\r\n."):
        talk.say(line)
    talk.close()
    running.wait_for_mail()
    for path in [running.data, *running.data.rglob("*")]:
        mode = path.lstat().st_mode
        assert not stat.S_IMODE(mode) & 0o077, path
        if stat.S_ISREG(mode):
            assert not stat.S_IMODE(mode) & 0o100, path
