"""Delivery to other systems: next hops, kept connections, outcomes; against peers on loopback that a table drives."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.client.connection import HELD
from ironpost.delivery.dialer import Dialer
from ironpost.delivery.next_hop import MAX_ADDRESSES
from ironpost.delivery.own_system import OwnSystem
from ironpost.delivery.remote import RemoteDelivery
from ironpost.model import Address, Disposition, Envelope, Outcome, Recipient
from ironpost.model.body import BodyDamaged
from ironpost.model.parameters import HoldUntil
from ironpost.protocol.client.session import TIMEOUTS, ClientStep
from ironpost.queue.store import QueuedMessage, QueuedRecipient
from ironpost.routing.limits import DeliveryLimits
from ironpost.routing.route import Host, Route
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

D, P, F = Disposition.DELIVERED, Disposition.DEFERRED, Disposition.FAILED
LONG = 30.0
"""Reached only when something hangs."""


class Straight:
    """A `Random` that keeps the order."""

    def uniform(self, low: float, high: float) -> float:
        return low

    def shuffle(self, items: list[str]) -> None:
        pass

    def token(self) -> str:
        return "t"


class Held:
    """A body in memory; `fault` is raised after the first piece."""

    def __init__(self, octets: bytes, fault: Exception | None = None) -> None:
        self.octets = octets
        self.size = len(octets)
        self.fault = fault

    async def pieces(self) -> AsyncIterator[bytes]:
        half = self.size // 2
        yield self.octets[:half]
        if self.fault is not None:
            raise self.fault
        yield self.octets[half:]

    async def head(self, limit: int) -> bytes:
        if self.fault is not None:
            raise self.fault
        return self.octets[:limit]


class Peer:
    """A small SMTP server: replies by verb from `answers`, or as usual; records what it received."""

    def __init__(self, answers: Mapping[str, bytes | None]) -> None:
        self.answers = {
            "greeting": b"220 peer.example\r\n",
            "EHLO": b"250-peer.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            "EHLO under TLS": b"250-peer.example\r\n250 PIPELINING\r\n",
            "MAIL": b"250 ok\r\n",
            "RCPT": b"250 ok\r\n",
            "DATA": b"354 go\r\n",
            ".": b"250 2.0.0 taken\r\n",
            "RSET": b"250 ok\r\n",
            "QUIT": b"221 bye\r\n",
            **answers,
        }
        self.port = 0
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.quits = 0
        self.commands: list[str] = []
        self.messages: list[bytes] = []
        self.tls: ssl.SSLContext | None = None
        """For the handshake after the reply to STARTTLS; then EHLO is answered from `answers["EHLO under TLS"]`."""
        self.levels: list[str] = []
        """For each message, how the connection was protected: `tls` or empty."""
        self.gate: asyncio.Event | None = None
        """If set, the reply to content waits for it."""
        self.writers: set[asyncio.StreamWriter] = set()
        self.changed = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.writers.add(writer)
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.CancelledError):  # ssl.SSLError is an OSError
            pass
        finally:
            self.open -= 1
            self.writers.discard(writer)
            writer.close()
            async with self.changed:
                self.changed.notify_all()

    def answer(self, writer: asyncio.StreamWriter, key: str, verb: str) -> bool:
        reply = self.answers.get(key, self.answers.get(verb))
        if reply is None:  # the connection drops
            writer.close()
            return False
        writer.write(reply)
        return not reply.startswith(b"421")

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.answer(writer, "greeting", "greeting"):
            return
        while line := await reader.readline():
            command = line.decode().strip()
            self.commands.append(command)
            verb = command.partition(" ")[0]
            self.quits += verb == "QUIT"
            secure = writer.get_extra_info("ssl_object") is not None
            if not self.answer(writer, command, "EHLO under TLS" if secure and verb == "EHLO" else verb):
                return
            if verb == "QUIT":
                return
            if verb == "STARTTLS" and self.tls is not None and self.answers["STARTTLS"] == b"220 go\r\n":
                below = writer.transport
                try:
                    await writer.start_tls(self.tls)
                except AttributeError:  # CPython 3.11, if the client closes at the end of the handshake
                    writer._transport = below  # type: ignore[attr-defined]
                    return
            if verb == "DATA" and self.answers["DATA"].startswith(b"354"):
                content: list[bytes] = []
                while (line := await reader.readline()) not in (b".\r\n", b""):
                    content.append(line)
                if line:
                    self.messages.append(b"".join(content))
                    self.levels.append("tls" if secure else "")
                if self.gate is not None:
                    await self.gate.wait()
                if not self.answer(writer, ".", "."):
                    return

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)


@asynccontextmanager
async def peer(
    answers: Mapping[str, bytes | None] | None = None,
    ip: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Peer]:
    here = Peer(answers or {})
    here.tls = tls
    server = await asyncio.start_server(here.serve, ip, port, limit=1 << 20)
    here.port = server.sockets[0].getsockname()[1]
    try:
        yield here
    finally:
        server.close()
        for writer in list(here.writers):
            writer.close()
        await here.until(lambda: not here.open)
        await server.wait_closed()


MX_A = {"a.example": [(10, "mx1.a.example"), (20, "mx2.a.example")]}
FIRST = {"mx1.a.example": ["127.0.0.1"], "mx2.a.example": ["127.0.0.2"]}


@asynccontextmanager
async def delivery(
    port: int = 25, *, resolver: StaticResolver | None = None, **options: Any
) -> AsyncIterator[RemoteDelivery]:
    options.setdefault("own", OwnSystem(networks=()))
    dialing = {key: options.pop(key) for key in ("timeouts", "authorities", "tls_sessions") if key in options}
    dialing["metrics"] = options.get("metrics")
    made = RemoteDelivery(
        resolver or StaticResolver(mx=MX_A, addresses=FIRST),
        Straight(),
        Dialer(local_hostname="us.example", **dialing),
        port=port,
        **options,
    )
    try:
        yield made
    finally:
        await made.close()


def message(*to: str, body: bytes | Held = b"Subject: x\r\n\r\nhi\r\n", sender: str = "s@us.example") -> QueuedMessage:
    recipients = tuple(Recipient(Address.parse(each)) for each in to)
    return QueuedMessage(
        "m1",
        Envelope(Address.parse(sender), recipients),
        0.0,
        Held(body) if isinstance(body, bytes) else body,
        tuple(QueuedRecipient(number, recipient) for number, recipient in enumerate(recipients)),
    )


async def deliver(made: RemoteDelivery, sent: QueuedMessage, route: Route | None = None) -> list[Outcome]:
    """The outcomes in the order of the recipients."""
    results = await made.deliver(sent, sent.recipients, route or Route.mx())
    assert sorted(number for number, _ in results) == [each.number for each in sent.recipients]
    return [outcome for _, outcome in sorted(results, key=lambda result: result[0])]


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LONG):
            await main()

    asyncio.run(bounded())


def one(outcomes: Sequence[Outcome]) -> Outcome:
    (outcome,) = outcomes
    return outcome


# -- what works -------------------------------------------------------------------------------------------------------


def test_recipients_of_one_domain_share_a_transaction() -> None:
    mx = {**MX_A, "b.example": [(0, "mx1.a.example")]}

    async def main() -> None:
        async with peer({"RCPT TO:<no@a.example>": b"550 5.1.1 who\r\n"}) as here:
            resolver = StaticResolver(mx=mx, addresses=FIRST)
            async with delivery(here.port, resolver=resolver) as made:
                outcomes = await deliver(made, message("x@a.example", "y@B.example", "no@a.example", "z@a.EXAMPLE"))
        assert [outcome.disposition for outcome in outcomes] == [D, D, F, D]
        assert outcomes[0].remote == f"mx1.a.example [127.0.0.1]:{here.port}"
        assert outcomes[0].reply.enhanced == "2.0.0"
        assert outcomes[2].reply.code == 550
        assert here.messages == [b"Subject: x\r\n\r\nhi\r\n"] * 2
        mails = sorted(" ".join(c for c in here.commands if c.startswith("RCPT")).split("RCPT TO:"))
        assert len(mails) == 5

    run(main)


def test_f27_a_domain_and_an_exchanger_with_underscores_are_found() -> None:
    resolver = StaticResolver(
        mx={"b_c.example": [(10, "mx_1.b_c.example")]},
        addresses={"mx_1.b_c.example": ["127.0.0.1"], "host_only.example": ["127.0.0.1"]},
    )

    async def main() -> None:
        async with peer() as here, delivery(here.port, resolver=resolver) as made:
            sent = message("x..y@b_c.example", "z.@host_only.example", sender=".a@b_c.example")
            outcomes = await deliver(made, sent)
        assert [outcome.disposition for outcome in outcomes] == [D, D]
        assert outcomes[0].remote == f"mx_1.b_c.example [127.0.0.1]:{here.port}"
        said = {command.partition(">")[0] for command in here.commands if command.startswith(("MAIL", "RCPT"))}
        assert said == {'MAIL FROM:<".a"@b_c.example', 'RCPT TO:<"x..y"@b_c.example', 'RCPT TO:<"z."@host_only.example'}

    run(main)


@pytest.mark.parametrize("reply", [b"452 4.5.3 Too many recipients\r\n", b"552 Too many recipients\r\n"])
def test_recipients_beyond_the_peers_limit_follow_in_further_transactions(reply: bytes) -> None:
    """RFC 5321 §4.5.3.1.8, §4.5.3.1.10: a host accepts at least 100; recipients beyond get 452, formerly 552."""
    accepted = 0

    async def main() -> None:
        async with peer() as here:
            usual = here.answer

            def limited(writer: asyncio.StreamWriter, key: str, verb: str) -> bool:
                nonlocal accepted
                if verb == "MAIL":
                    accepted = 0
                elif verb == "RCPT":
                    accepted += 1
                    if accepted > 100:
                        writer.write(reply)
                        return True
                return usual(writer, key, verb)

            here.answer = limited  # type: ignore[method-assign]
            async with delivery(here.port) as made:
                outcomes = await deliver(made, message(*(f"u{number}@a.example" for number in range(250))))
        assert [outcome.disposition for outcome in outcomes] == [D] * 250
        assert len(here.messages) == 3
        assert here.connections == 1

    run(main)


def test_future_release_is_not_passed_to_the_next_hop() -> None:
    """The next hop need not support FUTURERELEASE, even if an operator sends it earlier (RFC 4865 §4.2)."""

    async def main() -> None:
        sent = message("x@a.example")
        asked = {"HOLDFOR": 60, "HOLDUNTIL": HoldUntil(4_000_000_000), "SIZE": 5}
        sent = sent._replace(envelope=sent.envelope._replace(parameters=asked))
        async with peer() as here, delivery(here.port) as made:
            assert one(await deliver(made, sent)).disposition is D
        assert [command for command in here.commands if "HOLD" in command] == []

    run(main)


def tagged(*to: str) -> QueuedMessage:
    """A message that requires TLS (RFC 8689)."""
    sent = message(*to)
    return sent._replace(envelope=sent.envelope._replace(parameters={"REQUIRETLS": None}))


def test_r38_a_message_that_requires_tls_is_only_sent_to_a_host_with_tls() -> None:
    """RFC 8689 §4.2.1: QUIT, then the next host; other messages may use such a connection."""
    resolver = StaticResolver(mx=MX_A, addresses=FIRST, authentic=["a.example"])

    async def main() -> None:
        promises = {"EHLO": b"250-peer.example\r\n250 REQUIRETLS\r\n"}
        async with (
            peer() as first,
            peer(promises, "127.0.0.2", first.port) as second,
            delivery(first.port, resolver=resolver) as made,
        ):
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            outcome = one(await deliver(made, tagged("x@a.example")))
            assert (outcome.disposition, outcome.reply.code, outcome.reply.enhanced) == (F, 550, "5.7.10")
            await first.until(lambda: first.open == 1)  # the one that was kept
            await second.until(lambda: second.open == 0)
            assert one(await deliver(made, message("x@a.example"))).disposition is D
        assert [command[:4] for command in second.commands] == ["EHLO", "QUIT"]
        assert [command for command in first.commands if command.startswith("MAIL")] == ["MAIL FROM:<s@us.example>"] * 2
        assert first.connections == 2

    run(main)


def test_r38_a_host_named_by_unsigned_dns_is_not_contacted() -> None:
    """RFC 8689 §4.2.1: without DNSSEC or MTA-STS an MX record may name an attacker's host."""

    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            outcome = one(await deliver(made, tagged("x@a.example")))
            assert (outcome.disposition, outcome.reply.enhanced, outcome.asked) == (F, "5.7.10", False)
        assert not here.connections

    run(main)


