"""RRVS: deliver only if the mailbox has had the same owner since then (RFC 7293)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import Keeper, converse, offers, open_session, rcpt, settings
from tests.protocol.test_server_session import greeted

from ironpost.model import Reply
from ironpost.model.parameters import ValidSince
from ironpost.protocol import replies

OTHERS = settings(claims=frozenset())
SINCE = 1_396_566_060


def test_it_is_offered_if_claimed() -> None:
    assert "RRVS" in offers(open_session())
    assert "RRVS" not in offers(open_session(OTHERS))
    assert rcpt(open_session(OTHERS), "RRVS=2014-04-03T23:01:00Z").startswith("555 5.5.4")


@pytest.mark.parametrize(
    "value", ["RRVS", "RRVS=2014-04-03", "RRVS=2014-04-03T23:01:00.5Z", "RRVS=2014-04-03T23:01:00Z;X"]
)
def test_an_invalid_value_is_501(value: str) -> None:
    assert rcpt(open_session(), value).startswith("501 5.5.4")


def test_the_handler_decides() -> None:  # RFC 7293 §5.1
    class Owner(Keeper):
        def recipient(self, session, forward_path, parameters):
            since = parameters.get("RRVS")
            if since is not None and since.since < SINCE:
                return Reply(550, "5.7.17", ("Mailbox owner has changed",))
            return None

    session = greeted(Owner(), settings())
    assert rcpt(session, "RRVS=2014-04-03T23:00:59Z").startswith("550 5.7.17")
    assert rcpt(session, "RRVS=2014-04-03T23:01:00Z;C").startswith("250")
    assert session.transaction is not None
    assert session.transaction.recipients[0].parameters == {"RRVS": ValidSince(SINCE, "C")}


def test_it_is_relayed_with_its_action() -> None:  # RFC 7293 §5.1.1
    of_each = ({"RRVS": ValidSince(SINCE)}, {"RRVS": ValidSince(SINCE, "R")}, {"RRVS": ValidSince(SINCE, "C")}, {})
    outcomes, kept, said = converse(settings(), {}, of_each)
    assert [reply.code for reply in outcomes] == [250] * 4
    assert kept.envelopes[0][1] == list(of_each)
    assert "RCPT TO:<b1@b.example> RRVS=2014-04-03T23:01:00Z;R\r\n" in said


def test_a_next_hop_without_it_gets_only_recipients_with_action_continue() -> None:
    of_each = ({"RRVS": ValidSince(SINCE)}, {"RRVS": ValidSince(SINCE, "R")}, {"RRVS": ValidSince(SINCE, "C")}, {})
    outcomes, kept, said = converse(OTHERS, {}, of_each)
    assert outcomes[:2] == [replies.PEER_LACKS_RRVS] * 2
    assert [reply.code for reply in outcomes[2:]] == [250] * 2
    assert kept.envelopes[0][1] == [{}, {}]
    assert "b0@b.example" not in said


def test_if_no_recipient_may_continue_no_transaction_is_sent() -> None:
    outcomes, _, said = converse(OTHERS, {}, ({"RRVS": ValidSince(SINCE)},))
    assert outcomes == [replies.PEER_LACKS_RRVS]
    assert "MAIL" not in said
