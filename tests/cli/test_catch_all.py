"""f60: by default all mail stays on this machine. f61: the commands that the program prints at start work."""

from __future__ import annotations

import smtplib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.accounts.file import UsersFile
from ironpost.cli import serve as module
from ironpost.compose.auth import first_login
from ironpost.compose.directory import directory
from ironpost.config import default, parse
from ironpost.model import Address
from ironpost.routing.directory import Alias, Mailbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MESSAGE = b"From: ada@app.example\r\nDelivered-To: forged@else.example\r\nSubject: x\r\n\r\ny\r\n"
TO = ["customer@shop.example", "jo@sub.other.example", "x@[192.0.2.1]", "you@localhost"]


def test_f60_with_a_wildcard_mail_for_every_domain_is_local(serve: Callable[..., Any]) -> None:
    running = serve('trusted = []\n[local]\ndomains = ["*"]\n')
    with smtplib.SMTP("127.0.0.1", running.port, "client.example") as client:
        assert client.sendmail("ada@app.example", TO, MESSAGE) == {}
        assert client.sendmail("nobody@gone.example", ["late@shop.example"], MESSAGE) == {}
    stored = running.wait_for_mail(5)
    running.wait_until_empty()
    found = [line for each in stored for line in each.splitlines() if line.lower().startswith(b"delivered-to")]
    assert sorted(found) == sorted(b"Delivered-To: " + to.encode() for to in [*TO, "late@shop.example"])
    assert f"mail for every domain is delivered to the Maildir {running.data / 'mail'}" in running.said
    assert "nothing is sent to other systems" in running.said
    assert running.stop() == 0


def banner(configuration: Any, login: Any = None, file: Path | None = None) -> list[str]:
    return module._banner(SimpleNamespace(configuration=configuration, first_login=login, listeners=[]), file)  # type: ignore[arg-type]


def test_f60_the_banner_says_that_no_mail_leaves_without_a_file(tmp_path: Path) -> None:
    said = banner(default())
    assert "no configuration file: mail for every domain is delivered here" in said
    assert "mail for every domain is delivered to the Maildir ironpost-data/mail" in said
    assert "nothing is sent to other systems" in said
    said = banner(parse('local.domains = ["a.example", "b.example"]'), file=tmp_path / "ironpost.toml")
    assert "mail for *@a.example, *@b.example is delivered to the Maildir ironpost-data/mail" in said
    assert not any("nothing is sent" in line or "no configuration file" in line for line in said)


def test_f60_the_first_user_of_a_catch_all_has_a_real_domain(tmp_path: Path) -> None:
    made = first_login(default().model_copy(update={"data": tmp_path}))
    assert made is not None
    assert made.name == "you@localhost"


@pytest.mark.parametrize(
    ("domains", "recipients", "sample"),
    [
        (["a.example"], None, "you@a.example"),
        (["*"], None, "you@localhost"),
        (["*.a.example"], None, "you@host.a.example"),
        (["a.example"], ["jo@a.example"], "jo@a.example"),
        (["a.example"], ["jo@gone.example", "flo@a.example"], "flo@a.example"),
        (["b.example"], ["*@b.example"], "you@b.example"),
        (["b.example"], ["*@*"], "you@b.example"),
        (["a.example"], [], "postmaster@a.example"),
        ([], [], "postmaster"),
    ],
)
def test_f61_the_recipient_in_the_examples_is_accepted(
    serve: Callable[..., Any], domains: list[str], recipients: list[str] | None, sample: str
) -> None:
    text = f"[local]\ndomains = {domains}\n" + ("" if recipients is None else f"recipients = {recipients}\n")
    assert module.sample_recipient(parse(text)) == sample
    if recipients is None and domains != ["*.a.example"]:
        return  # the other cases start the program, which is slow
    running = serve(f"trusted = []\n{text}")
    (line,) = [line for line in running.said if line.startswith("try:")]
    assert line == f"try:  swaks --server 127.0.0.1 --port {running.port} --to {sample}"
    with smtplib.SMTP("127.0.0.1", running.port, "client.example") as client:
        client.ehlo()
        client.mail("ada@app.example")
        assert client.rcpt(sample)[0] == 250


def test_f61_the_examples_name_a_user_that_exists(serve: Callable[..., Any]) -> None:
    running = serve("", 'role = "submission"')
    assert "no user can log in yet; add one with: ironpost user add you@localhost" in running.said
    assert not any(line.startswith("try:") for line in running.said)
    assert running.stop() == 0
    UsersFile(running.data / "users").add("ada", "correct horse")
    running.start()
    (line,) = [line for line in running.said if line.startswith("try:")]
    assert line.endswith("--tls --auth PLAIN --auth-user ada --from ada@localhost --to you@localhost")


@pytest.mark.parametrize(
    ("entries", "sample"),
    [
        ('[[mailbox]]\naddress = "jo@a.example"\n', "jo@a.example"),
        (
            '[[mailbox]]\naddress = "old@a.example"\ndisabled = true\n[[mailbox]]\naddress = "jo@a.example"\n',
            "jo@a.example",
        ),
        ('[[mailbox]]\naddress = "old@a.example"\ndisabled = true\n', "postmaster@a.example"),
        ('[[alias]]\naddress = "team@a.example"\ntargets = ["x@far.example"]\n', "team@a.example"),
        ('[[alias]]\naddress = "@a.example"\ntargets = ["x@far.example"]\n', "you@a.example"),
        (
            '[[relay]]\ndomains = ["far.example"]\n[[alias]]\naddress = "x@far.example"\ntargets = ["y@a.example"]\n',
            "postmaster@a.example",
        ),
        ('[[alias]]\npattern = "x.*@a[.]example"\ntargets = ["jo@b.example"]\n', "postmaster@a.example"),
        ('[directory]\nfiles = ["aliases"]\n', "postmaster@a.example"),
    ],
    ids=["mailbox", "after a disabled one", "disabled", "alias", "catch-all", "alias elsewhere", "pattern", "file"],
)
def test_f61_the_recipient_in_the_examples_is_one_that_the_directory_has(entries: str, sample: str) -> None:
    found = parse(f'[local]\ndomains = ["a.example"]\n{entries}')
    assert module.sample_recipient(found) == sample
    assert isinstance(directory(found).find(Address.parse(sample)), Mailbox | Alias)


def test_the_banner_says_that_other_agents_deliver_some_mail(tmp_path: Path) -> None:
    text = '[local]\ndomains = ["a.example"]\n[[local.delivery]]\nrecipients = ["no@a.example"]\ndiscard = {}\n'
    (line,) = [each for each in banner(parse(text), file=tmp_path / "ironpost.toml") if "Maildir" in each]
    assert line.endswith("ironpost-data/mail, but for what [[local.delivery]] names")
