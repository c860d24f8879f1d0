"""What a client sends with AUTH is measured before anything is done with it."""

from __future__ import annotations

import sys
from base64 import b64encode

import pytest
from tests.protocol.test_auth import BAD, Clock, Talk, Users, limited, settings

from ironpost.protocol.sasl import names
from ironpost.protocol.sasl.backoff import LoginBackoff
from ironpost.protocol.sasl.names import NAME, PASSWORD, PrepareError, prepare

LIGATURE = "\ufdfa"
"""One code point, three octets, that becomes 18 characters."""


@pytest.mark.parametrize("text", ["a" * (NAME + 1), "é" * (NAME // 2 + 1), LIGATURE * (NAME // 3), "\U0001f600" * 3000])
def test_f23_what_is_too_long_is_refused_before_it_is_prepared(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def look(character: str) -> bool:
        looked.append(character)
        return False

    monkeypatch.setattr(names, "_PROHIBITED", ((look, "this"),))
    with pytest.raises(PrepareError, match="longer than 255 octets"):
        prepare(text)
    assert looked == []
    assert prepare("é" * (NAME // 2)) == "é" * (NAME // 2)
    assert len(looked) == NAME // 2


@pytest.mark.parametrize("account", ["a" * 5000, "\U0001f600" * 2200, LIGATURE * 80])
def test_f23_a_name_that_is_too_long_counts_as_a_guess_and_is_not_remembered(
    account: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    clock, users = Clock(), Users()
    same = limited(clock, users)
    line = b"AUTH PLAIN " + b64encode(f"\0{account}\0pencil".encode())
    for _ in range(51):
        assert Talk(same).say(line) == BAD
    assert users.asked == []
    assert max(len(record.getMessage()) for record in caplog.records) < 400
    assert Talk(same).say(b"AUTH PLAIN " + b64encode(b"\0ada\0pencil")).startswith("454 ")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_f23_a_password_has_room_for_a_sentence(mechanism: str) -> None:
    for length, answer in ((PASSWORD, BAD), (PASSWORD + 1, BAD)):
        users = Users()
        talk = Talk(settings(users))
        password = b"p" * length
        if mechanism == "PLAIN":
            assert talk.say(b"AUTH PLAIN " + b64encode(b"\0ada\0" + password)) == answer
        else:
            talk.say(b"AUTH LOGIN " + b64encode(b"ada"))
            assert talk.say(b64encode(password)) == answer
        assert bool(users.asked) is (length == PASSWORD)


def test_f23_the_back_off_keeps_nothing_that_a_client_can_make_long() -> None:
    limit = LoginBackoff(Clock())
    for number in range(100):
        limit.failed(f"{number}" + "x" * 10_000, "192.0.2.1")
        limit.succeeded(f"{number}" + "y" * 10_000, "192.0.2.1")
        limit.failed(f"{number}" + "y" * 10_000, "192.0.2.1")
    tables = [limit._accounts._entries, limit._networks._entries, limit._owners]
    assert [len(table) for table in tables] == [200, 1, 100]
    assert max(sys.getsizeof(key) for table in tables for key in table) < 64


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_f30_a_password_that_is_not_utf_8_is_a_wrong_one(mechanism: str) -> None:
    talk = Talk(settings())
    if mechanism == "PLAIN":
        assert talk.say(b"AUTH PLAIN " + b64encode(b"\0ada\0p\xe4ssword")) == BAD
    else:
        talk.say(b"AUTH LOGIN " + b64encode(b"ada"))
        assert talk.say(b64encode(b"p\xe4ssword")) == BAD
