"""AUTH (RFC 4954): the offered mechanisms, every reply, and the state of the session afterwards. No I/O."""

from __future__ import annotations

import asyncio
import itertools
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.model import NULL, Address, Envelope, Recipient
from ironpost.model.keyed_state import MemoryState
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.extensions import Outgoing, outgoing, typed_parameters, wire_parameters
from ironpost.protocol.extensions.auth import SHOWN, LoginFailures, Submitter
from ironpost.protocol.sasl import BY_NAME, MECHANISMS, ChannelContext, ClientExchange, Credentials
from ironpost.protocol.sasl.backoff import NAMESPACES, BackoffPolicy, LoginBackoff
from ironpost.protocol.sasl.scram import credential
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Identity, Peer, TlsInfo
from ironpost.server import BaseHandler

EVERY = tuple(mechanism.name for mechanism in MECHANISMS)
CLIENT = Peer("192.0.2.1")
SECURE = TlsInfo("TLSv1.3", bindings={"tls-server-end-point": b"e" * 32})
STORED = credential("pencil", bytes(16), 4096)


class Users:
    """One account, ada, with the password pencil and the token abc, which may act as bob."""

    def __init__(self, mechanisms: tuple[str, ...] = EVERY) -> None:
        self.mechanisms = mechanisms
        self.asked: list[tuple[str, ...]] = []

    def verify_password(self, session: Any, login: str, password: str) -> Any:
        self.asked.append((login, password))
        return login if (login, password) == ("ada", "pencil") else None

    def scram(self, session: Any, login: str) -> Any:
        return STORED if login == "ada" else None

    def shared_secret(self, session: Any, login: str) -> Any:
        return "pencil" if login == "ada" else None

    def verify_token(self, session: Any, login: str, token: str) -> Any:
        return "ada" if token == "abc" else None

    def external(self, session: Any, authzid: str) -> Any:
        name = session.peer.user or session.tls.names[0]
        return name if authzid in {"", name} else None

    def may_act_as(self, login: str, authzid: str) -> Any:
        return (login, authzid) == ("ada", "bob")


