"""What databases and programs answer, as records."""

from __future__ import annotations

from typing import Any

import pytest

from ironpost.accounts.records_fields import RecordError, record_of
from ironpost.model import Address
from ironpost.routing.directory import DirectoryError
from ironpost.routing.records import Record

ADA, BOB = Address.parse("ada@mail.example"), Address.parse("bob@other.example")


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({}, {}),
        ({"targets": "ada@mail.example, bob@other.example"}, {"targets": (ADA, BOB)}),
        ({"targets": "ada@mail.example\n bob@other.example,"}, {"targets": (ADA, BOB)}),
        ({"targets": ["ada@mail.example", "bob@other.example"], "keep": True}, {"targets": (ADA, BOB), "keep": True}),
        ({"targets": ['"a, b"@mail.example']}, {"targets": (Address("a, b", "mail.example"),)}),
        ({"targets": []}, {}),
        ({"targets": "", "keep": None, "disabled": ""}, {}),
        ({"targets": ["ada@mail.example"], "keep": 1, "disabled": 0}, {"targets": (ADA,), "keep": True}),
        ({"targets": ["ada@mail.example"], "keep": 1, "disabled": 1}, {"targets": (ADA,), "disabled": True}),
        ({"keep": 1}, {}),
        ({"quota": 1000}, {"quota": 1000}),
        ({"quota": "1000"}, {"quota": 1000}),
        ({"quota": 0}, {}),
        ({"senders": "ada, bob@mail.example"}, {"senders": ("ada", "bob@mail.example")}),
        ({"senders": ["Jo Doe"]}, {"senders": ("Jo Doe",)}),
        ({"keep": "FALSE", "disabled": "Yes"}, {"disabled": True}),
    ],
)  # fmt: skip
def test_each_field_in_each_of_its_forms(row: dict[str, Any], fields: dict[str, Any]) -> None:
    assert record_of([row], "here") == Record("here", **fields)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"address": "x"}, "unknown field 'address'; expected fields are targets, keep"),
        ({"targets": "ada@mail.example; bob@mail.example"}, "targets: "),
        ({"targets": "ada"}, "targets: 'ada' is not a valid address"),
        ({"targets": "postmaster"}, "targets: 'postmaster' is an address without a domain"),
        ({"targets": 7}, "targets: expected a text or a list of texts, found 7"),
        ({"targets": b"ada@mail.example"}, "targets: expected a text"),
        ({"targets": "x" * 5000}, "targets: "),
        ({"targets": "|/bin/sh"}, "targets: "),
        ({"targets": ["ada@mail.example", ""]}, "targets: "),
        ({"targets": {"ada@mail.example": 1}}, "targets: expected a text or a list of texts"),
        ({"targets": "ada@mail.example\0"}, "targets: "),
        ({"keep": "maybe"}, "keep: expected true or false, found 'maybe'"),
        ({"disabled": 2}, "disabled: expected true or false, found 2"),
        ({"disabled": 1.0}, "disabled: "),
        ({"senders": 5}, "senders: expected a text or a list of texts, found 5"),
        ({"quota": -1}, "quota: expected a whole number of octets"),
        ({"quota": 1.5}, "quota: "),
        ({"quota": True}, "quota: "),
        ({"quota": "9" * 5000}, "quota: "),
        ({"quota": "\u0661"}, "quota: "),
        ({"quota": "1GiB"}, "quota: "),
    ],
)  # fmt: skip
def test_an_invalid_field_is_named_with_the_source(row: dict[str, Any], why: str) -> None:
    with pytest.raises(RecordError) as caught:
        record_of([row], "here")
    assert str(caught.value).startswith(f"here: {why}")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert isinstance(caught.value, DirectoryError)


def test_several_rows_are_one_record() -> None:
    rows: list[dict[str, Any]] = [
        {"targets": "ada@mail.example", "keep": 1, "senders": "ada"},
        {"targets": "bob@other.example ada@mail.example", "keep": "true", "senders": ["bob", "ada"]},
    ]
    assert record_of(rows, "here") == Record("here", (ADA, BOB), keep=True, senders=("ada", "bob"))
    assert record_of([], "here") is None
    with pytest.raises(RecordError, match="here: keep differs between the rows of one record"):
        record_of([*rows, {"targets": "ada@mail.example", "keep": 0}], "here")
