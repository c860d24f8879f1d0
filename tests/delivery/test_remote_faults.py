"""Delivery to faulty peers: a fault of one host, command or recipient must not affect the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.delivery.test_remote import LONG, D, F, P, deliver, delivery, message, one, peer, run

from ironpost.client.connection import connect
from ironpost.delivery.next_hop import MAX_HOSTS
from ironpost.model.dns import MX, Records, RecordType, ResolverError
from ironpost.protocol.client.session import TIMEOUTS, ClientStep, OutgoingTransaction
from ironpost.routing.route import Host, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNKS = {"EHLO": b"250-peer.example\r\n250-PIPELINING\r\n250 CHUNKING\r\n"}


# -- f40: faults of the dialogue --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 501, 502, 503])
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "."])
def test_f40_a_protocol_reply_code_defers_and_keeps_the_connection(step: str, code: int) -> None:
    async def main() -> None:
        async with peer({step: b"%d 5.5.1 what\r\n" % code}) as here, delivery(here.port) as made:
            assert one(await deliver(made, message("x@a.example"))).disposition is P
            await here.until(lambda: not here.open)

    run(main)


def test_f40_a_host_that_rejects_bdat_gets_data_on_a_new_connection() -> None:
    async def main() -> None:
        async with peer({**CHUNKS, "BDAT": b"502 5.5.1 what\r\n"}) as here, delivery(here.port) as made:
            usual = here.answer

            def strict(writer: asyncio.StreamWriter, key: str, verb: str) -> bool:
                # It reads the chunk's octets as commands, and so must not be believed any more.
                return usual(writer, key, "BDAT" if verb in {"Subject:", "hi", ""} else verb)

            here.answer = strict  # type: ignore[method-assign]
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            assert here.connections == 2
            assert here.messages == [b"Subject: x\r\n\r\nhi\r\n"]

    run(main)


def test_f40_after_a_refused_rset_the_next_message_gets_a_new_connection() -> None:
    async def main() -> None:
        answers = {"RCPT TO:<no@a.example>": b"550 5.1.1 who\r\n", "RSET": b"502 5.5.1 what\r\n"}
        answers["DATA"] = b"554 5.5.1 nobody\r\n"
        async with peer(answers) as here, delivery(here.port) as made:
            assert one(await deliver(made, message("no@a.example"))).disposition is F
            here.answers["DATA"] = b"354 go\r\n"
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            assert here.connections == 2
            assert len(here.messages) == 1

    run(main)


# -- f42: one host does not decide for all ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        {"MAIL": b"421 4.3.2 closing\r\n"},
        {"MAIL": b"451 4.3.0 later\r\n"},
        {"MAIL": None},
        {"MAIL": b"503 5.5.1 what\r\n"},
        {"RCPT": None},
        {"RCPT": b"421 4.7.0 closing\r\n"},
        {"DATA": b"421 closing\r\n"},
        {"DATA": b"451 4.3.0 later\r\n"},
        {"DATA": None},
        {"DATA": b"250 what\r\n"},
        {"MAIL": b"250-a\r\n251 b\r\n"},
    ],
)
def test_f42_after_a_host_that_decides_nothing_the_next_is_tried(answers: Mapping[str, bytes | None]) -> None:
    """RFC 5321 §5.1."""

    async def main() -> None:
        async with (
            peer(answers) as first,
            peer(ip="127.0.0.2", port=first.port) as second,
            delivery(first.port) as made,
        ):
            outcomes = await deliver(made, message("x@a.example", "y@a.example"))
            assert [outcome.disposition for outcome in outcomes] == [D, D]
            assert not any(first.messages)
            assert len(second.messages) == 1
            assert outcomes[0].remote.startswith("mx2.a.example")

    run(main)


def test_f42_after_a_silent_host_the_next_is_tried() -> None:
    async def main() -> None:
        async with (
            peer({"MAIL": b"", "RCPT": b"", "DATA": b""}) as first,
            peer(ip="127.0.0.2", port=first.port) as second,
            delivery(first.port, timeouts={**TIMEOUTS, ClientStep.MAIL: 0.03}) as made,
        ):
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            assert len(second.messages) == 1

    run(main)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"MAIL": b"550 5.7.1 no\r\n"}, F),
        ({"RCPT": b"450 4.2.0 greylisted\r\n"}, P),
        ({".": b"451 4.3.0 later\r\n"}, P),
        ({".": None}, P),  # RFC 1047: it may have taken the message
        ({".": b"421 closing\r\n"}, P),
    ],
)
def test_f42_after_the_content_no_other_host_is_tried(answers: Mapping[str, bytes | None], expected: object) -> None:
    async def main() -> None:
        async with (
            peer(answers) as first,
            peer(ip="127.0.0.2", port=first.port) as second,
            delivery(first.port) as made,
        ):
            assert one(await deliver(made, message("x@a.example"))).disposition is expected
            assert second.connections == 0

    run(main)


def test_f42_only_undecided_recipients_go_to_the_next_host() -> None:
    async def main() -> None:
        answers = {
            "EHLO": b"250 peer.example\r\n",  # one command at a time
            "RCPT TO:<no@a.example>": b"550 5.1.1 who\r\n",
            "RCPT TO:<y@a.example>": b"421 4.7.0 closing\r\n",
        }
        async with (
            peer(answers) as first,
            peer(ip="127.0.0.2", port=first.port) as second,
            delivery(first.port) as made,
        ):
            outcomes = await deliver(made, message("no@a.example", "x@a.example", "y@a.example"))
            assert [outcome.disposition for outcome in outcomes] == [F, D, D]
            assert [command for command in second.commands if command.startswith("RCPT")] == [
                "RCPT TO:<x@a.example>",
                "RCPT TO:<y@a.example>",
            ]

    run(main)


def test_f42_if_no_host_decides_the_last_reply_counts() -> None:
    async def main() -> None:
        async with peer({"MAIL": b"451 4.7.1 busy\r\n"}) as first, delivery(first.port) as made:
            outcome = one(await deliver(made, message("x@a.example")))  # nobody listens at the second
            assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.7.1")
            assert first.connections == 1

    run(main)


# -- f44: a malformed reply to the content ----------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [b"OK\r\n", b"354 what\r\n", b"250-a\r\n550 b\r\n", b"354 what\n"])
def test_f44_a_host_with_unreadable_replies_to_the_content_gets_two_copies_at_most(reply: bytes) -> None:
    """RFC 1047: it is not known whether the host has the first one."""

    async def main() -> None:
        async with peer({".": reply}) as here, delivery(here.port) as made:
            sent = message("x@a.example")
            first = one(await deliver(made, sent))
            assert first.disposition is P
            again = sent._replace(recipients=tuple(each._replace(last=str(first.reply)) for each in sent.recipients))
            second = one(await deliver(made, again))
            assert (second.disposition, second.reply.enhanced) == (F, "5.5.0")
            assert len(here.messages) == 2

    run(main)


def test_f44_an_acceptance_with_invalid_framing_still_counts() -> None:
    async def main() -> None:
        async with peer({".": b"250 OK\n"}) as here, delivery(here.port) as made:
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            await here.until(lambda: not here.open)

    run(main)


# -- f15: a smart host that does not take us --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        {"greeting": b"554 5.7.1 not you\r\n"},
        {"EHLO": b"500 5.5.1 LHLO\r\n", "HELO": b"500 5.5.1 LHLO\r\n", "greeting": b"220 lmtp.example LMTP\r\n"},
        {"EHLO": b"550 5.7.1 not you\r\n", "HELO": b"550 5.7.1 not you\r\n"},
        {"MAIL": b"530 5.7.0 Authentication required\r\n"},
        {"MAIL": b"550 5.7.1 not you\r\n"},
        {"RCPT": b"530 5.7.0 Authentication required\r\n"},
        {"DATA": b"538 5.7.11 Encryption required\r\n"},
        {".": b"535 5.7.8 who are you\r\n"},
    ],
)
def test_f15_a_smart_host_that_refuses_us_defers_and_is_logged(
    answers: Mapping[str, bytes | None],
) -> None:
    async def main() -> None:
        async with peer(answers) as here, delivery(25) as made:
            route = Route.smart([Host("127.0.0.1", here.port)])
            outcome = one(await deliver(made, message("x@a.example"), route))
            assert (outcome.disposition, outcome.ours) == (P, True)

    run(main)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"RCPT": b"550 5.1.1 who\r\n"}, F),
        ({".": b"554 5.6.0 spam\r\n"}, F),
        ({"MAIL": b"451 4.3.0 later\r\n"}, P),
        ({"greeting": b"421 4.3.2 later\r\n"}, P),
        ({}, D),
    ],
)
def test_f15_a_smart_host_that_refuses_the_message_fails_it(
    answers: Mapping[str, bytes | None], expected: object
) -> None:
    async def main() -> None:
        async with peer(answers) as here, delivery(25) as made:
            route = Route.smart([Host("127.0.0.1", here.port)])
            outcome = one(await deliver(made, message("x@a.example"), route))
            assert (outcome.disposition, outcome.ours) == (expected, False)

    run(main)


def test_f15_an_unsupported_message_is_not_a_route_fault() -> None:
    async def main() -> None:
        sent = message("x@a.example")
        sent = sent._replace(envelope=sent.envelope._replace(parameters={"REQUIRETLS": None}))
        async with peer() as here, delivery(25) as made:
            outcome = one(await deliver(made, sent, Route.smart([Host("127.0.0.1", here.port)])))
            assert (outcome.disposition, outcome.ours) == (F, False)

    run(main)


def test_f15_the_next_smart_host_is_tried_first() -> None:
    async def main() -> None:
        async with peer({"MAIL": b"530 5.7.0 log in\r\n"}) as first, peer() as second, delivery(25) as made:
            route = Route.smart([Host("127.0.0.1", first.port), Host("127.0.0.1", second.port)])
            outcome = one(await deliver(made, message("x@a.example"), route))
            assert outcome.disposition is D

    run(main)


@pytest.mark.parametrize(
    "answers", [{"greeting": b"554 5.7.1 not you\r\n"}, {"MAIL": b"530 5.7.0 Authentication required\r\n"}]
)
def test_f15_at_an_exchanger_the_same_refusal_is_final(answers: Mapping[str, bytes | None]) -> None:
    async def main() -> None:
        async with (
            peer(answers) as first,
            peer(answers, "127.0.0.2", first.port),
            delivery(first.port) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, outcome.ours) == (F, False)

    run(main)


# -- f46: fewer than a hundred recipients -----------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [b"452 too many\r\n", b"452 4.5.3 too many\r\n", b"552 too many\r\n"])
@pytest.mark.parametrize("limit", [1, 3])
def test_f46_recipients_beyond_the_limit_follow_at_once(reply: bytes, limit: int) -> None:
    taken = 0

    async def main() -> None:
        async with peer() as here:
            usual = here.answer

            def limited(writer: asyncio.StreamWriter, key: str, verb: str) -> bool:
                nonlocal taken
                taken = 0 if verb == "MAIL" else taken + (verb == "RCPT")
                if verb == "RCPT" and taken > limit:
                    writer.write(reply)
                    return True
                return usual(writer, key, verb)

            here.answer = limited  # type: ignore[method-assign]
            async with delivery(here.port) as made:
                outcomes = await deliver(made, message(*(f"u{number}@a.example" for number in range(7))))
            assert [outcome.disposition for outcome in outcomes] == [D] * 7
            assert len(here.messages) == -(-7 // limit)
            assert here.connections == 1

    run(main)


def test_f46_a_full_mailbox_is_not_too_many_recipients() -> None:
    async def main() -> None:
        answers = {"RCPT TO:<y@a.example>": b"452 4.2.2 mailbox full\r\n"}
        async with peer(answers) as here, delivery(here.port) as made:
            outcomes = await deliver(made, message("x@a.example", "y@a.example"))
        assert [outcome.disposition for outcome in outcomes] == [D, P]
        assert sum(command.startswith("MAIL") for command in here.commands) == 1

    run(main)


# -- f05: every wait is bounded --------------------------------------------------------------------------------------


def test_f05_a_slow_host_is_limited_by_the_time_of_one_attempt() -> None:
    """Each reply comes well before its timeout: only a limit for all of them ends the attempt."""

    async def main() -> None:
        async with peer({"EHLO": b"250 peer.example\r\n"}) as here, delivery(here.port, attempt_seconds=0.3) as made:
            usual = here.answer

            def slow(writer: asyncio.StreamWriter, key: str, verb: str) -> bool:
                if verb == "RCPT":
                    asyncio.get_running_loop().call_later(0.02, writer.write, b"250 ok\r\n")
                    return True
                return usual(writer, key, verb)

            here.answer = slow  # type: ignore[method-assign]
            outcomes = await deliver(made, message(*(f"u{number}@a.example" for number in range(1000))))
            assert {outcome.disposition for outcome in outcomes} == {P}
            assert here.messages == []
            assert here.connections == 1

    run(main)


def test_f05_the_reply_to_the_content_has_its_own_timeout() -> None:
    """RFC 1047: a client that gives up there sends the message twice."""

    async def main() -> None:
        async with peer() as here:
            here.gate = asyncio.Event()
            connection = await connect("127.0.0.1", here.port, "us.example")
            envelope = message("x@a.example").envelope
            sent = OutgoingTransaction(envelope, content=b"hi\r\n")
            running = asyncio.create_task(connection.transact(sent, deadline=asyncio.get_running_loop().time() + LONG))
            while not here.messages:
                await asyncio.sleep(0)
            connection._deadline_passed()  # as its timer would
            here.gate.set()
            await running
            assert sent.outcomes[0] is not None
            assert sent.outcomes[0].disposition is D
            await connection.quit()

    run(main)


class Countless:
    """A resolver of a domain with thousands of exchangers, whose addresses fail or, if `silent`, never come."""

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent
        self.hosts: set[str] = set()

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        if kind is RecordType.MX:
            return Records(True, tuple(MX(number, f"mx{number}.a.example") for number in range(2000)))
        self.hosts.add(name)
        if self.silent:
            await asyncio.get_running_loop().create_future()
        raise ResolverError("SERVFAIL")


def test_f05_a_domain_with_thousands_of_hosts_costs_few_queries() -> None:
    async def main() -> None:
        resolver = Countless(silent=False)
        async with delivery(resolver=resolver) as made:
            assert one(await deliver(made, message("x@a.example"))).disposition is P
        assert len(resolver.hosts) == MAX_HOSTS

    run(main)


def test_f05_all_lookups_of_a_destination_share_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironpost.delivery.next_hop.RESOLVE_SECONDS", 0.05)

    async def main() -> None:
        resolver = Countless(silent=True)
        async with delivery(resolver=resolver) as made:
            outcome = one(await deliver(made, message("x@a.example")))
        assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.4.3")
        assert len(resolver.hosts) <= MAX_HOSTS

    run(main)


# -- which failures are the destination's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"greeting": b"421 4.3.2 closing\r\n"}, True),
        ({"EHLO": b"421 4.3.2 closing\r\n"}, True),
        ({"MAIL": b"421 4.3.2 closing\r\n"}, True),
        ({"RCPT": b"421 4.3.2 closing\r\n"}, True),
        ({"DATA": b"421 4.3.2 closing\r\n"}, True),
        ({".": b"421 4.3.2 closing\r\n"}, True),
        ({"MAIL": b"451 4.3.0 later\r\n"}, False),
        ({"RCPT": b"450 4.2.0 mailbox busy\r\n"}, False),
        ({"RCPT": b"450 4.7.1 Greylisted for 5 minutes\r\n"}, False),
        ({"RCPT": b"421 4.7.0 Greylisted for 5 minutes\r\n"}, False),
    ],
)
def test_a_421_at_any_step_counts_against_the_destination_and_greylisting_at_none(
    answers: Mapping[str, bytes | None], expected: bool
) -> None:
    async def main() -> None:
        async with peer(answers) as here, delivery(here.port) as made:
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, outcome.unreachable) == (P, expected)

    run(main)