LIMITED = {"EHLO": b"250-peer.example\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=2 MAILMAX=2\r\n"}


def test_announced_limits_of_a_host_are_respected() -> None:  # RFC 9422 §4.1, §4.2
    async def main() -> None:
        async with peer(LIMITED) as here, delivery(here.port) as made:
            outcomes = await deliver(made, message(*(f"u{number}@a.example" for number in range(7))))
        assert [outcome.disposition for outcome in outcomes] == [D] * 7
        assert len(here.messages) == 4
        assert here.connections == 2
        rounds = "".join(command[0] for command in here.commands if command[:4] in {"MAIL", "RCPT"})
        assert rounds == "MRRMRRMRRMR"

    run(main)


def test_a_host_that_accepts_no_recipient_is_not_tried_with_the_rest() -> None:
    async def main() -> None:
        async with peer({**LIMITED, "DATA": b"451 4.3.0 later\r\n"}) as here, delivery(here.port) as made:
            outcomes = await deliver(made, message(*(f"u{number}@a.example" for number in range(7))))
        assert [outcome.disposition for outcome in outcomes] == [P] * 7
        assert sum(command.startswith("MAIL") for command in here.commands) == 1

    run(main)


def test_a_recipient_that_stays_beyond_the_limit_is_deferred() -> None:
    async def main() -> None:
        answers = {"RCPT TO:<y@a.example>": b"452 4.5.3 Too many recipients\r\n"}
        async with peer(answers) as here, delivery(here.port) as made:
            outcomes = await deliver(made, message("x@a.example", "y@a.example"))
        assert [outcome.disposition for outcome in outcomes] == [D, P]
        assert [content for content in here.messages if content] == [b"Subject: x\r\n\r\nhi\r\n"]
        assert sum(command.startswith("MAIL") for command in here.commands) == 2

    run(main)


