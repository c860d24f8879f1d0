"""BINARYMIME: any octets, in chunks (RFC 3030 §3)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import CLAIMS, Keeper, converse, mail, offers, open_session, settings
from tests.protocol.test_server_session import ENVELOPE, codes, greeted, say

from ironpost.model import BodyType
from ironpost.protocol import replies
from ironpost.protocol.client.session import ClientSession, OutgoingTransaction

OCTETS = b"Content-Transfer-Encoding: binary\r\n\r\n\0\r\n.\r\n\n\r\xff" + b"x" * 2_000_000 + b"\n.\n"
BINARY = {"BODY": BodyType.BINARY}
START = b"MAIL FROM:<a@a.example> BODY=binarymime\r\nRCPT TO:<b@b.example>\r\n"


def test_it_is_offered_if_claimed() -> None:
    assert "BINARYMIME" in offers(open_session())
    session = open_session(settings(claims=CLAIMS - {"BINARYMIME"}))
    assert "BINARYMIME" not in offers(session)
    assert mail(session, "BODY=BINARYMIME").startswith("501 5.5.4")
    assert mail(session, "BODY=8BITMIME").startswith("250")
    assert mail(session, "SMTPUTF8 BODY=8B\u0131TMIME").startswith("501 5.5.4")  # in upper case it would be an I


def test_every_octet_of_a_chunk_is_preserved() -> None:
    handler = Keeper()
    session = greeted(handler, settings(max_body_line=998))
    half = len(OCTETS) // 2
    written = say(
        session,
        START + b"BDAT %d\r\n" % half + OCTETS[:half] + b"BDAT %d LAST\r\n" % (len(OCTETS) - half) + OCTETS[half:],
    )
    assert codes(written) == [b"250"] * 4
    assert handler.messages == [OCTETS]
    assert handler.envelopes[0][0] == BINARY


def test_binarymime_ends_with_its_message() -> None:
    session = greeted(Keeper(), settings())
    assert codes(say(session, START + b"BDAT 1 LAST\r\n\0")) == [b"250"] * 3
    assert codes(say(session, ENVELOPE + b"BDAT 1 LAST\r\n\0")) == [b"250", b"250", b"550"]


def test_data_is_503_and_the_transaction_is_over() -> None:
    handler = Keeper()
    session = greeted(handler, settings())
    assert say(session, START + b"DATA\r\n").endswith(b"503 5.5.1 BODY=BINARYMIME requires BDAT\r\n")
    assert session.transaction is None
    assert codes(say(session, b"BDAT 2 LAST\r\nhiNOOP\r\n")) == [b"503", b"250"]
    assert handler.messages == []


def test_a_message_over_the_size_limit_is_refused() -> None:
    session = greeted(Keeper(), settings(max_size=65_536))
    assert codes(say(session, START + b"BDAT 65537 LAST\r\n" + b"\0" * 65_537))[-1] == b"552"


@pytest.mark.parametrize("pieces", [None, (OCTETS,), (OCTETS[:7], b"", OCTETS[7:9], OCTETS[9:])])
def test_our_client_sends_binary_content_unchanged(pieces: tuple[bytes, ...] | None) -> None:
    outcomes, kept, said = converse(settings(), BINARY, content=OCTETS, pieces=pieces)
    assert outcomes[0].code == 250
    assert kept.messages == [OCTETS]
    assert kept.envelopes[0][0]["BODY"] is BodyType.BINARY
    assert "BODY=BINARYMIME" in said
    assert "DATA\r\n" not in said


def test_empty_binary_content_is_accepted() -> None:
    _, kept, _ = converse(settings(), BINARY, pieces=())
    assert kept.messages == [b""]


@pytest.mark.parametrize("pieces", [None, (OCTETS,)])
def test_it_is_not_sent_to_a_next_hop_without_it(pieces: tuple[bytes, ...] | None) -> None:
    outcomes, _, said = converse(settings(claims=frozenset()), BINARY, content=OCTETS, pieces=pieces)
    assert outcomes == [replies.PEER_LACKS_BINARY]
    assert "MAIL" not in said


def test_a_refused_chunk_ends_the_message_and_the_session_continues() -> None:
    outcomes, kept, said = converse(settings(max_size=65_536), BINARY, pieces=(b"\0" * 50_000, b"\0" * 50_000, b"\0"))
    assert outcomes[0].code == 552
    assert kept.messages == []
    assert said.count("BDAT") == 2


def test_a_client_without_chunking_cannot_send_it() -> None:
    from ironpost.model import Address, Envelope, Recipient

    client = ClientSession("client.example", chunking=False)
    client.receive(b"220 mx.example\r\n250-mx.example\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"[:16])
    client.output()
    client.receive(b"250-mx.example\r\n250-CHUNKING\r\n250 BINARYMIME\r\n")
    sent = OutgoingTransaction(
        Envelope(Address.parse(""), (Recipient(Address.parse("b@b.example")),), BINARY), content=b"\0"
    )
    client.begin(sent)
    assert [outcome.reply for outcome in sent.outcomes if outcome] == [replies.PEER_LACKS_BINARY]
