"""Filters and options of LDAP, and what its processes may do wrong; tests/interop/test_ldap.py has a real server."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.accounts import records_ldap
from ironpost.accounts.record_sources import SourceContext
from ironpost.accounts.records_ldap import LdapOptions, LdapRecords, filter_for
from ironpost.config import ConfigError, parse
from ironpost.processes.clock import SystemClock
from ironpost.routing.directory import DirectoryError
from ironpost.routing.profile import SecretSource

if TYPE_CHECKING:
    from collections.abc import Mapping

URL = "ldaps://ldap.mail.example"
BASE = "dc=mail,dc=example"
CONTEXT = SourceContext(SystemClock(), Path())


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("jo@mail.example", "(|(mail=jo@mail.example)(uid=jo))"),
        ("*@mail.example", r"(|(mail=\2a@mail.example)(uid=\2a))"),
        (")(uid=*@mail.example", r"(|(mail=\29\28uid=\2a@mail.example)(uid=\29\28uid=\2a))"),
        ("\\2a@mail.example", r"(|(mail=\5c2a@mail.example)(uid=\5c2a))"),
        ("\0a@mail.example", r"(|(mail=\00a@mail.example)(uid=\00a))"),
        ("{local}@mail.example", "(|(mail={local}@mail.example)(uid={local}))"),
        ("a@b@mail.example", "(|(mail=a@b@mail.example)(uid=a@b))"),
        ("@mail.example", None),
    ],
)
def test_r42_a_key_is_escaped_in_a_filter(key: str, wanted: str | None) -> None:
    assert filter_for("(|(mail={key})(uid={local}))", key) == wanted


def ldap(**values: str) -> str:
    given = {"url": URL, "base": BASE, "filter": "(mail={key})"} | values
    return "[[directory.ldap]]\n" + "".join(f"{name} = '{value}'\n" for name, value in given.items())


@pytest.mark.parametrize(
    "text",
    [
        "(mail={key})",
        "(|(mail={key})(mailAlternateAddress={key}))",
        "(&(objectClass=person)(|(mail={key})(mail=x-{local}))(!(accountStatus=disabled)))",
        "(mail:caseExactMatch:={key})",
        "(uid={local}*)",
    ],
)
def test_valid_filters(text: str) -> None:
    ((_, options),) = parse(ldap(filter=text)).directory.sources()
    assert isinstance(options, LdapOptions)
    assert options.filter == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(mail=jo)", "needs {key}, {local} or {domain}"),
        ("(mail={address})", "needs {key}, {local} or {domain}"),
        ("(mail={key})(uid={local})", "is not valid"),
        ("mail={key}", "is not valid"),
        ("(mail={key}", "is not valid"),
        ("((mail={key}))", "is not valid"),
        ("(|(mail={key})x)", "is not valid"),
        ("(!(mail={key})(uid={local}))", "is not valid"),
        ("({key}=x)", "is not valid"),
        ("(&{key})", "is not valid"),
    ],
)
def test_invalid_filters_are_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"directory\.ldap\[1\]\.filter") as caught:
        parse(ldap(filter=text))
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ldap.mail.example",
        "http://a.example",
        "ldap://",
        "ldap://jo:secret@a.example",
        "ldap://jo:secret@\u2100",
        "ldap://jo:secret#x@a.example",
        "ldap://a.example/dc=x",
        "ldap://a:b",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"directory\.ldap\[1\]\.url") as caught:
        parse(ldap(url=url))
    assert "not the URL of a server" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_attributes_are_those_of_fields() -> None:
    with pytest.raises(ConfigError, match="unknown field target; expected fields are targets"):
        parse(ldap() + "attributes = { target = 'mail' }")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"bind_dn": "cn=x"}, "^bind_dn and password are needed together"),
        ({"password": SecretSource("env", "X")}, "^bind_dn and password are needed together"),
        ({"starttls": True}, "^starttls is for ldap URLs"),
        ({"url": "ldap://a b"}, "^url and base: "),
        ({"base": "mail"}, "^url and base: "),
        ({"ca": Path("absent.pem")}, "^ca: absent.pem: No such file"),
        ({"bind_dn": "cn=x", "password": SecretSource("file", "absent")}, "^password: absent: No such file"),
    ],
)
def test_options_that_cannot_work_are_refused(more: Mapping[str, Any], why: str) -> None:
    pytest.importorskip("bonsai")
    with pytest.raises(ValueError, match=why):
        LdapOptions(**{"url": URL, "base": BASE, "filter": "(mail={key})", **more}).open(CONTEXT)


@pytest.mark.parametrize(
    ("url", "starttls", "allowed"),
    [
        ("ldap://ldap.mail.example", False, False),
        ("ldap://192.0.2.1", False, False),
        ("ldap://ldap.mail.example", True, True),
        ("ldaps://ldap.mail.example", False, True),
        ("ldap://localhost", False, True),
        ("ldap://127.0.0.1:3389", False, True),
        ("ldap://[::1]", False, True),
        ("ldapi://%2Frun%2Fldapi", False, True),
    ],
)
def test_r13_a_password_is_sent_encrypted(
    monkeypatch: pytest.MonkeyPatch, url: str, starttls: bool, allowed: bool
) -> None:
    pytest.importorskip("bonsai")
    monkeypatch.setenv("LDAP_PASSWORD", "secret")
    login = {"bind_dn": "cn=x", "password": SecretSource("env", "LDAP_PASSWORD")}
    options = LdapOptions(url, BASE, "(mail={key})", starttls=starttls, **login)  # type: ignore[arg-type]
    if allowed:
        assert isinstance(options.open(CONTEXT), LdapRecords)
    else:
        with pytest.raises(ValueError, match="the password would be sent unencrypted to"):
            options.open(CONTEXT)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bonsai", None)
    with pytest.raises(ValueError, match=r"LDAP needs the package bonsai, from pip install 'ironpost\[ldap\]'"):
        LdapOptions(URL, BASE, "(mail={key})").open(CONTEXT)


ANSWERS = """import sys
sys.stdin.readline()
for line in sys.stdin:
    print('{"error": "refused\\\\u0007"}', flush=True)