def test_a_large_body_is_streamed() -> None:
    text = b"0123456789\r\n" * 100_000
    assert len(text) > HELD

    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            assert one(await deliver(made, message("x@a.example", body=text))).disposition is D
        assert here.messages == [text]

    run(main)


@pytest.mark.parametrize(("last", "declared"), [(b"ascii\r\n", ""), ("é\r\n".encode(), " BODY=8BITMIME")])
def test_a_large_body_is_declared_8bitmime_only_if_it_is(last: bytes, declared: str) -> None:  # RFC 6152 §3
    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            await deliver(made, message("x@a.example", body=b"0123456789\r\n" * 10_000 + last))
        assert here.commands[1] == f"MAIL FROM:<s@us.example>{declared}"

    run(main)


def test_a_connection_is_reused_and_closed_with_quit() -> None:
    async def main() -> None:
        async with peer() as here:
            async with delivery(here.port) as made:
                for _ in range(5):
                    assert one(await deliver(made, message("x@a.example"))).disposition is D
                assert here.connections == 1
                assert here.quits == 0
            assert here.quits == 1
            assert len(here.messages) == 5

    run(main)


def test_a_connection_is_replaced_after_the_message_limit() -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port, connection_messages=2) as made:
            for _ in range(5):
                await deliver(made, message("x@a.example"))
            assert here.connections == 3

    run(main)


