"""DELIVERBY: seconds on the wire, a moment in between (RFC 2852)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import NOW, Clock, converse, mail, offers, open_session, settings

from ironpost.model.parameters import DeliverBy
from ironpost.protocol import replies
from ironpost.protocol.settings import Settings

CLAIMED = frozenset({"DELIVERBY"})


def test_it_exists_where_it_is_claimed_and_there_is_a_clock() -> None:
    assert "DELIVERBY" in offers(open_session())
    assert "DELIVERBY 240" in offers(open_session(settings(deliver_by_minimum=240)))
    for without in (settings(claims=frozenset()), Settings(claims=CLAIMED)):
        session = open_session(without)
        assert not any(line.startswith("DELIVERBY") for line in offers(session))
        assert mail(session, "BY=120;R").startswith("555 5.5.4")


def test_the_envelope_has_the_moment() -> None:
    session = open_session()
    assert mail(session, "BY=120;rt").startswith("250")
    assert session.transaction is not None
    assert session.transaction.parameters == {"BY": DeliverBy(int(NOW) + 120, returned=True, trace=True)}


@pytest.mark.parametrize("value", ["BY", "BY=120", "BY=0;R", "BY=-1;R", "BY=1000000000;N", "BY=120;X"])
def test_a_bad_value_is_501(value: str) -> None:  # RFC 2852 §4
    assert mail(open_session(), value).startswith("501 5.5.4")


def test_less_than_the_least_is_refused_in_mode_r_only() -> None:  # RFC 2852 §3
    session = open_session(settings(deliver_by_minimum=240))
    assert mail(session, "BY=239;R").startswith("555 5.5.4")
    assert mail(session, "BY=240;R").startswith("250")
    assert mail(session, "BY=1;N").startswith("250")


def test_what_is_left_is_handed_on() -> None:  # RFC 2852 §4.1.4
    by = DeliverBy(int(NOW) + 120, returned=True, trace=True)
    clock = Clock()
    clock.time = NOW + 22
    outcomes, kept, said = converse(settings(clock), {"BY": by}, now=NOW + 22)
    assert outcomes[0].code == 250
    assert " BY=98;RT" in said
    assert kept.envelopes[0][0]["BY"] == by


@pytest.mark.parametrize("by", [DeliverBy(int(NOW) + 120, returned=False), DeliverBy(int(NOW) - 50, returned=False)])
def test_mode_n_goes_anywhere_and_may_be_late(by: DeliverBy) -> None:  # RFC 2852 §4.1.4.2
    outcomes, kept, said = converse(settings(claims=frozenset()), {"BY": by})
    assert outcomes[0].code == 250
    assert "BY=" not in said
    outcomes, kept, said = converse(settings(), {"BY": by})
    assert outcomes[0].code == 250
    assert kept.envelopes[0][0]["BY"] == by


@pytest.mark.parametrize(
    ("left", "options", "refusal"),
    [
        (120, {"claims": frozenset()}, replies.PEER_LACKS_DELIVERBY),
        (120, {"deliver_by_minimum": 121}, replies.PEER_LACKS_DELIVERBY),
        (0, {}, replies.BY_EXPIRED),
        (-5, {"claims": frozenset()}, replies.BY_EXPIRED),
    ],
)
def test_mode_r_needs_a_next_hop_that_promises_it(left: int, options: dict[str, object], refusal: object) -> None:
    by = DeliverBy(int(NOW) + left, returned=True)  # RFC 2852 §4.1.4.1
    outcomes, kept, said = converse(settings(**options), {"BY": by})
    assert outcomes == [refusal]
    assert "MAIL" not in said
    assert not kept.envelopes


@pytest.mark.parametrize("parameter", ["", "x", ",120", "120,x", "99999999999", "-5"])
def test_what_a_peer_says_of_its_least_time_is_read_with_care(parameter: str) -> None:
    from ironpost.protocol.extensions.deliver_by import _minimum

    assert _minimum(parameter) == (120 if parameter == "120,x" else 0)
