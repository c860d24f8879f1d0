"""The example of docs/from-postfix.md loads, and does what the Postfix configuration does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ironpost.accounts.records_files import alias_file
from ironpost.cli.address_advice import address_remarks
from ironpost.compose.delivery import archives, rewriting
from ironpost.compose.directory import directory
from ironpost.config import parse
from ironpost.model import Address, Envelope, Recipient
from ironpost.processes.clock import SystemClock
from ironpost.routing.archive import archived
from ironpost.routing.directory import Alias, Mailbox, Relayed, Unknown
from ironpost.routing.records import RecordTable
from ironpost.routing.rewriting import Place

if TYPE_CHECKING:
    from ironpost.config import Configuration

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "from-postfix.md").read_text()
A = Address.parse


def example(folder: Path) -> Configuration:
    _, configuration, lines = re.findall(r"^```\w*\n(.*?)^```$", TEXT, re.S | re.M)
    (folder / "virtual").write_text(lines)
    assert "/etc/ironpost/virtual" in configuration
    return parse(configuration.replace("/etc/ironpost", str(folder)))


def test_the_example_decides_as_postfix_did(tmp_path: Path) -> None:
    found = example(tmp_path)
    records = alias_file(tmp_path / "virtual", found.serves(), SystemClock()).records
    known = directory(found, [RecordTable(records)])
    kinds = {
        "ada+news@mail.example": Mailbox,
        "info@mail.example": Alias,
        "any@mail.example": Alias,
        "jo@branch.example": Relayed,
        "no@branch.example": Unknown,
    }
    assert {text: type(known.find(A(text))) for text in kinds} == kinds
    ada = known.find(A("ada@mail.example"))
    assert isinstance(ada, Mailbox)
    assert ada.quota == 2147483648
    rules = rewriting(found, "reception")
    assert rules is not None
    changed = rules.find(Place.FORWARD_PATH, A("jo@old.example"))
    assert changed is not None
    assert str(changed.after) == "jo@mail.example"
    envelope = archived(Envelope(A("x@other.example"), (Recipient(A("ada@mail.example")),)), archives(found))
    assert [str(each.address) for each in envelope.recipients] == ["ada@mail.example", "archive@mail.example"]
    assert address_remarks(found) == []


def test_every_key_that_the_table_names_exists() -> None:
    documented = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()
    keys = set(re.findall(r"^\| `([a-z_.]+)`", documented, re.M))
    tables = {key.rpartition(".")[0] for key in keys} | {key.partition(".")[0] for key in keys}
    section = TEXT.partition("## main.cf")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `.*?` \| (.*) \|$", section, re.M)
    assert len(rows) > 30
    named = {each for row in rows for each in re.findall(r"`([a-z_]+\.[a-z_.]+)(?: = .*?)?`", row)}
    assert {each for each in named if "example" not in each} <= keys | tables
    assert {each for row in rows for each in re.findall(r"`\[+([a-z_.]+)\]+`", row)} <= keys | tables