def test_an_idle_connection_is_closed_with_quit() -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port, idle_seconds=0.01) as made:
            await deliver(made, message("x@a.example"))
            await here.until(lambda: here.open == 0)
            assert here.quits == 1

    run(main)


def test_connections_to_a_destination_are_limited() -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port, limits=DeliveryLimits(3)) as made:
            here.gate = asyncio.Event()
            running = [asyncio.create_task(deliver(made, message("x@a.example"))) for _ in range(10)]
            while len(here.messages) < 3:
                await asyncio.sleep(0)
            here.gate.set()
            for outcomes in await asyncio.gather(*running):
                assert one(outcomes).disposition is D
            assert here.most_open == 3
            assert here.connections == 3
            assert len(here.messages) == 10

    run(main)


def test_smart_hosts_are_tried_in_order_by_address_or_name() -> None:
    async def main() -> None:
        async with peer() as here:
            resolver = StaticResolver(addresses={"hub.example": ["127.0.0.1"]}, failing=["dead.example"])
            async with delivery(resolver=resolver, own=OwnSystem()) as made:
                by_name = Route.smart(
                    [Host("dead.example"), Host("127.0.0.2", here.port), Host("hub.example", here.port)]
                )
                outcomes = await deliver(made, message("x@a.example", "y@b.example"), by_name)
                assert [outcome.disposition for outcome in outcomes] == [D, D]
                assert outcomes[0].remote == f"hub.example [127.0.0.1]:{here.port}"
                assert len(here.messages) == 1  # one transaction, whatever the domains
                await deliver(made, message("x@a.example"), Route.smart([Host("127.0.0.1", here.port)]))
            assert here.connections == 2

    run(main)


