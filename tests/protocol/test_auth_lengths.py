"""Names and passwords in AUTH are checked for their length before they are processed."""

from __future__ import annotations

from base64 import b64encode

import pytest
from tests.protocol.test_auth import BAD, Clock, Talk, Users, limited, settings

from ironpost.model.keyed_state import MemoryState
from ironpost.protocol.sasl import names
from ironpost.protocol.sasl.backoff import NAMESPACES, LoginBackoff
from ironpost.protocol.sasl.names import NAME, PASSWORD, PrepareError, prepare

LIGATURE = "\ufdfa"
"""One code point of three octets that preparation turns into 18 characters."""


@pytest.mark.parametrize("text", ["a" * (NAME + 1), "é" * (NAME // 2 + 1), LIGATURE * (NAME // 3), "\U0001f600" * 3000])
def test_f23_overlong_names_and_passwords_are_refused_before_preparation(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_f23_an_overlong_name_counts_as_a_failed_login_and_is_not_stored(
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
def test_f23_a_password_may_be_a_sentence(mechanism: str) -> None:
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


def test_f23_back_off_stores_only_keys_of_bounded_length() -> None:
    state = MemoryState(NAMESPACES, Clock().now)
    limit = LoginBackoff(state)
    for number in range(100):
        limit.failed(f"{number}" + "x" * 10_000, "192.0.2.1")
        limit.succeeded(f"{number}" + "y" * 10_000, "192.0.2.1")
        limit.failed(f"{number}" + "y" * 10_000, "192.0.2.1")
    usage = {each.namespace: each for each in state.usage()}
    assert {name: each.entries for name, each in usage.items() if name != "login-delays"} == {
        "login-accounts": 200, "login-networks": 1, "login-owners": 100,
    }  # fmt: skip
    assert all(each.octets <= 32 * each.entries for each in usage.values())


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_f30_a_password_that_is_not_utf_8_is_a_wrong_one(mechanism: str) -> None:
    talk = Talk(settings())
    if mechanism == "PLAIN":
        assert talk.say(b"AUTH PLAIN " + b64encode(b"\0ada\0p\xe4ssword")) == BAD
    else:
        talk.say(b"AUTH LOGIN " + b64encode(b"ada"))
        assert talk.say(b64encode(b"p\xe4ssword")) == BAD
