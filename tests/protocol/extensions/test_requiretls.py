"""REQUIRETLS: never without TLS (RFC 8689)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import converse, mail, offers, open_session, settings

from ironpost.protocol import replies

TAG = {"REQUIRETLS": None}
OTHERS = settings(claims=frozenset())


def test_it_is_offered_under_tls_only() -> None:
    assert "REQUIRETLS" in offers(open_session(tls=True))
    assert "REQUIRETLS" not in offers(open_session())
    assert "REQUIRETLS" not in offers(open_session(OTHERS, tls=True))


def test_the_message_is_tagged() -> None:  # RFC 8689 §4.1
    session = open_session(tls=True)
    assert mail(session, "REQUIRETLS").startswith("250")
    assert session.transaction is not None
    assert session.transaction.parameters == TAG


def test_r38_without_tls_with_a_value_or_unclaimed_it_is_refused() -> None:
    assert mail(open_session(), "REQUIRETLS") == "530 5.7.10 Encryption needed"
    assert mail(open_session(tls=True), "REQUIRETLS=yes").startswith("501 5.5.4")
    assert mail(open_session(OTHERS, tls=True), "REQUIRETLS").startswith("555 5.5.4")


def test_under_verified_tls_it_is_relayed() -> None:  # RFC 8689 §4.2.1
    outcomes, kept, said = converse(settings(), TAG, tls=True, verified=True)
    assert outcomes[0].code == 250
    assert " REQUIRETLS\r\n" in said
    assert "REQUIRETLS" in kept.envelopes[0][0]


@pytest.mark.parametrize(
    ("tls", "verified", "claimed", "refusal"),
    [
        (True, True, False, replies.PEER_LACKS_REQUIRETLS),
        (False, False, True, replies.PEER_LACKS_REQUIRETLS),  # offered under TLS only
        (True, False, False, replies.PEER_LACKS_REQUIRETLS),
        (True, False, True, replies.PEER_NOT_VERIFIED),
    ],
)
def test_r38_without_verified_tls_the_message_is_refused_before_mail(
    tls: bool, verified: bool, claimed: bool, refusal: object
) -> None:
    outcomes, _, said = converse(settings() if claimed else OTHERS, TAG, tls=tls, verified=verified)
    assert outcomes == [refusal]
    assert outcomes[0].enhanced == ("5.7.30" if refusal is replies.PEER_LACKS_REQUIRETLS else "5.7.10")
    assert "MAIL" not in said


def test_a_bounce_is_sent_without_it() -> None:  # RFC 8689 §5
    outcomes, kept, said = converse(OTHERS, TAG, sender="")
    assert outcomes[0].code == 250
    assert "REQUIRETLS" not in said
    _, kept, _ = converse(settings(), TAG, tls=True, verified=True, sender="")
    assert "REQUIRETLS" in kept.envelopes[0][0]