def test_a_smart_host_without_an_address_defers() -> None:
    async def main() -> None:
        async with delivery() as made:
            outcome = one(await deliver(made, message("x@a.example"), Route.smart(["nowhere.example"])))
            assert (outcome.disposition, outcome.reply.enhanced, outcome.asked) == (P, "4.4.3", False)

    run(main)


@pytest.mark.parametrize("name", ["us.example\r\nMAIL FROM:<>", "two words", ""])
def test_r17_an_invalid_local_hostname_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        Dialer(local_hostname=name)


# -- the next host ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        {"greeting": b"421 busy\r\n"},
        {"greeting": b"450 not now\r\n"},
        {"greeting": b"554 no\r\n"},
        {"greeting": None},
        {"greeting": b"HTTP/1.1 400 Bad\r\n"},
        {"EHLO": b"451 later\r\n"},
        {"EHLO": None},
    ],
)
def test_after_a_host_that_refuses_service_the_next_is_tried(first: Mapping[str, bytes | None]) -> None:
    async def main() -> None:
        async with peer(first) as bad, peer(ip="127.0.0.2", port=bad.port) as good, delivery(bad.port) as made:
            outcome = one(await deliver(made, message("x@a.example")))
            assert outcome.disposition is D
            assert outcome.remote.startswith("mx2.a.example")
            assert bad.connections == 1
            assert len(good.messages) == 1

    run(main)


def test_after_an_unreachable_address_the_next_one_and_the_other_family_are_tried() -> None:
    addresses = {"mx1.a.example": ["127.0.0.3"], "mx2.a.example": ["::1", "127.0.0.1"]}

    async def main() -> None:
        async with peer() as here:
            resolver = StaticResolver(mx=MX_A, addresses=addresses)
            async with delivery(here.port, resolver=resolver) as made:
                assert one(await deliver(made, message("x@a.example"))).disposition is D

    run(main)


def test_unreachable_hosts_defer_and_count_as_an_attempt() -> None:
    async def main() -> None:
        async with peer() as here:
            pass
        async with delivery(here.port) as made:
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, outcome.reply.enhanced, outcome.asked) == (P, "4.4.1", True)
            assert outcome.reply.text == (f"Cannot connect: {os.strerror(errno.ECONNREFUSED)}",)

    run(main)


