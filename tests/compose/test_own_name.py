"""What the server calls itself where nobody configured it."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import pytest

from ironpost.compose import own_name as module
from ironpost.compose.own_name import own_name
from ironpost.config import parse

NAMELESS = parse("", "test")


def test_f21_a_dead_name_server_holds_neither_the_loop_nor_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()

    def dead(name: str) -> str:
        answer.wait(60)
        return f"{name}.example"

    monkeypatch.setattr(socket, "gethostname", lambda: "mx")
    monkeypatch.setattr(socket, "getfqdn", dead)
    monkeypatch.setattr(module, "NAME_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "ironpost")
    with asyncio.Runner() as runner:
        assert runner.run(own_name(NAMELESS)) == "mx"
    answer.set()
    assert "looking up the full name of 'mx'" in caplog.text
    assert "was not found" in caplog.text


def test_f21_a_configured_name_is_never_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda _: pytest.fail("it was looked up"))
    assert asyncio.run(own_name(parse('hostname = "mx.example"', "test"))) == "mx.example"


def test_f21_the_full_name_is_used_where_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "MX")
    monkeypatch.setattr(socket, "getfqdn", lambda _: "MX.here.example")
    assert asyncio.run(own_name(NAMELESS)) == "mx.here.example"


@pytest.mark.parametrize(("full", "name"), [("my_mx.example", "mx"), ("mx..example", "mx"), ("mx", "mx")])
def test_f21_an_invalid_host_name_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, full: str, name: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "mx")
    monkeypatch.setattr(socket, "getfqdn", lambda _: full)
    assert asyncio.run(own_name(NAMELESS)) == name
    assert (f"name {full!a} is not a valid mail server name" in caplog.text) is (full != "mx")


def test_f21_localhost_is_not_taken_silently(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "my_mx.example")
    assert asyncio.run(own_name(NAMELESS)) == "localhost"
    assert "configure hostname" in caplog.text
