"""Delivery over LMTP: an outcome for each recipient, kept connections, Unix sockets; with our server and raw peers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from tests.delivery.test_remote import D, F, P, Peer, Straight, deliver, message, one, peer, run

from ironpost import defer, reject
from ironpost.compose.delivery import routes
from ironpost.config import ConfigError, parse
from ironpost.delivery.agents import Scope
from ironpost.delivery.dialer import Dialer
from ironpost.delivery.lmtp import Lmtp, LmtpOptions
from ironpost.delivery.own_system import OwnSystem
from ironpost.delivery.remote import RemoteDelivery
from ironpost.model import Address
from ironpost.model.parameters import DeliverBy
from ironpost.mta.destinations import destination_key
from ironpost.protocol.client.session import TIMEOUTS, ClientStep
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.server.settings import ServerSettings
from ironpost.routing.route import Host, Kind, Route, RouteDecision, UnixSocket, destination_label
from ironpost.server import Server, TlsContext
from ironpost.server.self_signed import write_self_signed
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ironpost.routing.route import NextHop

JO, FLO, NOBODY, FULL = "jo+news@mail.example", "flo@mail.example", "nobody@mail.example", "full@mail.example"
HELLO = b"250-store.example\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n"


class Store:
    """A mail store with one user who does not exist, and one whose mailbox is full."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, bytes]] = []
        self.protocols: set[str] = set()
        self.sessions: set[int] = set()

    def recipient(self, session: Any, forward_path: Any, parameters: Any) -> Any:
        return reject("No such user", status="1.1") if str(forward_path) == NOBODY else None

    def message(self, session: Any, content: Any, facts: Any) -> Any:
        self.protocols.add(session.protocol)
        self.sessions.add(session.peer.port)
        rows = [str(each.address) for each in session.transaction.recipients]
        self.stored += [(each, bytes(content.content)) for each in rows if each != FULL]
        return [defer("Mailbox full", code=452, status="2.2") if each == FULL else None for each in rows]


@asynccontextmanager
async def agent(**options: Any) -> AsyncIterator[Lmtp]:
    dialing = {key: options.pop(key) for key in ("timeouts",) if key in options}
    options.setdefault("own", OwnSystem(networks=()))
    remote = RemoteDelivery(
        StaticResolver(), Straight(), Dialer(local_hostname="us.example", dialect=LMTP, **dialing), **options
    )
    made = Lmtp(remote)
    try:
        yield made
    finally:
        await made.close()


def store_route(host: NextHop) -> Route:
    return LmtpOptions(host).route()


