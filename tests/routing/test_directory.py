"""Aliases are expanded completely, once, and always with an end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ironpost.model import Address, Recipient
from ironpost.model.parameters import Notify, OriginalRecipient
from ironpost.model.patterns import Addresses, Domains
from ironpost.protocol.replies import NOT_ACCEPTED_HERE
from ironpost.queue.codec import decode_parameters, encode_parameters
from ironpost.routing.directory import (
    MAX_DEPTH,
    MAX_TARGETS,
    Alias,
    Directory,
    DirectoryError,
    Entry,
    Mailbox,
    NotLocal,
    Step,
    Unknown,
    expand,
    refusal,
)
from ironpost.routing.mail_directory import MailDirectory, RelayDomains
from ironpost.routing.route import Kind, Route, Routes, Rule
from ironpost.testing.directory import TableDirectory, local

if TYPE_CHECKING:
    from collections.abc import Mapping

A = Address.parse


def expanded(directory: Directory, *addresses: str | Recipient, accepted: int | None = None) -> tuple[Recipient, ...]:
    async def main() -> tuple[Recipient, ...]:
        recipients = tuple(each if isinstance(each, Recipient) else Recipient(A(each)) for each in addresses)
        result = expand(recipients, directory, accepted=len(recipients) if accepted is None else accepted)
        return result if isinstance(result, tuple) else await result

    return asyncio.run(main())


def names(directory: Directory, *addresses: str) -> list[str]:
    return [str(recipient.address) for recipient in expanded(directory, *addresses)]


def table(aliases: Mapping[str, list[str]]) -> TableDirectory:
    return TableDirectory(["here.example"], mailboxes=["jo@here.example", "max@here.example"], aliases=aliases)


def test_without_an_alias_and_io_nothing_is_copied() -> None:
    recipients = (Recipient(A("jo@here.example")), Recipient(A("jo@there.example")))
    for directory in (local(["here.example"]), MailDirectory(Domains(["here.example"]))):
        for accepted in (0, 2):
            assert expand(recipients, directory, accepted=accepted) is recipients


def test_an_alias_becomes_its_targets_and_the_original_recipient_is_kept() -> None:
    directory = table({"both@here.example": ["jo@here.example", "x@there.example"]})
    first, second, third = expanded(directory, "both@here.example", "max@here.example")
    assert [str(each.address) for each in (first, second, third)] == [
        "jo@here.example", "x@there.example", "max@here.example",
    ]  # fmt: skip
    assert first.original == second.original == A("both@here.example")
    assert third.original is None
    assert first.parameters["ORCPT"] == OriginalRecipient.of("both@here.example")
    assert "ORCPT" not in third.parameters


def test_an_alias_of_an_alias_names_the_first_address() -> None:
    directory = table({"one@here.example": ["two@here.example"], "two@here.example": ["jo@here.example"]})
    (recipient,) = expanded(directory, "one@here.example")
    assert (recipient.address, recipient.original) == (A("jo@here.example"), A("one@here.example"))
    assert str(recipient.parameters["ORCPT"]) == "rfc822;one@here.example"


def test_targets_are_delivered_once() -> None:
    directory = table(
        {
            "a@here.example": ["b@here.example", "jo@here.example"],
            "b@here.example": ["jo@here.example", "max@here.example"],
        }
    )
    assert names(directory, "a@here.example", "jo@here.example", "b@here.example") == [
        "jo@here.example", "max@here.example",
    ]  # fmt: skip


def refusals(recipients: tuple[Recipient, ...]) -> dict[str, str | None]:
    return {str(each.address): why.enhanced if (why := refusal(each)) else None for each in recipients}


def test_an_alias_that_names_itself_keeps_a_copy() -> None:
    directory = table({"jo@here.example": ["jo@here.example", "max@here.example"]})
    assert refusals(expanded(directory, "jo@here.example")) == {"jo@here.example": None, "max@here.example": None}


@pytest.mark.parametrize(
    ("aliases", "recipients"),
    [
        ({"a@here.example": ["b@here.example"], "b@here.example": ["a@here.example"]}, {"a@here.example": "5.4.6"}),
        (
            {"a@here.example": ["b@here.example", "jo@here.example"], "b@here.example": ["a@here.example"]},
            {"a@here.example": "5.4.6", "jo@here.example": None},
        ),
        (
            {
                "a@here.example": ["max@here.example"],
                "max@here.example": ["max@here.example", "jo@here.example"],
                "jo@here.example": ["max@here.example"],
            },
            {"max@here.example": None},
        ),
        ({"a@here.example": ["gone@here.example"]}, {"gone@here.example": "5.1.1"}),
    ],
    ids=["loop", "loop beside a mailbox", "a copy is kept", "unknown"],
)
def test_an_alias_that_leads_nowhere_leaves_a_refused_recipient(
    aliases: dict[str, list[str]], recipients: dict[str, str | None]
) -> None:
    found = expanded(table(aliases), "a@here.example")
    assert refusals(found) == recipients
    assert all(each.original == A("a@here.example") for each in found)


LISTED = MailDirectory(
    Domains(["here.example"]),
    listed=Addresses(["jo@here.example"]),
    relay=[RelayDomains(Domains(["branch.example"]), Addresses(["jo@branch.example"]))],
    has_aliases=False,
)


class Slow:
    """Answers like `LISTED`, after an iteration of the event loop."""

    has_aliases = False

    async def find(self, address: Address) -> Entry:
        await asyncio.sleep(0)
        found = LISTED.find(address)
        assert isinstance(found, tuple)
        return found


@pytest.mark.parametrize("directory", [LISTED, Slow()], ids=["without I/O", "with I/O"])
def test_what_rcpt_did_not_accept_is_refused_by_the_same_rules(directory: Directory) -> None:
    addresses = ["gone@here.example", "jo@here.example", "typo@here.example", "x@branch.example", "x@there.example"]
    assert refusals(expanded(directory, *addresses, accepted=1)) == {
        "gone@here.example": None,
        "jo@here.example": None,
        "typo@here.example": "5.1.1",
        "x@branch.example": "5.1.1",
        "x@there.example": None,
    }
    assert not any(refusals(expanded(directory, *addresses)).values())


def test_what_refuses_a_recipient_survives_the_store() -> None:
    (found,) = expanded(table({"a@here.example": ["gone@here.example"]}), "a@here.example")
    stored = Recipient(found.address, decode_parameters(encode_parameters(found.parameters)))
    assert refusal(stored) == NOT_ACCEPTED_HERE


def test_the_steps_of_an_expansion() -> None:
    aliases = {
        "all@here.example": ["team@here.example", "jo@here.example", "gone@here.example"],
        "team@here.example": ["jo@here.example", "x@there.example"],
    }
    steps: list[Step] = []

    async def main() -> None:
        all_ = (Recipient(A("all@here.example")),)
        await expand(all_, table(aliases), accepted=1, steps=steps)  # type: ignore[misc] # with steps

    asyncio.run(main())
    assert [(step.level, str(step.address), type(step.entry), step.repeated) for step in steps] == [
        (0, "all@here.example", Alias, False),
        (1, "team@here.example", Alias, False),
        (2, "jo@here.example", Mailbox, False),
        (2, "x@there.example", NotLocal, False),
        (1, "jo@here.example", Mailbox, True),
        (1, "gone@here.example", Unknown, False),
    ]
    assert [step.refusal for step in steps] == [None, None, None, None, None, NOT_ACCEPTED_HERE]


def test_parameters_follow_rfc_3461() -> None:
    directory = table({"one@here.example": ["jo@here.example"], "two@here.example": ["jo@here.example", "x@y.example"]})
    orcpt = OriginalRecipient.of("first@client.example")
    for alias, notify in (("one", Notify.SUCCESS | Notify.FAILURE), ("two", Notify.FAILURE)):
        recipient = Recipient(A(f"{alias}@here.example"), {"ORCPT": orcpt, "NOTIFY": Notify.SUCCESS | Notify.FAILURE})
        for each in expanded(directory, recipient):
            assert each.parameters == {"ORCPT": orcpt, "NOTIFY": notify}


def test_depth_and_number_are_limited() -> None:
    deep = {f"a{n}@here.example": [f"a{n + 1}@here.example"] for n in range(MAX_DEPTH + 1)}
    wide = {"all@here.example": [f"x{n}@there.example" for n in range(MAX_TARGETS + 1)]}
    for aliases in (deep, wide, {"none@here.example": list[str]()}):
        with pytest.raises(DirectoryError):
            expanded(table(aliases), next(iter(aliases)))


def test_a_failing_directory_raises() -> None:
    with pytest.raises(DirectoryError):
        expanded(TableDirectory(["here.example"], failing=["jo@here.example"]), "jo@here.example")


def test_routing_asks_the_same_directory() -> None:
    async def main() -> None:
        routes = Routes(table({"a@here.example": ["jo@here.example"]}), [Rule(("*",), Route.smart(["hub.example"]))])
        for address, kind in {
            "jo@here.example": Kind.LOCAL, "a@here.example": Kind.LOCAL, "gone@here.example": Kind.LOCAL,
            "x@there.example": Kind.SMART_HOST,
        }.items():  # fmt: skip
            decision = routes.decide(A(address))
            assert not hasattr(decision, "route")
            assert (await decision).route.kind is kind  # type: ignore[misc]

    asyncio.run(main())
