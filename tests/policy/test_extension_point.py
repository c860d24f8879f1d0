"""Checks from outside the package: one file each and one line in the registry, in a whole server with real sockets."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import smtplib
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import create_model
from tests.policy.example_checks import Exclamations, Shouting

from ironpost.compose.system import System
from ironpost.config import ConfigError, Configuration, parse
from ironpost.config.policies import policy_section
from ironpost.policy import LocalSystem, Ports
from ironpost.policy.checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REGISTRY = (*CHECKS, Exclamations, Shouting)
PATIENCE = 30.0
CONFIGURATION = """
data = "{folder}/data"
hostname = "mx.here.example"

[[listener]]
role = "mx"
listen = ["127.0.0.1:0"]
tls = "none"

[local]
domains = ["here.example"]

[policy]
shouting = 3

[policy.exclamations]
enabled = true
exempt = ["loud.example"]
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a line in `policy.checks.CHECKS` does: the class of the configuration is made from it at import."""
    section = policy_section(REGISTRY)
    extended = create_model("Configuration", __base__=Configuration, policy=(section, section()))
    monkeypatch.setattr(importlib.import_module("ironpost.config.load"), "Configuration", extended)


def delivered(folder: Path, talk: Callable[[smtplib.SMTP], Any]) -> list[bytes]:
    """What a server delivers while `talk` runs, in the order of delivery."""

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, "client.example", PATIENCE) as connection:
            talk(connection)

    async def run() -> list[bytes]:
        system = System(parse(CONFIGURATION.format(folder=folder)), lambda: system.configuration)
        listening = asyncio.Event()
        server = asyncio.create_task(system.run(listening.set))
        await listening.wait()
        ((_, port, *_),) = (listener.bound[0] for listener in system.listeners)
        try:
            await asyncio.to_thread(client, port)
            async with asyncio.timeout(PATIENCE):
                while await system.queue.list():
                    await asyncio.sleep(0)
        finally:
            system._supervisor.stop()
            await server
        new = folder / "data" / "mail" / "new"
        return [path.read_bytes() for path in sorted(new.iterdir())] if new.is_dir() else []

    return asyncio.run(run())


def message(marks: str, extra: bytes = b"") -> bytes:
    return extra + b"Subject: hello!\r\nX-exclamations: 0,\r\n folded\r\n\r\n" + marks.encode() + b"\r\n"


def test_a_field_is_added_and_another_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def talk(client: smtplib.SMTP) -> None:
        client.sendmail("jo@elsewhere.example", "flo@here.example", message("a!" + "b" * 500_000))

    with caplog.at_level(logging.INFO, "ironpost.inbound"):
        (stored,) = delivered(tmp_path, talk)
    head, _, body = stored.partition(b"\n\n")
    names = [line.partition(b":")[0] for line in head.split(b"\n") if line[:1] not in b" \t"]
    assert names == [b"Return-Path", b"Delivered-To", b"X-Exclamations", b"Received", b"Subject"]
    assert b"\nX-Exclamations: 2\n" in head
    assert body == b"a!" + b"b" * 500_000 + b"\n"


def test_a_later_check_reads_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def talk(client: smtplib.SMTP) -> None:
        with pytest.raises(smtplib.SMTPDataError) as refusal:
            client.sendmail("jo@elsewhere.example", "flo@here.example", message("!!"))
        assert (refusal.value.smtp_code, refusal.value.smtp_error) == (550, b"5.7.1 No shouting")
        client.sendmail("jo@loud.example", "flo@here.example", message("!!"))
        client.sendmail("jo@elsewhere.example", "flo@here.example", message("quiet"))

    with caplog.at_level(logging.INFO, "ironpost.inbound"):
        stored = delivered(tmp_path, talk)
    assert sorted(b"X-Exclamations: 1\n" in each for each in stored) == [False, True]
    assert not any(b"X-exclamations" in each for each in stored)
    records = [json.loads(each.getMessage()) for each in caplog.records if each.name == "ironpost.inbound"]
    (refused,) = (each for each in records if each["event"] == "refused")
    assert refused["reasons"] == ["exclamations: 3 marks in 52 octets", "shouting: 3 marks"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[policy]\nshoutin = 3", 'policy.shoutin: unknown key; did you mean "shouting"?'),
        ("[policy.exclamations]\nexmpt = []", 'policy.exclamations.exmpt: unknown key; did you mean "exempt"?'),
        ("[policy]\nshouting = 0", "policy.shouting: minimum: 1"),
        ('[policy]\nshouting = "3"', "policy.shouting: expected a whole number"),
        ('[policy.exclamations]\nenabled = "yes"', "policy.exclamations.enabled: expected true or false"),
        ('[policy.exclamations]\nexempt = ["@"]', 'policy.exclamations.exempt[1]: "@" is neither'),
        ("[policy]\nexclamations = true", "write its keys under [policy.exclamations]"),
    ],
)
def test_its_keys_are_validated_like_all_others(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert complaint in str(error.value)


def test_it_runs_only_if_its_options_enable_it() -> None:
    def enabled(text: str) -> bool:
        return any(isinstance(check, Exclamations) for check in parse(text).policy.checks(LocalSystem(), Ports()))

    assert enabled("[policy.exclamations]\nenabled = true")
    assert not enabled("")
