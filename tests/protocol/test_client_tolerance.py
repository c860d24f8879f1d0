"""Protocol errors that the client tolerates: each is counted by name and can be switched off."""

from __future__ import annotations

from base64 import b64encode

import pytest

from ironpost.model import Address, Disposition, Envelope, Recipient
from ironpost.protocol.client.session import ClientSession, ClientState, Ending, OutgoingTransaction, Security
from ironpost.protocol.client.tolerance import TOLERANCES, Tolerance
from ironpost.protocol.extensions.auth import Submitter
from ironpost.protocol.sasl import Credentials

D, P, F = Disposition.DELIVERED, Disposition.DEFERRED, Disposition.FAILED
ADA = Credentials("ada", "secret")
LOGIN_ONLY = Security(credentials=ADA, mechanisms=("LOGIN",))
PLAIN_ONLY = Security(credentials=ADA, mechanisms=("PLAIN",))
PLAIN = b64encode(b"\0ada\0secret") + b"\r\n"


class Counted:
    """A `Metrics` that records names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def count(self, name: str, label: str = "", amount: int = 1) -> None:
        assert (name, amount) == ("client_tolerances", 1)
        self.names.append(label)


def greeted(offer: bytes, security: Security, *lacking: Tolerance) -> tuple[ClientSession, list[str]]:
    counted = Counted()
    session = ClientSession(
        "client.example", security=security, secure=True, tolerances=TOLERANCES - set(lacking), metrics=counted
    )
    session.receive(b"220 mx.example\r\n")
    session.output()
    session.receive(offer)
    return session, counted.names


def ready(offer: bytes, *lacking: Tolerance) -> tuple[ClientSession, list[str]]:
    session, names = greeted(offer, Security(), *lacking)
    assert session.state is ClientState.READY
    return session, names


def sending(**parameters: object) -> OutgoingTransaction:
    envelope = Envelope(Address.parse("a@a.example"), (Recipient(Address.parse("b@b.example")),), parameters)
    return OutgoingTransaction(envelope, content=b"Subject: x\r\n\r\nhi\r\n")


# -- f41: strictness without benefit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 220, 251, 259])
def test_f41_any_2yz_reply_to_ehlo_lists_extensions(code: int) -> None:  # RFC 5321 §4.3.2
    session, names = ready(b"%d-mx.example\r\n%d SIZE 1000\r\n" % (code, code))
    assert session.offered == {"SIZE": "1000"}
    assert names == []


def test_f41_any_3yz_to_auth_is_a_challenge() -> None:  # RFC 5321 §4.3.2
    session, names = greeted(b"250-mx.example\r\n250 AUTH LOGIN\r\n", LOGIN_ONLY)
    session.output()
    session.receive(b"354 VXNlcm5hbWU6\r\n")
    assert session.output() == b64encode(b"ada") + b"\r\n"
    assert names == []


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 1000])
@pytest.mark.parametrize(
    ("reply", "expected", "text"),
    [
        (b"571 5.7.1 not from you\r\n", F, "550 5.7.1 not from you"),
        (b"571-5.7.1 not\r\n571 5.7.1 from you\r\n", F, "550 5.7.1 not from you"),
        (b"471\r\n", P, "450 "),
        (b"450 571 in the text\r\n", P, "450 571 in the text"),
        (b"450-a\r\n450-571\r\n450 571\r\n", P, "450 a 571 571"),
    ],
)
def test_f41_an_invalid_code_is_interpreted_by_its_first_digit(
    piece: int, reply: bytes, expected: Disposition, text: str
) -> None:
    session, names = ready(b"260-mx.example\r\n260 SIZE\r\n")
    assert "SIZE" in session.offered
    sent = sending()
    session.begin(sent)
    session.receive(b"250 ok\r\n")
    for at in range(0, len(reply), piece):
        session.receive(reply[at : at + piece])
    outcome = sent.outcomes[0]
    assert outcome is not None
    assert (outcome.disposition, str(outcome.reply)) == (expected, text)
    assert set(names) == {"reply-codes"}
    assert session.state is ClientState.READY


def test_f41_the_framing_of_an_invalid_code_is_still_strict() -> None:
    for reply in (b"571ok\r\n", b"671 no\r\n", b"171 no\r\n", b"5x1 no\r\n", b"571-a\r\n450 b\r\n", b"57\r\n"):
        session, _ = ready(b"250 mx.example\r\n")
        session.begin(sending())
        session.receive(reply)
        assert session.ending is Ending.FAULT
    session, _ = ready(b"250 mx.example\r\n", Tolerance.REPLY_CODES)
    session.begin(sending())
    session.receive(b"571 no\r\n")
    assert session.ending is Ending.FAULT


@pytest.mark.parametrize("challenges", [(b"Username:", b"Password:"), (b"", b""), (b"!", b"\xff\xfe"), (b"VXNl", b"x")])
def test_f41_any_challenge_of_login_is_answered(challenges: tuple[bytes, bytes]) -> None:
    session, names = greeted(b"250-mx.example\r\n250 AUTH LOGIN\r\n", LOGIN_ONLY)
    session.output()
    for challenge, answer in zip(challenges, (b"ada", b"secret"), strict=True):
        session.receive(b"334 " + challenge + b"\r\n")
        assert session.output() == b64encode(answer) + b"\r\n"
    session.receive(b"235 2.7.0 welcome\r\n")
    assert session.state is ClientState.READY
    assert names == ([] if challenges == (b"", b"") else ["challenges"])


@pytest.mark.parametrize("challenge", [b"334\r\n", b"334 \r\n", b"334 go on\r\n", b"334 VXNlcm5hbWU6\r\n"])
def test_f41_plain_is_sent_again_on_an_empty_challenge(challenge: bytes) -> None:
    session, names = greeted(b"250-mx.example\r\n250 AUTH PLAIN\r\n", PLAIN_ONLY)
    assert session.output() == b"AUTH PLAIN " + PLAIN
    session.receive(challenge)
    assert session.output() == PLAIN
    session.receive(b"235 2.7.0 welcome\r\n")
    assert session.state is ClientState.READY
    assert names == ["challenges"]


def test_f41_the_number_of_answered_challenges_is_limited() -> None:
    session, _ = greeted(b"250-mx.example\r\n250 AUTH PLAIN\r\n", PLAIN_ONLY)
    session.output()
    answers = []
    while not answers or answers[-1] == PLAIN:
        session.receive(b"334 \r\n")
        answers.append(session.output())
        assert len(answers) < 10
    assert answers[-1] == b"*\r\n"


def test_f41_without_the_tolerance_a_strange_challenge_ends_the_login() -> None:
    for offer, security, strange in (
        (b"250-mx.example\r\n250 AUTH LOGIN\r\n", LOGIN_ONLY, b"334 Username:\r\n"),
        (b"250-mx.example\r\n250 AUTH PLAIN\r\n", PLAIN_ONLY, b"334 \r\n"),
    ):
        session, names = greeted(offer, security, Tolerance.CHALLENGES)
        session.output()
        session.receive(strange)
        assert session.output() == b"*\r\n"
        assert names == []


@pytest.mark.parametrize(
    ("lines", "mechanisms", "tolerated"),
    [
        ([b"AUTH LOGIN PLAIN"], "LOGIN PLAIN", False),
        ([b"AUTH=LOGIN PLAIN"], "LOGIN PLAIN", True),
        ([b"auth=login"], "LOGIN", True),
        ([b"AUTH LOGIN", b"AUTH PLAIN"], "LOGIN PLAIN", True),
        ([b"AUTH PLAIN", b"AUTH=PLAIN LOGIN"], "PLAIN LOGIN", True),
        ([b"AUTH PLAIN LOGIN", b"AUTH=PLAIN LOGIN"], "PLAIN LOGIN", False),
        ([b"AUTHORS LOGIN"], None, False),
    ],
)
def test_f41_auth_lines_of_every_kind_are_read_together(
    lines: list[bytes], mechanisms: str | None, tolerated: bool
) -> None:
    offer = b"250-mx.example\r\n" + b"".join(b"250-%b\r\n" % line for line in lines) + b"250 HELP\r\n"
    session, names = ready(offer)
    assert session.offered.get("AUTH") == mechanisms
    assert names == (["auth-lines"] if tolerated else [])
    if tolerated:
        assert ready(offer, Tolerance.AUTH_LINES)[0].offered.get("AUTH") != mechanisms


# -- f43: parameters sent without need --------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [b"555 no AUTH=\r\n", b"501 5.5.4 no AUTH=\r\n", b"504 5.5.4 no AUTH=\r\n"])
@pytest.mark.parametrize("pipelining", [True, False])
def test_f43_mail_is_repeated_without_informative_parameters(reply: bytes, pipelining: bool) -> None:
    offer = b"250-mx.example\r\n250-PIPELINING\r\n250 SIZE\r\n" if pipelining else b"250-mx.example\r\n250 SIZE\r\n"
    session, names = ready(offer)
    sent = sending()
    session.begin(sent)
    assert session.output().startswith(b"MAIL FROM:<a@a.example> SIZE=18\r\n")
    session.receive(reply)
    if pipelining:
        assert session.output() == b""
        session.receive(b"503 5.5.1 MAIL first\r\n503 5.5.1 MAIL first\r\n")
    assert session.output().startswith(b"MAIL FROM:<a@a.example>\r\n")
    session.receive(b"250 ok\r\n")
    session.receive(b"250 ok\r\n")
    session.receive(b"354 go\r\n")
    session.receive(b"250 taken\r\n")
    session.output()
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].disposition is D
    assert names == ["fewer-parameters"]
    session.begin(sending())
    assert session.output().startswith(b"MAIL FROM:<a@a.example>\r\n")


def test_f43_a_sender_refused_twice_is_refused() -> None:
    session, _ = ready(b"250-mx.example\r\n250 SIZE\r\n")
    sent = sending()
    session.begin(sent)
    session.receive(b"555 no\r\n")
    session.receive(b"555 no\r\n")
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].disposition is F
    session, names = ready(b"250-mx.example\r\n250 SIZE\r\n", Tolerance.FEWER_PARAMETERS)
    sent = sending()
    session.begin(sent)
    session.receive(b"555 no\r\n")
    assert sent.done
    assert names == []


def test_f43_mail_has_the_auth_parameter_only_if_the_message_came_with_it() -> None:
    offer = b"250-mx.example\r\n250 AUTH PLAIN\r\n"
    for parameters, expected in (
        ({}, b"MAIL FROM:<a@a.example>\r\n"),
        ({"AUTH": Submitter.parse("<>")}, b"MAIL FROM:<a@a.example> AUTH=<>\r\n"),
        ({"AUTH": Submitter.parse("ada@a.example")}, b"MAIL FROM:<a@a.example> AUTH=ada@a.example\r\n"),
    ):
        session, _ = greeted(offer, PLAIN_ONLY)
        session.receive(b"235 2.7.0 welcome\r\n")
        session.output()
        session.begin(sending(**parameters))
        assert session.output() == expected


# -- f44: a malformed reply to the content ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"250 OK\n", D),
        (b"250ok\r\n", D),
        (b"251 a\rb\r\n", D),
        (b"250 \0\r\n", D),
        (b"250-" + b"x" * 70_000, D),
        (b"451 later\n", P),
        (b"554 no\n", F),
        (b"354 go\n", P),
        (b"OK\r\n", P),
        (b"250-a\r\n550 b\r\n", P),
        (b"\x15\x03\x01\r\n", P),
    ],
)
@pytest.mark.parametrize("offer", [b"250 mx.example\r\n", b"250-mx.example\r\n250 CHUNKING\r\n"], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("pieces", [1, 1000])
def test_f44_a_malformed_reply_to_the_content_is_interpreted_by_its_first_digit(
    offer: bytes, reply: bytes, expected: Disposition, pieces: int
) -> None:
    session, names = ready(offer)
    sent = sending()
    session.begin(sent)
    for each in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")[: 2 if b"CHUNKING" in offer else 3]:
        session.receive(each)
    for at in range(0, len(reply), pieces):
        session.receive(reply[at : at + pieces])
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].disposition is expected
    assert session.closed
    assert session.ending is Ending.FAULT
    assert sent.undecided == set()
    assert names == (["final-reply"] if reply[:3].isdigit() and b"\r\n550" not in reply else [])


def test_f44_without_the_tolerance_a_malformed_reply_is_not_interpreted() -> None:
    session, _ = ready(b"250 mx.example\r\n", Tolerance.FINAL_REPLY)
    sent = sending()
    session.begin(sent)
    for each in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 ok\n"):
        session.receive(each)
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].disposition is P
