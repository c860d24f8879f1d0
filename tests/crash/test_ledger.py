"""The ledger detects each kind of violation: a harness that cannot fail would prove nothing."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType


def ledger(accounts: ModuleType, reply: str, *copies: Any) -> Any:
    """A ledger with one message, `m`, whose content is `x`."""
    made = accounts.Ledger()
    made.sent["m"] = accounts.Sent("m", accounts.digest(b"x"), reply)
    if copies:
        made.copies["m"] = list(copies)
    return made


def test_accepted_mail_that_did_not_arrive_is_missing(accounts: ModuleType) -> None:
    copy = accounts.Copy(accounts.digest(b"x"), 0, 0)
    assert ledger(accounts, accounts.ACCEPTED).missing() == ["m"]
    assert ledger(accounts, accounts.ACCEPTED, copy).missing() == []
    assert ledger(accounts, accounts.SILENT).missing() == []
    assert ledger(accounts, accounts.REFUSED).missing() == []


def test_refused_mail_that_arrived_is_detected(accounts: ModuleType) -> None:
    copy = accounts.Copy(accounts.digest(b"x"), 0, 0)
    assert ledger(accounts, accounts.REFUSED, copy).refused_but_delivered() == ["m"]
    assert ledger(accounts, accounts.REFUSED).refused_but_delivered() == []
    assert ledger(accounts, accounts.SILENT, copy).refused_but_delivered() == []


def test_altered_content_and_unknown_mail_are_detected(accounts: ModuleType) -> None:
    right, wrong = (accounts.Copy(accounts.digest(text), 0, 0) for text in (b"x", b"y"))
    assert ledger(accounts, accounts.ACCEPTED, right).altered() == []
    assert ledger(accounts, accounts.ACCEPTED, right, wrong).altered() == ["m"]
    stranger = ledger(accounts, accounts.ACCEPTED, right)
    stranger.copies["n"] = [right]
    assert stranger.altered() == ["n"]


@pytest.mark.parametrize(
    ("answered", "epochs", "window"),
    [(True, (0, 1), "kill"), (False, (0, 0), "lost reply"), (True, (3, 3), "unexplained")],
)
def test_a_second_copy_is_counted_by_its_window(
    accounts: ModuleType, answered: bool, epochs: tuple[int, int], window: str
) -> None:
    copies = accounts.Copy("", epochs[0], 0, answered), accounts.Copy("", epochs[1], 0)
    made = ledger(accounts, accounts.ACCEPTED, *copies)
    assert {name: found for name, found in made.duplicates().items() if found} == {window: ["m"]}
    assert not any(made.duplicates(since=epochs[1] + 1).values())


def test_a_message_goes_from_the_clients_to_the_receiver_unaltered(accounts: ModuleType) -> None:
    """The load speaks to the receiver without a server between them."""

    async def run() -> Any:
        made = accounts.Ledger()
        receiver = accounts.Receiver(made, random.Random(1))
        await receiver.start()

        async def port() -> int:
            return int(receiver.port)

        await accounts.Load(made, random.Random(2), port, "m").send(20, 3)
        receiver.defers = 1.0
        await accounts.Load(made, random.Random(3), port, "refused").send(2, 1)
        receiver.defers, receiver.vanishes = 0.0, 1.0
        await accounts.Load(made, random.Random(4), port, "silent").send(2, 1)
        await receiver.close()
        return made

    made = asyncio.run(run())
    replies = [len(made.of(reply)) for reply in (accounts.ACCEPTED, accounts.REFUSED, accounts.SILENT)]
    assert replies == [20, 2, 2]
    assert (made.missing(), made.altered(), made.refused_but_delivered()) == ([], [], [])
    assert len(made.copies) == 22
    assert sum(not copy.answered for copies in made.copies.values() for copy in copies) == 2
