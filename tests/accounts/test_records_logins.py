"""Accounts of the users file as mailboxes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.accounts.test_records_cache import Clock

from ironpost.accounts.file import UsersFile
from ironpost.accounts.record_sources import SourceContext
from ironpost.accounts.records_files import INTERVAL
from ironpost.accounts.records_logins import addresses_of, login_file
from ironpost.compose.directory import directory, record_sources
from ironpost.config import parse
from ironpost.model import Address
from ironpost.routing.directory import Alias, Closed, Entry, Mailbox, Unknown

if TYPE_CHECKING:
    from pathlib import Path

DOMAINS = ("mail.example", "shop.example", "*.branch.example")


@pytest.mark.parametrize(
    ("login", "addresses"),
    [
        ("ada", ["ada@mail.example", "ada@shop.example"]),
        ("Ada@Shop.example", ["Ada@Shop.example"]),
        ("ada@north.branch.example", ["ada@north.branch.example"]),
        ("ada@other.example", []),
        ("ada@", []),
        ("a da", []),
    ],
)
def test_the_addresses_of_a_login(login: str, addresses: list[str]) -> None:
    assert [str(each) for each in addresses_of(login, DOMAINS)] == addresses


def test_an_account_that_is_added_gets_mail(tmp_path: Path) -> None:
    async def main() -> None:
        clock, users = Clock(), UsersFile(tmp_path / "users")
        found = login_file(users.path, DOMAINS, clock)
        assert found.lookup("ada@mail.example") is None
        users.add("ADA", "pencil case")
        clock.time += INTERVAL
        pending = found.lookup("ada@mail.example")
        assert pending is not None
        assert not isinstance(pending, tuple)
        record = await pending
        assert record is not None
        assert (record.where, record.targets) == ("the login ADA", ())

    asyncio.run(main())


def entries(tmp_path: Path, text: str) -> list[type[Entry]]:
    UsersFile(tmp_path / "users").add("ada", "pencil case")
    configuration = parse(f'auth.users = "{tmp_path / "users"}"\nlocal.domains = ["mail.example"]\n{text}')
    found = directory(configuration, record_sources(configuration, SourceContext(Clock(), tmp_path)))
    return [type(found.find(Address.parse(f"{name}@mail.example"))) for name in ("ada", "jo", "max")]


JO = '[[mailbox]]\naddress = "jo@mail.example"\n'


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("", [Mailbox, Mailbox, Mailbox]),
        (JO, [Mailbox, Mailbox, Unknown]),
        ('local.recipients = ["jo@mail.example"]\n', [Mailbox, Mailbox, Unknown]),
        ("local.recipients = []\n", [Mailbox, Unknown, Unknown]),
        (f"directory.logins = false\n{JO}", [Unknown, Mailbox, Unknown]),
        ('[[mailbox]]\naddress = "ada@mail.example"\ndisabled = true\n', [Closed, Unknown, Unknown]),
        ('[[alias]]\naddress = "ada@mail.example"\ntargets = ["jo@other.example"]\n', [Alias, Unknown, Unknown]),
    ],
    ids=["every address", "a mailbox", "listed", "logins only", "not logins", "disabled", "alias"],
)  # fmt: skip
def test_logins_are_added_to_the_addresses_that_exist(tmp_path: Path, text: str, kinds: list[type[Entry]]) -> None:
    assert entries(tmp_path, text) == kinds
