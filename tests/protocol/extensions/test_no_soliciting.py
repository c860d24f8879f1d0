"""NO-SOLICITING: unwanted classes of solicitation (RFC 3865)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import converse, mail, offers, open_session, settings

from ironpost.model.parameters import Solicitation
from ironpost.protocol import replies
from ironpost.protocol.extensions import with_options
from ironpost.protocol.extensions.no_soliciting import NoSoliciting

UNWANTED = settings(extensions=with_options(NoSoliciting(("net.example:ADV", "org.example:ADLT"))))
NOTHING = settings(extensions=with_options(NoSoliciting(())))


def test_it_is_offered_if_configured_even_without_a_class() -> None:  # RFC 3865 §2.2, §2.8: no class by default
    assert "NO-SOLICITING net.example:ADV,org.example:ADLT" in offers(open_session(UNWANTED))
    assert "NO-SOLICITING" in offers(open_session(NOTHING))
    session = open_session()
    assert not any(line.startswith("NO-SOLICITING") for line in offers(session))
    assert mail(session, "SOLICIT=a").startswith("555 5.5.4")
    with pytest.raises(ValueError, match="solicitation class"):
        NoSoliciting(("two words",))


def test_an_unwanted_class_is_refused_by_name() -> None:  # RFC 3865 §2.4
    session = open_session(UNWANTED)
    assert mail(session, "SOLICIT=x,NET.example:adv") == "550 5.7.1 SOLICIT=net.example:ADV"
    assert mail(session, "SOLICIT=net.example:ADV:ADLT").startswith("250")
    assert session.transaction is not None
    assert session.transaction.parameters == {"SOLICIT": Solicitation(("net.example:ADV:ADLT",))}


@pytest.mark.parametrize("value", ["SOLICIT", "SOLICIT=1", "SOLICIT=a,", "SOLICIT=" + "a" * 1001])
def test_an_invalid_value_is_501(value: str) -> None:
    assert mail(open_session(NOTHING), value).startswith("501 5.5.4")


def test_the_longest_list_fits_into_the_command_line() -> None:
    assert mail(open_session(NOTHING), f"SOLICIT={'a' * 1000} SIZE=1000 BODY=8BITMIME").startswith("250")


def test_our_client_relays_it_unless_the_next_hop_refuses_the_class() -> None:
    said_of_itself = {"SOLICIT": Solicitation(("org.example:ADLT",))}
    outcomes, _, said = converse(UNWANTED, said_of_itself)
    assert outcomes == [replies.PEER_WANTS_NO_SOLICITING]
    assert "MAIL" not in said
    _, kept, _ = converse(NOTHING, said_of_itself)
    assert kept.envelopes[0][0]["SOLICIT"] == said_of_itself["SOLICIT"]
    outcomes, _, said = converse(settings(), said_of_itself)
    assert outcomes[0].code == 250
    assert "SOLICIT" not in said