class Later(Users):
    """The same results, each from a coroutine that suspends once."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in {"mechanisms", "asked"} or name.startswith("_"):
            return found

        async def method(*arguments: Any) -> Any:
            await asyncio.sleep(0)
            return found(*arguments)

        return method


class Clock:
    time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def settings(authenticator: Any = None, **more: Any) -> ServerSettings:
    counter = itertools.count()
    return ServerSettings(
        hostname="mx.example",
        authenticator=Users() if authenticator is None else authenticator,
        nonce=lambda: f"nonce{next(counter)}",
        **more,
    )


class Talk:
    """A client without a connection."""

    def __init__(
        self,
        of: ServerSettings | None = None,
        *,
        tls: TlsInfo | None = SECURE,
        peer: Peer = CLIENT,
        hello: str = "EHLO",
    ) -> None:
        self.session = ServerSession(BaseHandler(), of or settings(), peer, tls=tls)
        self._settle(self.session.start())
        self.session.output()
        self.offer = self.say(f"{hello} client.example")

    def say(self, line: str | bytes) -> str:
        """Send a line; return the reply without its last CRLF."""
        octets = line if isinstance(line, bytes) else line.encode()
        self._settle(self.session.receive(octets + b"\r\n"))
        return self.session.output().decode().removesuffix("\r\n")

    def _settle(self, pending: Any) -> None:
        async def ask() -> None:
            nonlocal pending
            while pending is not None:
                try:
                    value = await pending
                except Exception as exc:  # noqa: BLE001
                    pending = self.session.fail(exc)
                else:
                    pending = self.session.answer(value)

        if pending is not None:
            asyncio.run(ask())

    @property
    def mechanisms(self) -> list[str]:
        for line in self.offer.splitlines():
            if line[4:].startswith("AUTH"):
                return line.split()[1:]
        return []

    def login(self, name: str, credentials: Credentials, tls: TlsInfo | None = SECURE) -> str:
        """Log in as `Client` does; return the last reply."""
        bindings = {} if tls is None else tls.bindings
        binds = "SCRAM-SHA-256-PLUS" in self.mechanisms
        client = ClientExchange(BY_NAME[name], credentials, ChannelContext("client", bindings, offers_binding=binds))
        first = "" if client.first is None else " " + client.first.decode()
        reply = self.say(f"AUTH {name}{first}")
        while reply.startswith("334 "):
            reply = self.say(client.respond(reply[4:].encode()))
        if reply.startswith("235"):
            client.succeeded()
        return reply


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


ADA = Credentials("ada", "pencil", token="abc")
GOOD = "235 2.7.0 Authentication succeeded"
BAD = "535 5.7.8 Authentication credentials invalid"
MALFORMED = "501 5.5.2 Cannot decode base64 response"
LATER = "454 4.7.0 Temporary authentication failure"
PLAIN = encoded("\0ada\0pencil")


# ---------------------------------------------------------------------------------------------------------------------
# Offered mechanisms


def test_only_mechanisms_that_can_be_used_now_are_offered() -> None:
    assert Talk().mechanisms == [name for name in EVERY if name != "EXTERNAL"]
    assert "SCRAM-SHA-256-PLUS" not in Talk(tls=TlsInfo("TLSv1.3")).mechanisms
    assert Talk(tls=TlsInfo("TLSv1.3", names=("ada",))).mechanisms[0] == "EXTERNAL"
    assert Talk(settings(Users(("PLAIN", "GSSAPI")))).mechanisms == ["PLAIN"]

    class Passwords:
        mechanisms = EVERY

        def verify_password(self, session: Any, login: str, password: str) -> None:
            return None

    assert Talk(settings(Passwords())).mechanisms == ["PLAIN", "LOGIN"]
    without_chance = Talk(ServerSettings(authenticator=Users()))
    assert without_chance.mechanisms == ["OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"]
    assert Talk(ServerSettings(hostname="mx.example")).say("AUTH PLAIN") == "502 5.5.1 Command not implemented"


def test_r16_no_channel_binding_if_a_proxy_terminates_tls() -> None:
    stated = Talk(tls=SECURE._replace(stated=True))
    assert "SCRAM-SHA-256" in stated.mechanisms
    assert "SCRAM-SHA-256-PLUS" not in stated.mechanisms


def test_r13_without_tls_auth_is_neither_offered_nor_accepted_unless_allowed() -> None:
    users = Users()
    clear = Talk(settings(users), tls=None)
    assert clear.mechanisms == []
    needed = "538 5.7.11 Encryption required for requested authentication mechanism"
    assert clear.say(f"AUTH PLAIN {PLAIN}") == needed
    assert clear.say("AUTH SCRAM-SHA-256") == needed
    assert clear.say("AUTH GSSAPI") == "504 5.5.4 Unrecognized authentication type"
    assert users.asked == []
    named = Talk(settings(auth_without_tls=True), tls=None)
    assert named.mechanisms == ["SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN", "CRAM-MD5"]
    assert named.say(f"AUTH PLAIN {PLAIN}") == GOOD


def test_a_unix_socket_identifies_the_client_for_external() -> None:
    local = Talk(tls=None, peer=Peer(user="postfix"))
    assert local.mechanisms == ["EXTERNAL"]
    assert local.say("AUTH EXTERNAL =") == GOOD
    assert local.session.identity == Identity("postfix", "EXTERNAL")


def test_a_certificate_identifies_the_client_for_external() -> None:
    known = TlsInfo("TLSv1.3", subject="CN=ada", names=("ada",))
    assert Talk(tls=known).say("AUTH EXTERNAL =") == GOOD
    assert Talk(tls=known).say(f"AUTH EXTERNAL {encoded('ada')}") == GOOD
    assert Talk(tls=known).say(f"AUTH EXTERNAL {encoded('bob')}") == BAD


# ---------------------------------------------------------------------------------------------------------------------
# Logging in


@pytest.mark.parametrize("users", [Users, Later])
@pytest.mark.parametrize("name", [name for name in EVERY if name != "EXTERNAL"])
def test_every_mechanism_logs_in_and_refuses(name: str, users: Any) -> None:
    talk = Talk(settings(users()))
    wrong = Credentials("ada", "pen", token="abd")
    assert talk.login(name, wrong) == BAD
    assert talk.session.identity is None
    assert talk.session.state_of(LoginFailures).count == 1
    assert talk.login(name, ADA) == GOOD
    assert talk.session.identity == Identity("ada", name)
    assert talk.say("NOOP") == "250 2.0.0 OK"


def test_a_login_may_act_as_another_identity_if_allowed() -> None:
    talk = Talk()
    assert talk.login("PLAIN", Credentials("ada", "pencil", authzid="bob")) == GOOD
    assert talk.session.identity == Identity("bob", "PLAIN", "ada")
    assert Talk().login("PLAIN", Credentials("ada", "pencil", authzid="root")) == BAD

    class Nobody:
        mechanisms = ("PLAIN",)

        def verify_password(self, session: Any, login: str, password: str) -> str:
            return login

    alone = Talk(settings(Nobody()))
    assert alone.login("PLAIN", Credentials("ada", "pencil", authzid="ada")) == GOOD
    assert Talk(settings(Nobody())).login("PLAIN", Credentials("ada", "pencil", authzid="bob")) == BAD


def test_an_exchange_step_by_step() -> None:  # RFC 4954 §4.1
    assert Talk().say("AUTH PLAIN") == "334 "
    talk = Talk()
    assert talk.say("auth login") == "334 VXNlcm5hbWU6"
    assert talk.say(encoded("ada")) == "334 UGFzc3dvcmQ6"
    assert talk.say(encoded("pencil")) == GOOD
    short = Talk()
    assert short.say(f"AUTH LOGIN {encoded('ada')}") == "334 UGFzc3dvcmQ6"
    assert short.say(encoded("pencil")) == GOOD
    cram = Talk()
    challenge = cram.say("AUTH CRAM-MD5")
    assert b64decode(challenge[4:]) == b"<nonce0@mx.example>"


def test_a_command_may_be_pipelined_after_auth_without_a_challenge() -> None:  # RFC 4954 §4
    talk = Talk()
    assert talk.say(f"AUTH PLAIN {PLAIN}\r\nMAIL FROM:<ada@mail.example>\r\nRSET").splitlines() == [
        GOOD,
        "250 2.1.0 Sender OK",
        "250 2.0.0 Reset",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def test_auth_out_of_sequence_is_refused() -> None:
    talk = Talk()
    talk.say("MAIL FROM:<a@b.example>")
    in_transaction = "503 5.5.1 MAIL transaction in progress"
    assert talk.say(f"AUTH PLAIN {PLAIN}") == in_transaction
    talk.say("RSET")
    assert talk.say(f"AUTH PLAIN {PLAIN}") == GOOD
    assert talk.say(f"AUTH PLAIN {PLAIN}") == "503 5.5.1 Already authenticated"
    assert talk.say("EHLO again.example").count("-AUTH ") == 1
    assert talk.session.identity is not None
    assert Talk(hello="HELO").say(f"AUTH PLAIN {PLAIN}") == "503 5.5.1 Send EHLO first"
    early = Talk()
    early.session.restart()
    assert early.say(f"AUTH PLAIN {PLAIN}") == "503 5.5.1 Send EHLO first"


def test_auth_between_two_chunks_ends_the_transaction() -> None:
    class Open(BaseHandler):
        def recipient(self, session: Any, forward_path: Any, parameters: Any) -> None:
            return None

    talk = Talk()
    talk.session.handler = Open()
    talk.say("MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>")
    assert talk.say("BDAT 2\r\n") == "250 2.0.0 Chunk OK"
    assert talk.say(f"AUTH PLAIN {PLAIN}") == "503 5.5.1 Bad sequence of commands"
    assert talk.say(f"AUTH PLAIN {PLAIN}") == GOOD


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("AUTH", "501 5.5.4 The command needs an argument."),
        ("AUTH GSSAPI", "504 5.5.4 Unrecognized authentication type"),
        ("AUTH PL\u00c4IN", "504 5.5.4 Unrecognized authentication type"),
        ("AUTH EXTERNAL =", "504 5.5.4 Unrecognized authentication type"),
        ("AUTH PLAIN =", MALFORMED),
        ("AUTH PLAIN *", MALFORMED),
        ("AUTH PLAIN !!!!", MALFORMED),
        ("AUTH PLAIN AAA=BBB", MALFORMED),
        (f"AUTH PLAIN {PLAIN} {PLAIN}", MALFORMED),
        (f"AUTH CRAM-MD5 {PLAIN}", "501 5.7.0 Initial response not allowed for this mechanism"),
        ("AUTH CRAM-MD5 =", "501 5.7.0 Initial response not allowed for this mechanism"),
        (f"AUTH PLAIN {encoded(chr(0) + 'ada' + chr(0))}", BAD),
        (f"AUTH PLAIN {encoded(chr(0) + chr(0) + 'pencil')}", BAD),
    ],
)
def test_a_malformed_auth_command_is_refused(line: str, reply: str) -> None:
    talk = Talk()
    assert talk.say(line) == reply
    assert talk.say("NOOP") == "250 2.0.0 OK"
    assert talk.login("PLAIN", ADA) == GOOD


@pytest.mark.parametrize(
    ("response", "reply"),
    [
        ("*", "501 5.7.0 Authentication cancelled"),
        ("=", MALFORMED),
        ("QUIT", MALFORMED),
        ("!", MALFORMED),
        ("", MALFORMED),
        (b"\xff\xfe", MALFORMED),
        (b"AAAA\nAAAA", "500 5.5.2 An LF does not follow a CR; only CRLF ends a line."),
        (b"AA\0A", "500 5.5.2 The line holds a NUL octet."),
        ("A" * 12284, MALFORMED),
        ("A" * 12288, "500 5.5.6 Authentication exchange line is too long"),
        ("A" * 100_000, "500 5.5.6 Authentication exchange line is too long"),
    ],
)
def test_r22_a_malformed_response_ends_the_exchange_and_not_the_session(response: str | bytes, reply: str) -> None:
    """CVE-2025-59028: bad base64 ended every session of the server."""
    talk, other = Talk(), Talk()
    assert talk.say("AUTH PLAIN") == "334 "
    assert other.say("AUTH PLAIN") == "334 "
    assert talk.say(response) == reply
    assert talk.say("NOOP") == "250 2.0.0 OK"
    assert talk.login("PLAIN", ADA) == GOOD
    assert other.say(PLAIN) == GOOD


def test_r23_a_response_is_a_line_of_12288_octets() -> None:  # RFC 4954 §4
    for octets, reply in (
        ("A" * 12286, MALFORMED),
        ("A" * 12287, "500 5.5.6 Authentication exchange line is too long"),
    ):
        talk = Talk()
        assert talk.say("AUTH PLAIN") == "334 "
        assert talk.say(octets) == reply


def test_r23_a_token_may_come_with_the_command() -> None:
    token = "t" * 8000
    talk = Talk()
    assert talk.login("OAUTHBEARER", Credentials("ada", token=token)) == BAD
    assert talk.say("AUTH XOAUTH2 " + "A" * 12288) == "500 5.5.2 The line is longer than the limit."
    assert talk.login("OAUTHBEARER", Credentials("ada", token="abc")) == GOOD


def test_an_oauth_error_is_sent_before_the_refusal() -> None:  # RFC 7628 §3.2.3
    for name, dummy in (("OAUTHBEARER", "AQ=="), ("XOAUTH2", ""), ("XOAUTH2", "*")):
        talk = Talk()
        client = ClientExchange(BY_NAME[name], Credentials("ada", token="abd"), ChannelContext())
        challenge = talk.say(f"AUTH {name} {(client.first or b'').decode()}")
        assert b'"status":' in b64decode(challenge[4:])
        assert talk.say(dummy) == ("501 5.7.0 Authentication cancelled" if dummy == "*" else BAD)


def test_submission_requires_authentication() -> None:
    talk = Talk(settings(dialect=SUBMISSION))
    assert talk.say("MAIL FROM:<a@b.example>") == "530 5.7.0 Authentication required"
    assert talk.login("SCRAM-SHA-256-PLUS", ADA) == GOOD
    assert talk.say("MAIL FROM:<a@b.example>") == "250 2.1.0 Sender OK"
    assert talk.session.protocol == "ESMTPSA"  # RFC 3848


# ---------------------------------------------------------------------------------------------------------------------
# Unknown names, back-off, failures of the authenticator


@pytest.mark.parametrize("name", [name for name in EVERY if name not in {"EXTERNAL", "OAUTHBEARER", "XOAUTH2"}])
def test_r53_an_unknown_name_gets_the_same_replies_as_a_wrong_password(name: str) -> None:
    def transcript(login: str) -> list[str]:
        talk = Talk()
        client = ClientExchange(
            BY_NAME[name], Credentials(login, "wrong"), ChannelContext("client", SECURE.bindings, offers_binding=True)
        )
        replies = [talk.say(f"AUTH {name}" + ("" if client.first is None else " " + client.first.decode()))]
        while replies[-1].startswith("334 "):
            replies.append(talk.say(client.respond(replies[-1][4:].encode())))
        return [reply[:4] if name.startswith("SCRAM") else reply for reply in replies]

    assert transcript("ada") == transcript("nobody")
    assert transcript("nobody")[-1].startswith("535")


def test_r53_the_salt_of_an_unknown_name_does_not_change() -> None:
    class Stable(Users):
        decoy_key = b"kept"

    def shown(of: ServerSettings) -> bytes:
        first = encoded("n,,n=nobody,r=c")
        return b64decode(Talk(of).say(f"AUTH SCRAM-SHA-256 {first}")[4:]).split(b",", 1)[1]

    same = settings()
    assert shown(same) == shown(same)
    assert shown(settings(Stable())) == shown(settings(Stable()))


def test_r53_unknown_names_are_case_insensitive_like_known_ones() -> None:
    same = settings()

    def salt(name: str) -> bytes:
        first = encoded(f"n,,n={name},r=c")
        return b64decode(Talk(same).say(f"AUTH SCRAM-SHA-256 {first}")[4:]).split(b",", 1)[1]

    assert salt("nobody") == salt("NoBody")
    assert salt("nobody") != salt("nobodies")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_acting_as_the_own_login_name_is_not_acting_as_another(mechanism: str) -> None:
    class AnyCase(Users):
        def verify_password(self, session: Any, login: str, password: str) -> Any:
            return "ada" if (login.lower(), password) == ("ada", "pencil") else None

        def scram(self, session: Any, login: str) -> Any:
            return STORED._replace(name="ada") if login.lower() == "ada" else None

        def may_act_as(self, login: str, authzid: str) -> Any:
            return False

    talk = Talk(settings(AnyCase()))
    assert talk.login(mechanism, Credentials("Ada", "pencil", authzid="Ada")) == GOOD
    assert talk.session.identity == Identity("ada", mechanism)
    other = Talk(settings(AnyCase()))
    assert other.login(mechanism, Credentials("Ada", "pencil", authzid="Bob")) == BAD


def limited(clock: Clock, users: Users) -> ServerSettings:
    law = BackoffPolicy(free=2, first=10.0)
    state = MemoryState(NAMESPACES, clock.now)
    return settings(users, login_limit=LoginBackoff(state, account=law, network=BackoffPolicy(free=50)), max_errors=100)


def test_r53_exchanges_begun_before_the_first_failure_are_delayed_too() -> None:
    same = limited(Clock(), Users())
    begun = []
    for _ in range(6):
        talk = Talk(same)
        exchange = ClientExchange(
            BY_NAME["SCRAM-SHA-256"], Credentials("ada", "pen"), ChannelContext(nonce="c", offers_binding=True)
        )
        assert exchange.first is not None
        challenge = talk.say(b"AUTH SCRAM-SHA-256 " + exchange.first)
        begun.append((talk, exchange.respond(challenge[4:].encode())))
    waiting = "454 4.7.0 Too many failed login attempts, try again later"
    assert [talk.say(proof) for talk, proof in begun] == [BAD] * 3 + [waiting] * 3


def test_r53_delayed_logins_do_not_reach_the_authenticator() -> None:
    clock, users = Clock(), Users()
    talk = Talk(limited(clock, users))
    wrong = Credentials("Ada", "pen")
    waiting = "454 4.7.0 Too many failed login attempts, try again later"
    assert [talk.login("PLAIN", wrong) for _ in range(4)] == [BAD, BAD, BAD, waiting]
    assert len(users.asked) == 3
    assert talk.session.state_of(LoginFailures).count == 4
    assert talk.login("SCRAM-SHA-256", ADA) == waiting  # another mechanism and another spelling is the same account
    assert talk.login("PLAIN", Credentials("bob", "pen")) == BAD
    clock.time += 10.0
    assert talk.login("PLAIN", ADA) == GOOD


@pytest.mark.parametrize("leave", ["*", None])
def test_r53_a_failed_login_counts_even_if_the_client_disconnects(leave: str | None) -> None:
    clock, users = Clock(), Users()
    of = limited(clock, users)
    replies = []
    for _ in range(4):
        talk = Talk(of)
        client = ClientExchange(BY_NAME["XOAUTH2"], Credentials("ada", token="abd"), ChannelContext())
        replies.append(talk.say(f"AUTH XOAUTH2 {(client.first or b'').decode()}")[:3])
        if leave is not None:
            talk.say(leave)
        talk.session.lost()
    assert replies == ["334", "334", "334", "454"]


@pytest.mark.parametrize("leave", ["*", None])
def test_r53_aborting_scram_reveals_nothing_through_the_delay(leave: str | None) -> None:
    first = {login: encoded(f"n,,n={login},r=c") for login in ("ada", "nobody")}
    seen = {}
    for login in first:
        of = limited(Clock(), Users())
        seen[login] = []
        for _ in range(5):
            talk = Talk(of)
            seen[login].append(talk.say(f"AUTH SCRAM-SHA-256 {first[login]}")[:3])
            if leave is not None:
                talk.say(leave)
            talk.session.lost()
    assert seen["ada"] == seen["nobody"] == (["334"] * 5 if leave is None else ["334"] * 3 + ["454"] * 2)


@pytest.mark.parametrize("users", [Users, Later])
def test_an_authenticator_that_raises_is_454_and_the_session_continues(users: Any) -> None:
    class Broken(users):  # type: ignore[misc]
        def scram(self, session: Any, login: str) -> Any:
            raise OSError("no database")

    talk = Talk(settings(Broken()))
    assert talk.login("SCRAM-SHA-256", ADA) == LATER
    assert talk.session.failures == 1
    assert talk.session.state_of(LoginFailures).count == 0
    assert talk.login("PLAIN", ADA) == GOOD


def test_an_authenticator_that_times_out_is_454() -> None:
    class Late(Users):
        async def verify_password(self, session: Any, login: str, password: str) -> Any:
            raise TimeoutError

    assert Talk(settings(Late())).login("PLAIN", ADA) == LATER


@pytest.mark.parametrize("answer", [True, b"ada", 1, ("ada",)])
def test_a_result_of_the_wrong_type_does_not_log_in(answer: Any) -> None:
    class Wrong(Users):
        def verify_password(self, session: Any, login: str, password: str) -> Any:
            return answer

    talk = Talk(settings(Wrong()))
    assert talk.login("PLAIN", ADA) == LATER
    assert talk.session.identity is None


def test_f63_a_failed_login_is_an_event_and_its_record_does_not_grow_with_the_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "ironpost.protocol")
    talk = Talk(settings())
    talk.session.id = "s1"
    assert talk.say(f"AUTH PLAIN {encoded(chr(0) + 'e' * 250 + chr(0) + 'guess')}").startswith("535")
    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "login-failed"]
    fields = record.fields  # type: ignore[attr-defined]
    assert (fields["session"], fields["ip"], fields["mechanism"]) == ("s1", "192.0.2.1", "PLAIN")
    assert fields["account"] == "e" * SHOWN
    assert "guess" not in str(fields)


def test_too_many_failed_logins_close_the_connection() -> None:
    talk = Talk(settings(max_errors=3))
    wrong = Credentials("ada", "pen")
    assert [talk.login("PLAIN", wrong) for _ in range(3)] == [
        BAD,
        BAD,
        "421 4.7.0 Too many errors, closing transmission channel",
    ]
    assert talk.session.closing


# ---------------------------------------------------------------------------------------------------------------------
# AUTH= in MAIL


def accepted(parameter: str, *, login: bool = True) -> Any:
    talk = Talk()
    if login:
        talk.login("PLAIN", ADA)
    reply = talk.say(f"MAIL FROM:<a@b.example> AUTH={parameter}")
    if not reply.startswith("250"):
        return reply
    assert talk.session.transaction is not None
    return talk.session.transaction.parameters["AUTH"]


def test_the_auth_parameter_is_accepted_from_authenticated_clients() -> None:  # RFC 4954 §5
    assert accepted("e+3Dmc2@mail.example") == Submitter(Address("e=mc2", "mail.example"))
    assert accepted("<>") == Submitter(Address("", ""))
    assert accepted("e+3Dmc2@mail.example", login=False) == Submitter(Address("", ""))
    assert accepted("<>", login=False) == Submitter(Address("", ""))


@pytest.mark.parametrize("wrong", ["e+3dmc2@mail.example", "ada+"])
def test_an_auth_parameter_with_invalid_xtext_is_refused(wrong: str) -> None:
    assert accepted(wrong) == "501 5.5.4 Invalid parameter value"


@pytest.mark.parametrize("name", ["jo", "ada", "<ada@mail.example>", "+FF@mail.example", "a@b@c", "@mail.example"])
def test_f30_an_auth_parameter_that_is_not_a_mailbox_counts_as_unknown(name: str) -> None:
    assert accepted(name) == Submitter(Address("", ""))


def test_the_auth_parameter_is_stored_in_its_wire_form() -> None:
    for submitter in (Submitter(Address("e=mc2", "mail.example")), Submitter(Address("", ""))):
        wire = wire_parameters({"AUTH": submitter})
        assert typed_parameters(wire) == {"AUTH": submitter}
    assert str(Submitter(Address("e=mc2", "mail.example"))) == "e+3Dmc2@mail.example"


def test_the_client_sends_the_auth_parameter_if_it_has_authenticated() -> None:
    submitter = Submitter(Address("e=mc2", "mail.example"))

    def added(parameters: dict[str, Any], offered: dict[str, str], *, authenticated: bool) -> Any:
        envelope = Envelope(NULL, (Recipient(Address("c", "d.example")),), parameters)
        return outgoing(Outgoing(envelope, 10, False, False, authenticated=authenticated), offered)

    assert added({"AUTH": submitter}, {"AUTH": "PLAIN"}, authenticated=True) == {"AUTH": submitter}
    assert added({}, {"AUTH": "PLAIN"}, authenticated=True) == {}
    assert added({"AUTH": submitter}, {"AUTH": "PLAIN"}, authenticated=False) == {}
    assert added({"AUTH": submitter}, {}, authenticated=True) == {}


def test_without_auth_the_auth_parameter_is_unknown() -> None:
    talk = Talk(ServerSettings(hostname="mx.example"))
    assert talk.say("MAIL FROM:<a@b.example> AUTH=<>") == "555 5.5.4 Parameter not recognized"


# ---------------------------------------------------------------------------------------------------------------------


LINES = st.lists(
    st.one_of(
        st.sampled_from([f"AUTH {name}".encode() for name in EVERY] + [b"*", b"=", b"", b"NOOP", b"RSET", b"EHLO a"]),
        st.binary(max_size=40).map(b64encode),
        st.binary(max_size=20),
        st.sampled_from(
            [b64encode(b"n,,n=ada,r=abc"), b64encode(b"ada"), PLAIN.encode(), b"AUTH PLAIN " + PLAIN.encode()]
        ),
    ),
    max_size=12,
)


@given(LINES)
def test_r22_any_input_to_auth_is_answered_or_closes_the_session(lines: list[bytes]) -> None:
    talk = Talk(tls=SECURE._replace(names=("ada",)))
    for line in lines:
        reply = talk.say(line)
        if talk.session.closing:
            return
        assert reply or line.endswith(b"\r")
    assert talk.session.failures == 0