@pytest.mark.parametrize(("place", "expected"), [(MAX_ADDRESSES, D), (MAX_ADDRESSES + 1, P)])
def test_a_limited_number_of_addresses_is_tried(place: int, expected: Disposition) -> None:
    mx = {"a.example": [(number, f"mx{number}.a.example") for number in range(1, MAX_ADDRESSES + 2)]}
    addresses = {f"mx{number}.a.example": [f"127.0.1.{number}"] for number in range(1, MAX_ADDRESSES + 2)}
    addresses[f"mx{place}.a.example"] = ["127.0.0.1"]

    async def main() -> None:
        async with peer() as here, delivery(here.port, resolver=StaticResolver(mx=mx, addresses=addresses)) as made:
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, here.connections) == (expected, int(expected is D))

    run(main)


def test_permanent_refusal_by_all_hosts_fails_but_an_unreachable_host_defers() -> None:
    refusing = {"greeting": b"554 5.7.1 no\r\n"}

    async def main() -> None:
        async with peer(refusing) as first:
            async with delivery(first.port) as made:  # nobody listens at the second
                assert one(await deliver(made, message("x@a.example"))).disposition is P
            async with peer(refusing, ip="127.0.0.2", port=first.port), delivery(first.port) as made:
                outcome = one(await deliver(made, message("x@a.example")))
                assert (outcome.disposition, outcome.reply.code) == (F, 554)

    run(main)


def test_r27_a_host_whose_lookup_fails_is_skipped_and_all_skipped_defers() -> None:
    async def main() -> None:
        async with peer() as here:
            resolver = StaticResolver(mx=MX_A, addresses={"mx2.a.example": ["127.0.0.1"]}, failing=["mx1.a.example"])
            async with delivery(here.port, resolver=resolver) as made:
                assert one(await deliver(made, message("x@a.example"))).disposition is D
        for failing in (["a.example"], ["mx1.a.example", "mx2.a.example"], ["mx1.a.example"]):
            async with delivery(resolver=StaticResolver(mx=MX_A, failing=failing)) as made:
                outcome = one(await deliver(made, message("x@a.example")))
                assert (outcome.disposition, outcome.reply.enhanced, outcome.asked) == (P, "4.4.3", False)

    run(main)


@pytest.mark.parametrize(
    ("domain", "enhanced"),
    [
        ("nowhere.example", "5.1.2"),
        ("null.example", "5.1.10"),  # RFC 7505 §4.1
        ("nohost.example", "5.4.4"),
        ("empty.example", "5.4.4"),
        ("self.example", "5.4.6"),
        ("us.example", "5.4.6"),
        ("loop.example", "5.4.6"),
        ("mapped.example", "5.4.6"),
        ("[127.0.0.1]", "5.4.6"),
        ("[IPv6:::1]", "5.4.6"),
        ("[IPv6:::ffff:127.0.0.1]", "5.4.6"),
        ("[tag:x]", "5.1.2"),
        ("any.example", "5.4.4"),
        ("[0.0.0.0]", "5.4.4"),
    ],
)
def test_undeliverable_domains(domain: str, enhanced: str) -> None:
    resolver = StaticResolver(
        mx={
            "null.example": [(0, "")],
            "nohost.example": [(10, "gone.example")],
            "self.example": [(10, "US.example"), (20, "mx1.a.example")],
            "loop.example": [(10, "loop.mx.example"), (20, "mx1.a.example")],
        },
        addresses={
            "empty.example": [],
            "us.example": ["192.0.2.1"],
            "loop.mx.example": ["127.0.0.1"],
            "mapped.example": ["::ffff:127.0.0.1"],
            "any.example": ["0.0.0.0", "::", "224.0.0.1"],
            "mx1.a.example": ["192.0.2.1"],
        },
    )

    async def main() -> None:
        async with delivery(resolver=resolver, own=OwnSystem(frozenset({"us.example"}))) as made:
            outcome = one(await deliver(made, message(f"x@{domain}")))
            assert (outcome.disposition, outcome.reply.enhanced, outcome.asked) == (F, enhanced, False)

    run(main)


def test_implicit_mx_and_address_literals() -> None:  # RFC 5321 §5.1, §4.1.3
    async def main() -> None:
        async with peer() as here:
            resolver = StaticResolver(addresses={"host.example": ["127.0.0.1"]})
            async with delivery(here.port, resolver=resolver) as made:
                assert one(await deliver(made, message("x@host.example"))).disposition is D
                assert one(await deliver(made, message("x@[127.0.0.1]"))).disposition is D
            assert len(here.messages) == 2

    run(main)


