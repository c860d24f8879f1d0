"""`ironpost check` follows aliases by the rules of the server, and warns of mail that would be accepted and bounced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ironpost.cli.address_advice import address_remarks
from ironpost.config import parse

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'local.domains = ["mail.example"]\n'
ADA = '[[mailbox]]\naddress = "ada@mail.example"\n'


def alias(name: str, *targets: str) -> str:
    return f'[[alias]]\naddress = "{name}@mail.example"\ntargets = {list(targets)}\n'


UNKNOWN = "takes no mail (550 5.1.1 User unknown)"
LISTED = '[[relay]]\ndomains = ["branch.example"]\nrecipients = ["jo@branch.example"]\n'
DATABASE = '[[directory.sql]]\ndatabase = "/x"\nquery = "SELECT 1 WHERE :key"\n'


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (ADA + alias("team", "ada@mail.example", "x@other.example", "ada+x@mail.example", "abuse@mail.example"), []),
        (ADA + alias("ada2", "ada2@mail.example"), []),
        (
            ADA + alias("team", "gone@mail.example") + alias("all", "team@mail.example"),
            [f"alias[1]: its target gone@mail.example {UNKNOWN}; add or remove it"],
        ),
        (
            alias("ping", "Pong@mail.example") + alias("pong", "Ping@mail.example") + alias("all", "ping@mail.example"),
            [
                "alias[1]: ping@mail.example -> pong@mail.example -> ping@mail.example is a loop, so its mail fails; "
                "remove a target"
            ],
        ),
        (
            '[[mailbox]]\naddress = "left@mail.example"\ndisabled = true\n'
            '[[mailbox]]\naddress = "jo@mail.example"\nforward = ["left@mail.example"]\n',
            [
                "mailbox[2]: its target left@mail.example takes no mail (550 5.2.1 Mailbox disabled, not accepting "
                "messages); add or remove it"
            ],
        ),
        (ADA + alias("", "typo@mail.example", "x@other.example"), []),
        (
            ADA + '[[alias]]\npattern = \'x-(.+)@mail\\.example\'\ntargets = ["{1}@mail.example", "no@mail.example"]\n',
            [f"alias[1].targets: no@mail.example {UNKNOWN}; add it, or name another address"],
        ),
        (
            ADA + LISTED + alias("a", "jo@branch.example") + alias("b", "flo@branch.example"),
            [f"alias[2]: its target flo@branch.example {UNKNOWN}; add or remove it"],
        ),
        (ADA + LISTED + 'verify = "callout"\n' + alias("b", "flo@branch.example"), []),
        (
            f'local.postmaster = "x@mail.example"\n[[archive]]\ndomains = ["*"]\nto = "vault@mail.example"\n{ADA}',
            [
                f"local.postmaster: x@mail.example {UNKNOWN}; add it, or name another address",
                f"archive[1].to: vault@mail.example {UNKNOWN}; add it, or name another address",
            ],
        ),
        (
            f'hostname = "mx.mail.example"\nsendmail.directory = "/var/spool/ironpost"\n{ADA}',
            [f"sendmail.directory: root@mail.example {UNKNOWN}; add it, or name another address"],
        ),
        (DATABASE + alias("team", "gone@mail.example"), []),
    ],
)
def test_mail_that_would_be_accepted_and_returned_causes_a_warning(text: str, warnings: list[str]) -> None:
    assert address_remarks(parse(HEAD + text)) == warnings


def test_files_are_followed_too(tmp_path: Path) -> None:
    file = tmp_path / "aliases"
    file.write_text("team@mail.example: ada@mail.example, gone@mail.example\nada@mail.example: max@mail.example\n")
    text = f'{HEAD}directory.files = ["{file}"]\n' + alias("max", "ada@mail.example")
    assert address_remarks(parse(text)) == [
        "alias[1]: max@mail.example -> ada@mail.example -> max@mail.example is a loop, so its mail fails; "
        "remove a target",
        f"{file}, line 1: its target gone@mail.example {UNKNOWN}; add or remove it",
    ]


def test_an_address_that_cannot_be_expanded_causes_a_warning() -> None:
    chain = "".join(alias(f"a{number}", f"a{number + 1}@mail.example") for number in range(21))
    found = address_remarks(parse(HEAD + 'local.postmaster = "a0@mail.example"\n' + ADA + chain))
    deep = "the alias a20@mail.example is nested more than 20 levels deep; its mail is deferred"
    assert [each for each in found if each.startswith(("alias[1]", "local"))] == [
        f"alias[1]: {deep}",
        f"local.postmaster: {deep}",
    ]
