"""Verdicts: what each is answered with, and what cannot be one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ironpost.model import Reply
from ironpost.model.verdict import (
    LONGEST,
    Action,
    Verdict,
    accept,
    defer,
    drop,
    greeting,
    quarantine,
    reject,
    tarpit,
    unenhanced,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("verdict", "action", "line"),
    [
        (accept("Stored as 17"), Action.ACCEPT, "250 2.0.0 Stored as 17"),
        (defer(), Action.DEFER, "451 4.7.1 Try again later"),
        (defer("Full", code=452, status="2.2"), Action.DEFER, "452 4.2.2 Full"),
        (reject(), Action.REJECT, "550 5.7.1 Not accepted"),
        (reject("Gone", code=551, status="1.6"), Action.REJECT, "551 5.1.6 Gone"),
    ],
)
def test_the_class_of_the_enhanced_code_is_that_of_the_reply(verdict: Verdict, action: Action, line: str) -> None:
    assert verdict.action is action
    assert str(verdict.reply) == line
    assert verdict.refused == line.startswith(("4", "5"))


@pytest.mark.parametrize("verdict", [accept(), quarantine("odd"), drop("abuse"), tarpit(5)])
def test_what_is_not_refused_gets_the_usual_reply(verdict: Verdict) -> None:
    assert verdict.final.reply is None
    assert not verdict.refused


def test_what_the_log_may_say_is_not_what_the_peer_reads() -> None:
    verdict = reject("No", detail="on the list of 17 May")
    assert verdict.reply is not None
    assert verdict.reply.octets == b"550 5.7.1 No\r\n"
    assert (verdict.reply.detail, verdict.reason) == ("on the list of 17 May",) * 2
    assert str(quarantine("odd")) == "quarantine: odd"
    assert str(tarpit(5, reject("No"))) == "tarpit 5 s, then reject (550 5.7.1 No)"


def test_delays_add_up_to_a_limit_and_never_nest() -> None:
    verdict = tarpit(5, tarpit(7, reject()))
    assert (verdict.seconds, verdict.then) == (12, reject())
    assert tarpit(200, tarpit(200)).seconds == LONGEST
    assert verdict.refused
    assert verdict.final == reject()


@pytest.mark.parametrize(
    "make",
    [
        lambda: reject("No", code=450),
        lambda: defer("Later", code=550),
        lambda: reject("No", status="5.7.1"),
        lambda: reject("two\r\nlines"),
        lambda: reject("nul\0"),
        lambda: accept("two\nlines"),
        lambda: tarpit(0),
        lambda: tarpit(-5, tarpit(10)),
        lambda: tarpit(LONGEST + 1),
        lambda: tarpit(float("nan")),
        lambda: Verdict(Action.REJECT),
        lambda: Verdict(Action.DROP, Reply(250, "2.0.0", ("yes",))),
        lambda: Verdict(Action.ACCEPT, Reply(550, "5.0.0", ("no",))),
        lambda: Verdict(Action.ACCEPT, then=accept()),
        lambda: Verdict(Action.TARPIT, seconds=5),
        lambda: Verdict.refuse(Reply(250, "2.0.0", ("yes",))),
    ],
)
def test_r17_what_cannot_be_answered_cannot_be_a_verdict(make: Callable[[], Verdict]) -> None:
    with pytest.raises(ValueError):
        make()


def test_a_greeting_and_an_answer_to_ehlo_have_no_enhanced_code() -> None:
    assert greeting(Reply(550, "5.7.1", ("No",))).octets == b"554 No\r\n"
    assert greeting(Reply(451, "4.7.1", ("Later",))).octets == b"421 Later\r\n"
    assert unenhanced(Reply(550, "5.7.1", ("No",))).octets == b"550 No\r\n"
    assert unenhanced(Reply(550, None, ("No",))).octets == b"550 No\r\n"