# -- connections that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["closes", "421"])
def test_a_reused_connection_that_was_closed_is_replaced_without_an_outcome(ending: str) -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            await deliver(made, message("x@a.example"))
            if ending == "closes":
                # Closed by the peer in the moment in which the next message goes out.
                here.answers["MAIL FROM:<second@us.example>"] = None
            else:
                here.answers["MAIL FROM:<second@us.example>"] = b"421 4.4.2 idle too long\r\n"
            running = asyncio.create_task(deliver(made, message("x@a.example", sender="second@us.example")))
            while here.commands.count("MAIL FROM:<second@us.example>") < 1:
                await asyncio.sleep(0)
            del here.answers["MAIL FROM:<second@us.example>"]
            assert one(await running).disposition is D
            assert here.connections == 2
            assert len(here.messages) == 2

    run(main)


@pytest.mark.parametrize(
    "answers",
    [{"MAIL": None}, {"MAIL": b"421 bye\r\n"}, {"RCPT": None}, {"DATA": None}, {".": None}, {"MAIL": b"220 x\r\n221-"},
     {"DATA": b"250 what\r\n"}, {".": b"354 what\r\n"}, {"RCPT": b"250-a\r\n251 b\r\n"}],
)  # fmt: skip
def test_r19_a_new_connection_that_fails_defers_and_is_not_reused(answers: Mapping[str, bytes | None]) -> None:
    async def main() -> None:
        timeouts = {**TIMEOUTS, ClientStep.RCPT: 0.1}
        async with peer(answers) as here, delivery(here.port, timeouts=timeouts) as made:
            outcome = one(await deliver(made, message("x@a.example")))
            assert outcome.disposition is P
            assert outcome.asked
            assert here.connections == 1
            await deliver(made, message("x@a.example"))
            assert here.connections == 2

    run(main)


def test_r19_a_timeout_defers_and_the_connection_is_not_reused() -> None:
    async def main() -> None:
        async with (
            peer(dict.fromkeys(["MAIL", "RCPT", "DATA"], b"")) as here,
            delivery(here.port, timeouts={**TIMEOUTS, ClientStep.MAIL: 0.03}) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.4.2")
            here.answers |= {"MAIL": b"250 ok\r\n", "RCPT": b"250 ok\r\n", "DATA": b"354 go\r\n"}
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            assert here.connections == 2

    run(main)


@pytest.mark.parametrize("size", [10, HELD + 10])
@pytest.mark.parametrize(("kind", "disposition"), [(OSError, P), (BodyDamaged, Disposition.HELD)])
def test_a_body_that_cannot_be_read_is_never_terminated(
    size: int, kind: type[OSError], disposition: Disposition
) -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            body = Held(b"x" * size, kind(5, "Input/output error"))
            outcome = one(await deliver(made, message("x@a.example", body=body)))
            assert (outcome.disposition, outcome.reply.enhanced) == (disposition, "4.3.0")
            assert "Input/output error" in outcome.reply.detail
            assert here.messages == []

    run(main)


def test_a_cancelled_delivery_closes_its_connection() -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            here.gate = asyncio.Event()
            running = asyncio.create_task(deliver(made, message("x@a.example")))
            while not here.messages:
                await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            here.gate.set()
            await here.until(lambda: here.open == 0)
            assert here.quits == 0

    run(main)


def test_a_message_that_the_next_hop_cannot_carry_fails_and_the_connection_is_kept() -> None:
    async def main() -> None:
        async with peer({"EHLO": b"250-peer.example\r\n250 SIZE 10\r\n"}) as here, delivery(here.port) as made:
            for body, enhanced in ((b"more than ten octets", "5.3.4"), ("é".encode(), "5.6.3")):
                outcome = one(await deliver(made, message("x@a.example", body=body)))
                assert (outcome.disposition, outcome.reply.enhanced) == (F, enhanced)
            assert one(await deliver(made, message("x@a.example", body=b"ten"))).disposition is D
            assert here.connections == 1

    run(main)
