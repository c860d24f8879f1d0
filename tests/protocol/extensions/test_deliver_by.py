"""DELIVERBY: seconds on the wire, a point in time in the envelope (RFC 2852)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import NOW, Clock, converse, mail, offers, open_session, settings

from ironpost.model import NULL, Envelope
from ironpost.model.parameters import DeliverBy
from ironpost.protocol import replies
from ironpost.protocol.extensions import relay_reported, with_options
from ironpost.protocol.extensions.deliver_by import DeliverByTime
from ironpost.protocol.server.settings import ServerSettings

CLAIMED = frozenset({"DELIVERBY"})


def test_it_is_offered_if_claimed_and_with_a_clock() -> None:
    assert "DELIVERBY" in offers(open_session())
    assert "DELIVERBY 240" in offers(open_session(settings(extensions=with_options(DeliverByTime(240)))))
    for without in (settings(claims=frozenset()), ServerSettings(claims=CLAIMED)):
        session = open_session(without)
        assert not any(line.startswith("DELIVERBY") for line in offers(session))
        assert mail(session, "BY=120;R").startswith("555 5.5.4")


def test_the_envelope_has_the_point_in_time() -> None:
    session = open_session()
    assert mail(session, "BY=120;rt").startswith("250")
    assert session.transaction is not None
    assert session.transaction.parameters == {"BY": DeliverBy(int(NOW) + 120, returned=True, trace=True)}


@pytest.mark.parametrize("value", ["BY", "BY=120", "BY=0;R", "BY=-1;R", "BY=1000000000;N", "BY=120;X"])
def test_an_invalid_value_is_501(value: str) -> None:  # RFC 2852 §4
    assert mail(open_session(), value).startswith("501 5.5.4")


def test_a_time_below_the_minimum_is_refused_in_mode_r_only() -> None:  # RFC 2852 §3
    session = open_session(settings(extensions=with_options(DeliverByTime(240))))
    assert mail(session, "BY=239;R").startswith("555 5.5.4")
    assert mail(session, "BY=240;R").startswith("250")
    assert mail(session, "BY=1;N").startswith("250")


def test_the_remaining_time_is_sent_to_the_next_hop() -> None:  # RFC 2852 §4.1.4
    by = DeliverBy(int(NOW) + 120, returned=True, trace=True)
    clock = Clock()
    clock.time = NOW + 22
    outcomes, kept, said = converse(settings(clock), {"BY": by}, now=NOW + 22)
    assert outcomes[0].code == 250
    assert " BY=98;RT" in said
    assert kept.envelopes[0][0]["BY"] == by


@pytest.mark.parametrize("by", [DeliverBy(int(NOW) + 120, returned=False), DeliverBy(int(NOW) - 50, returned=False)])
def test_mode_n_is_sent_to_any_next_hop_even_if_late(by: DeliverBy) -> None:  # RFC 2852 §4.1.4.2
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
        (120, {"extensions": with_options(DeliverByTime(121))}, replies.PEER_LACKS_DELIVERBY),
        (0, {}, replies.BY_EXPIRED),
        (-5, {"claims": frozenset()}, replies.BY_EXPIRED),
    ],
)
def test_mode_r_requires_a_next_hop_with_the_extension(left: int, options: dict[str, object], refusal: object) -> None:
    by = DeliverBy(int(NOW) + left, returned=True)  # RFC 2852 §4.1.4.1
    outcomes, kept, said = converse(settings(**options), {"BY": by})
    assert outcomes == [refusal]
    assert "MAIL" not in said
    assert not kept.envelopes


@pytest.mark.parametrize("parameter", ["", "x", ",120", "120,x", "99999999999", "-5"])
def test_an_invalid_minimum_of_a_peer_is_ignored(parameter: str) -> None:
    from ironpost.protocol.extensions.deliver_by import _minimum

    assert _minimum(parameter) == (120 if parameter == "120,x" else 0)


@pytest.mark.parametrize(
    ("by", "offered", "reported"),
    [
        (DeliverBy(int(NOW) + 120, returned=False), {}, True),
        (DeliverBy(int(NOW) + 120, returned=False), {"DELIVERBY": ""}, False),
        (DeliverBy(int(NOW) - 5, returned=False), {}, False),
        (DeliverBy(int(NOW) - 5, returned=False, trace=True), {}, True),
        (DeliverBy(int(NOW) + 120, returned=False, trace=True), {"DELIVERBY": ""}, True),
        (DeliverBy(int(NOW) + 120, returned=True), {"DELIVERBY": ""}, False),
        (DeliverBy(int(NOW) + 120, returned=True, trace=True), {"DELIVERBY": ""}, True),
        (None, {}, False),
    ],
)
def test_when_the_sender_gets_a_report_of_relaying(  # RFC 2852 §4.1.4, §4.1.4.2
    by: DeliverBy | None, offered: dict[str, str], reported: bool
) -> None:
    envelope = Envelope(NULL, (), {"MT-PRIORITY": 1} if by is None else {"BY": by})
    assert relay_reported(envelope, offered, NOW) is reported