"""


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise SystemExit", "the search process failed: it has ended$"),
        ("raise SystemExit('no\\u0007 library')", r"the search process failed: it has ended: no\\x07 library$"),
        ("print('{' * 1_100_000)", "the search process failed: its answer has more than 1048576 octets"),
        (ANSWERS, r"^ldaps://ldap.mail.example: refused\\x07$"),
    ],
)
def test_a_process_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, why: str
) -> None:
    (tmp_path / "search.py").write_text(program)
    monkeypatch.setattr(records_ldap, "PROGRAM", tmp_path / "search.py")

    async def main() -> None:
        source = LdapRecords(LdapOptions(URL, BASE, "(mail={key})"), None)
        for _ in range(2):
            with pytest.raises(DirectoryError, match=why):
                await source.lookup("jo@mail.example")

    asyncio.run(main())


ENTRIES = """import os, sys
sys.stdin.readline()
for number, line in enumerate(sys.stdin):
    if number == 1:
        FAIL
    print('{"entries": [{}]}', flush=True)
"""


@pytest.mark.parametrize(
    ("failure", "repeated"), [("os._exit(1)", True), ("print('{' * 1_100_000)", False)], ids=["died", "too long"]
)
def test_a_search_is_repeated_in_another_process_only_if_its_own_has_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, repeated: bool
) -> None:
    """Each process answers once, and fails when it is asked again."""
    (tmp_path / "search.py").write_text(ENTRIES.replace("FAIL", failure))
    monkeypatch.setattr(records_ldap, "PROGRAM", tmp_path / "search.py")
    started: list[bytes] = []

    class Counted(records_ldap._SearchProcess):
        def __init__(self, settings: bytes) -> None:
            super().__init__(settings)
            started.append(settings)

    monkeypatch.setattr(records_ldap, "_SearchProcess", Counted)

    async def main() -> None:
        source = LdapRecords(LdapOptions(URL, BASE, "(mail={key})"), None)
        assert await source.lookup("jo@mail.example") is not None
        if repeated:
            assert await source.lookup("jo@mail.example") is not None
        else:
            with pytest.raises(DirectoryError, match="its answer has more than"):
                await source.lookup("jo@mail.example")

    asyncio.run(main())
    assert len(started) == (2 if repeated else 1)
