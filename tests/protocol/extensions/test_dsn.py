"""DSN: parameters are parsed to typed values, and relayed unchanged (RFC 3461)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import converse, mail, offers, open_session, rcpt, settings

from ironpost.model.parameters import DeliverBy, EnvelopeId, Notify, OriginalRecipient, Return
from ironpost.protocol.server.settings import ServerSettings

OTHERS = settings(claims=frozenset())


def test_it_is_offered_only_if_claimed() -> None:
    assert "DSN" in offers(open_session())
    session = open_session(OTHERS)
    assert "DSN" not in offers(session)
    assert mail(session, "RET=HDRS").startswith("555 5.5.4")
    assert rcpt(session, "NOTIFY=NEVER").startswith("555 5.5.4")


def test_the_envelope_has_typed_values() -> None:
    session = open_session()
    assert mail(session, "ret=full ENVID=QQ314159").startswith("250")
    assert session.transaction is not None
    assert session.transaction.parameters == {"RET": Return.FULL, "ENVID": EnvelopeId("QQ314159")}
    assert rcpt(session, "NOTIFY=Success,delay ORCPT=rfc822;Bob@b.example").startswith("250")
    assert session.transaction.recipients[0].parameters == {
        "NOTIFY": Notify.SUCCESS | Notify.DELAY,
        "ORCPT": OriginalRecipient("rfc822", "Bob@b.example"),
    }


@pytest.mark.parametrize(
    "parameters", ["RET", "RET=ALL", "ENVID", "ENVID=+0A", "ENVID=" + "a" * 101, "RET=FULL RET=HDRS", "ENVID=a ENVID=b"]
)
def test_r43_an_invalid_value_in_mail_is_501(parameters: str) -> None:  # RFC 3461 §5.1
    session = open_session()
    assert mail(session, parameters).startswith("501 5.5.4")
    assert session.transaction is None


@pytest.mark.parametrize("parameters", ["NOTIFY", "NOTIFY=NEVER,DELAY", "ORCPT", "ORCPT=rfc822", "ORCPT=rfc822;+0D+0A"])
def test_r43_an_invalid_value_in_rcpt_is_501(parameters: str) -> None:
    session = open_session()
    assert rcpt(session, parameters).startswith("501 5.5.4")
    assert session.transaction is not None
    assert not session.transaction.recipients


def test_the_longest_values_fit_into_the_command_line() -> None:  # RFC 3461 §4.2, §4.4
    session = open_session()
    sender = f"MAIL FROM:<{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}>".encode()
    session.receive(sender + b" RET=FULL ENVID=" + b"e" * 100 + b" SIZE=10 BODY=8BITMIME SMTPUTF8\r\n")
    assert session.output().startswith(b"250")
    recipient = f"RCPT TO:<{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}>".encode()
    session.receive(recipient + b" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;" + b"o" * 487 + b"\r\n")
    assert session.output().startswith(b"250")


ASKED = {"RET": Return.HDRS, "ENVID": EnvelopeId("a+20b")}
OF_EACH = (
    {"NOTIFY": Notify.NEVER},
    {"NOTIFY": Notify.SUCCESS | Notify.FAILURE, "ORCPT": OriginalRecipient("rfc822", "Bob+2Bx@b.example")},
    {},
)


def test_parameters_are_relayed_unchanged() -> None:  # RFC 3461 §5.2.1
    outcomes, kept, said = converse(settings(), ASKED, OF_EACH)
    assert [reply.code for reply in outcomes] == [250] * 3
    parameters, recipients = kept.envelopes[0]
    assert {key: parameters[key] for key in ASKED} == ASKED
    assert recipients == list(OF_EACH)
    assert "RET=HDRS ENVID=a+20b" in said
    assert "RCPT TO:<b1@b.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob+2Bx@b.example\r\n" in said
    assert "RCPT TO:<b2@b.example>\r\n" in said


def test_no_parameters_are_sent_to_a_next_hop_without_it() -> None:  # RFC 3461 §5.2.2
    outcomes, kept, said = converse(OTHERS, ASKED, OF_EACH)
    assert [reply.code for reply in outcomes] == [250] * 3
    assert kept.envelopes[0][1] == [{}, {}, {}]
    for word in ("RET", "ENVID", "NOTIFY", "ORCPT"):
        assert word not in said


@pytest.mark.parametrize("utf8", [True, False])
def test_an_internationalised_orcpt_has_the_form_that_the_transaction_allows(utf8: bool) -> None:
    original = OriginalRecipient("utf-8", "jörg@b.example")  # RFC 6533 §3
    parameters = {"SMTPUTF8": None} if utf8 else {}
    content = "Subject: ö\r\n\r\nhi\r\n".encode() if utf8 else b"Subject: x\r\n\r\nhi\r\n"
    _, kept, _ = converse(settings(), parameters, ({"ORCPT": original},), content=content)
    (arrived,) = kept.envelopes[0][1]
    assert arrived["ORCPT"] == (original if utf8 else original.seven_bit())
    assert arrived["ORCPT"].address == original.address


def test_an_orcpt_that_becomes_too_long_is_omitted() -> None:
    original = OriginalRecipient("utf-8", "ö" * 400)
    outcomes, kept, _ = converse(settings(), {}, ({"ORCPT": original},))
    assert outcomes[0].code == 250
    assert kept.envelopes[0][1] == [{}]


def test_delay_is_requested_at_a_hop_without_deliverby() -> None:  # RFC 2852 §4.1.4.2
    by = {"BY": DeliverBy(1_764_055_000, returned=False)}
    of_each = ({}, {"NOTIFY": Notify.SUCCESS}, {"NOTIFY": Notify.NEVER})
    _, kept, _ = converse(settings(claims=frozenset({"DSN"})), by, of_each)
    assert [each["NOTIFY"] for each in kept.envelopes[0][1]] == [
        Notify.FAILURE | Notify.DELAY,
        Notify.SUCCESS | Notify.DELAY,
        Notify.NEVER,
    ]
    _, kept, _ = converse(settings(claims=frozenset({"DSN", "DELIVERBY"})), by, of_each)
    assert kept.envelopes[0][1] == list(of_each)


def test_after_helo_there_are_no_parameters() -> None:
    session = open_session(ServerSettings("mx.example", claims=frozenset({"DSN"})))
    session.receive(b"HELO client.example\r\n")
    session.output()
    assert mail(session, "RET=HDRS").startswith("555")