def at(port: int) -> Route:
    return store_route(Host("127.0.0.1", port))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, for Unix sockets."""
    with TemporaryDirectory() as name:
        yield Path(name)


# -- our own server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [False, True])
def test_each_recipient_has_its_own_outcome_over_one_kept_connection(unix: bool, folder: Path) -> None:
    store, path = Store(), folder / "lmtp"
    content = b"Subject: x\r\n\r\n.dot\r\n..\r\n" + "Grüße\r\n".encode()

    async def main() -> None:
        settings = ServerSettings(dialect=LMTP)
        where = {"path": path} if unix else {"host": "127.0.0.1"}
        async with Server(store, settings=settings, **where) as server, agent() as made:  # type: ignore[arg-type]
            route = store_route(UnixSocket(path)) if unix else at(server.port)
            for _ in range(3):
                outcomes = await deliver(made, message(JO, NOBODY, FULL, FLO, body=content), route)
                assert [outcome.disposition for outcome in outcomes] == [D, F, P, D]
                assert [outcome.reply.enhanced for outcome in outcomes[1:3]] == ["5.1.1", "4.2.2"]
                assert {outcome.remote for outcome in outcomes} == {
                    f"unix:{path}" if unix else f"[127.0.0.1]:{server.port}"
                }
                assert not any(outcome.relayed or outcome.ours for outcome in outcomes)
        assert store.stored == [(JO, content), (FLO, content)] * 3
        assert store.protocols == {"LMTP"}
        assert len(store.sessions) == 1

    run(main)


def test_large_content_is_streamed_to_all_recipients() -> None:
    store = Store()
    content = b"Subject: x\r\n\r\n" + b"0123456789" * 7 + b"\r\n" + b"line\r\n" * 200_000

    async def main() -> None:
        async with Server(store, "127.0.0.1", settings=ServerSettings(dialect=LMTP)) as server, agent() as made:
            outcomes = await deliver(made, message(JO, FULL, FLO, body=content), at(server.port))
        assert [outcome.disposition for outcome in outcomes] == [D, P, D]
        assert [stored for _, stored in store.stored] == [content, content]

    run(main)


# -- raw peers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_step", ["greeting", "LHLO", "MAIL", "RCPT", "DATA", "."])
def test_a_connection_cut_at_any_step_defers_every_recipient(at_step: str) -> None:
    async def main() -> None:
        async with peer({"LHLO": HELLO, at_step: None}) as here, agent() as made:
            outcomes = await deliver(made, message(JO, FLO), at(here.port))
            assert [outcome.disposition for outcome in outcomes] == [P, P]
            assert here.connections == 1

    run(main)


class Cut(Peer):
    """Closes the connection after some replies to the content."""

    def answer(self, writer: asyncio.StreamWriter, key: str, verb: str) -> bool:
        going = super().answer(writer, key, verb)
        return going and verb != "."


@pytest.mark.parametrize("arrived", [1, 2])
def test_recipients_whose_reply_was_cut_off_are_deferred_and_the_others_are_not(arrived: int) -> None:
    async def main() -> None:
        here = Cut({"LHLO": HELLO, ".": b"250 2.1.5 in\r\n" * arrived})
        server = await asyncio.start_server(here.serve, "127.0.0.1", 0)
        here.port = server.sockets[0].getsockname()[1]
        async with server, agent() as made:
            outcomes = await deliver(made, message(JO, FLO, "ida@mail.example"), at(here.port))
            assert [outcome.disposition for outcome in outcomes] == [D] * arrived + [P] * (3 - arrived)
            assert "may be delivered twice" in str(outcomes[2].reply)
            assert len(here.messages) == 1, "the content is not sent again at once"
            await here.until(lambda: not here.open)

    run(main)


@pytest.mark.parametrize(
    ("replies", "fates"),
    [
        (b"250 in\r\nwhat?\r\n", [D, P]),
        (b"250 in\r\n\xff\xfe\r\n", [D, P]),
        (b"250 in\r\n354 go on\r\n", [D, P]),
        (b"250 in\r\n421 4.3.2 closing\r\n", [D, P]),
        (b"550 5.2.1 closed\r\n452 4.2.2 full\r\n", [F, P]),
        (b"552 5.2.2 full\r\n250 in\r\n", [F, D]),
        (b"500 what\r\n250 in\r\n", [P, D]),
    ],
)
def test_the_replies_to_the_content_decide_one_by_one(replies: bytes, fates: list[object]) -> None:
    async def main() -> None:
        async with peer({"LHLO": HELLO, ".": replies}) as here, agent() as made:
            outcomes = await deliver(made, message(JO, FLO), at(here.port))
            assert [outcome.disposition for outcome in outcomes] == fates
            assert len(here.messages) == 1

    run(main)


def test_a_store_with_fewer_replies_than_recipients_is_waited_for_until_the_timeout() -> None:
    timeouts = {**TIMEOUTS, ClientStep.END: 0.2}

    async def main() -> None:
        async with peer({"LHLO": HELLO, ".": b"250 in\r\n"}) as here, agent(timeouts=timeouts) as made:
            outcomes = await deliver(made, message(JO, FLO), at(here.port))
            assert [outcome.disposition for outcome in outcomes] == [D, P]

    run(main)


def test_a_store_that_offers_chunking_but_rejects_bdat_gets_data() -> None:
    async def main() -> None:
        hello = b"250-store.example\r\n250 CHUNKING\r\n"
        answers = {"LHLO": hello, "BDAT": b"500 what\r\n", ".": b"250 1\r\n250 2\r\n"}
        async with peer(answers) as here, agent() as made:
            outcomes = await deliver(made, message(JO, FLO), at(here.port))
            assert [outcome.disposition for outcome in outcomes] == [D, D]
            assert len(here.messages) == 1

    run(main)


def test_a_server_of_smtp_is_a_fault_of_the_configuration() -> None:
    async def main() -> None:
        async with peer({"LHLO": b"500 5.5.1 unknown command\r\n"}) as here, agent() as made:
            outcome = one(await deliver(made, message(JO), at(here.port)))
            assert outcome.disposition is P
            assert outcome.ours
            assert "LHLO" in str(outcome.reply)
            assert here.commands[0] == "LHLO us.example"
            assert not any(command.startswith(("EHLO", "HELO", "MAIL")) for command in here.commands)

    run(main)


def test_the_envelope_is_pipelined_and_a_kept_connection_is_reused_after_a_refusal() -> None:
    async def main() -> None:
        answers = {"LHLO": HELLO, f"RCPT TO:<{NOBODY}>": b"550 5.1.1 who\r\n", "DATA": b"503 5.5.1 none\r\n"}
        async with peer(answers) as here, agent() as made:
            for _ in range(2):
                assert one(await deliver(made, message(NOBODY), at(here.port))).disposition is F
            assert here.connections == 1
            assert not here.messages

    run(main)


@pytest.mark.parametrize(("tls", "secure"), [(None, True), ("none", False), ("encrypt", True)])
def test_tls_over_tcp_is_used_as_the_entry_says(tls: Any, secure: bool, tmp_path: Path) -> None:
    chain, key = tmp_path / "store.pem", tmp_path / "store.key"
    write_self_signed(chain, key, ["store.example"])
    store = Store()

    async def main() -> None:
        context = TlsContext.load([(chain, key)])
        settings = ServerSettings(dialect=LMTP)
        async with Server(store, "127.0.0.1", settings=settings, tls=context) as server, agent() as made:
            route = LmtpOptions(Host("127.0.0.1", server.port), tls).route()
            outcomes = await deliver(made, message(JO, FULL), route)
            assert [outcome.disposition for outcome in outcomes] == [D, P]
        assert store.protocols == {"LMTPS" if secure else "LMTP"}

    run(main)


def test_a_store_without_the_tls_that_is_required_gets_nothing() -> None:
    async def main() -> None:
        async with peer({"LHLO": HELLO}) as here, agent() as made:
            outcome = one(await deliver(made, message(JO), LmtpOptions(Host("127.0.0.1", here.port), "verify").route()))
            assert outcome.disposition is P
            assert outcome.ours
            assert not here.messages

    run(main)


# -- what relays are asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{"BY": DeliverBy(20_000_000_000, returned=True)}, {"REQUIRETLS": None}])
def test_what_a_sender_demands_of_relays_does_not_concern_a_store_on_this_machine(parameters: dict[str, Any]) -> None:
    async def main() -> None:
        async with peer({"LHLO": HELLO}) as here, agent() as made:
            sent = message(JO)
            sent = sent._replace(envelope=sent.envelope._replace(parameters=parameters))
            outcome = one(await deliver(made, sent, at(here.port)))
            assert outcome.disposition is D
            assert not outcome.relayed
            assert "MAIL FROM:<s@us.example>" in here.commands

    run(main)


def test_a_message_that_requires_tls_does_not_go_to_another_machine_without_it() -> None:
    async def main() -> None:
        resolver = StaticResolver(addresses={"store.example": ["127.0.0.1"]})
        remote = RemoteDelivery(resolver, Straight(), Dialer(local_hostname="us.example", dialect=LMTP))
        async with peer({"LHLO": HELLO}) as here:
            sent = message(JO)
            sent = sent._replace(envelope=sent.envelope._replace(parameters={"REQUIRETLS": None}))
            made = Lmtp(remote)
            assert one(await deliver(made, sent, store_route(Host("store.example", here.port)))).disposition is F
            assert not here.messages
            await made.close()

    run(main)


# -- Unix sockets -----------------------------------------------------------------------------------------------------


def test_a_socket_that_is_missing_or_without_a_server_defers_with_the_reason(folder: Path) -> None:
    path = folder / "lmtp"

    async def main() -> None:
        async with agent() as made:
            route = store_route(UnixSocket(path))
            outcome = one(await deliver(made, message(JO), route))
            assert outcome.disposition is P
            assert outcome.unreachable
            assert outcome.remote == f"unix:{path}"
            assert str(outcome.reply).endswith(
                "No such file or directory: there is no such socket; its server may not be running"
            )
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(path))
            outcome = one(await deliver(made, message(JO), route))
            assert outcome.disposition is P
            assert str(outcome.reply).endswith("Connection refused: no server listens on the socket")

    run(main)


def test_starttls_is_not_used_over_a_unix_socket(folder: Path) -> None:
    path = folder / "lmtp"

    async def main() -> None:
        here = Peer({"LHLO": b"250-store.example\r\n250 STARTTLS\r\n"})
        async with await asyncio.start_unix_server(here.serve, path), agent() as made:
            outcome = one(await deliver(made, message(JO), store_route(UnixSocket(path))))
            assert outcome.disposition is D
            assert "STARTTLS" not in here.commands
            shown = await made.preview(Address.parse(JO), store_route(UnixSocket(path)))
            assert shown.text == f"unix:{path}"
        await here.until(lambda: not here.open)

    run(main)


# -- destinations -----------------------------------------------------------------------------------------------------


def test_all_mail_for_a_store_is_one_destination_that_can_be_suspended() -> None:
    configuration = parse(
        '[local]\ndomains = ["a.example", "b.example"]\n'
        '[[local.delivery]]\nrecipients = ["*"]\nlmtp = {host = "unix:/run/dovecot/lmtp"}\n'
    )
    table = routes(configuration)
    found = [table.decide(Address.parse(each)) for each in ("x@a.example", "y@b.example")]
    routed = [each.route for each in found if isinstance(each, RouteDecision)]
    assert destination_key(routed[0], "a.example") == destination_key(routed[1], "b.example")
    assert destination_key(routed[0], "a.example") == ((routed[0], ""), Scope.ROUTE)
    assert destination_label(routed[0], "") == "lmtp unix:/run/dovecot/lmtp"
    assert table.names_host("unix:/run/dovecot/lmtp")
    assert not table.names_host("a.example")


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lmtp", "text"),
    [
        ('{host = "127.0.0.1:24"}', "lmtp 127.0.0.1:24"),
        ('{host = "[::1]:24", tls = "encrypt"}', "lmtp [::1]:24 (TLS encrypt)"),
        ('{host = "unix:/run/dovecot/lmtp"}', "lmtp unix:/run/dovecot/lmtp"),
    ],
)
def test_the_route_of_an_entry(lmtp: str, text: str) -> None:
    (rule,) = parse(f'[[local.delivery]]\nrecipients = ["mail.example"]\nlmtp = {lmtp}\n').local.rules
    assert str(rule.route) == text
    assert rule.route.kind is Kind.LMTP


@pytest.mark.parametrize(
    ("lmtp", "sentence"),
    [
        ("{}", "host"),
        ('{host = "127.0.0.1"}', "is neither a host with a port"),
        ('{host = "127.0.0.1:25"}', "LMTP is never used on port 25"),
        ('{host = "127.0.0.1:0"}', "not a valid port"),
        ('{host = "unix:"}', "a Unix socket is a path"),
        ('{host = "unix:lmtp"}', 'the path of a socket starts with "/"'),
        (f'{{host = "unix:/{"x" * 200}"}}', "maximum for a Unix socket"),
        ('{host = "unix:/run/lmtp", tls = "verify"}', "TLS is not used over a Unix socket"),
        ('{host = "127.0.0.1:24", tls = "always"}', "'none', 'may', 'encrypt' or 'verify'"),
    ],
)
def test_a_wrong_entry_is_explained(lmtp: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'[[local.delivery]]\nrecipients = ["mail.example"]\nlmtp = {lmtp}\n')
    assert "local.delivery" in str(caught.value)
    assert sentence in str(caught.value)
