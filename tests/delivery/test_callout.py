"""Callouts: what the next hop is asked, what its reply means, and what is asked only once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.delivery.test_remote import D, F, P, deliver, delivery, message, one, peer, run
from tests.policy.policy_kit import checks

from ironpost.compose.directory import CALLOUT, callout
from ironpost.delivery.callout import Callout
from ironpost.delivery.waiting import WaitingAgent
from ironpost.model import Address
from ironpost.model.patterns import Domains
from ironpost.model.verdict import Action
from ironpost.policy import Facts, Policy, PolicyDecision, PolicyStage, Ports
from ironpost.routing.directory import DirectoryError
from ironpost.routing.mail_directory import MailDirectory, RelayDomains
from ironpost.routing.records import RecordTable
from ironpost.routing.route import Route, Routes, Rule
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from ironpost.delivery.remote import RemoteDelivery
    from ironpost.model import Disposition
    from ironpost.routing.records import RecordSource

JO = Address.parse("jo@a.example")


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> float:
        return 1e9 + self.passed

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def table(route: Route, verifier: RecordSource | None = None) -> Routes:
    relay = RelayDomains(Domains(["a.example"]), verifier=verifier)
    return Routes(MailDirectory(Domains(), relay=[relay]), [Rule(("a.example",), route)])


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({}, D),
        ({"RCPT": b"251 will forward\r\n"}, D),
        ({"RCPT": b"550 5.1.1 who\r\n"}, F),
        ({"RCPT": b"450 4.2.0 greylisted\r\n"}, P),
        ({"RCPT": b"503 5.5.1 what\r\n"}, P),
        ({"RCPT": b"421 4.3.2 closing\r\n"}, P),
        ({"RCPT": None}, P),
        ({"MAIL": b"550 5.7.1 no bounces\r\n"}, P),
        ({"MAIL": b"451 4.3.0 later\r\n"}, P),
        ({"greeting": b"421 4.3.2 busy\r\n"}, P),
    ],
)
@pytest.mark.parametrize("smart", [False, True])
def test_what_a_reply_means(replies: dict[str, bytes | None], expected: Disposition, *, smart: bool) -> None:
    async def main() -> None:
        async with peer(replies) as here, delivery(here.port) as made:
            route = Route.smart([f"127.0.0.1:{here.port}"]) if smart else Route.mx()
            outcome = await made.callout(JO, route)
            assert outcome.disposition is expected
            assert here.messages == []
            assert "DATA" not in here.commands

    run(main)


def test_a_next_hop_that_cannot_be_reached_refuses_nothing() -> None:
    async def main() -> None:
        async with peer() as gone:
            port = gone.port
        async with delivery(port) as made:
            assert (await made.callout(JO, Route.mx())).disposition is P

    run(main)


def test_the_connection_is_kept_for_the_next_question_and_for_mail() -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            for _ in range(2):
                assert (await made.callout(JO, Route.mx())).disposition is D
            assert one(await deliver(made, message("jo@a.example"))).disposition is D
            assert here.connections == 1
            assert here.commands[1:3] == ["MAIL FROM:<>", "RCPT TO:<jo@a.example>"]
            assert len(here.messages) == 1

    run(main)


def test_the_source_answers_with_a_record_nothing_or_an_error() -> None:
    async def main() -> None:
        replies = {"RCPT TO:<no@a.example>": b"550 5.1.1 who\r\n", "RCPT TO:<later@a.example>": b"450 4.2.0 later\r\n"}
        counters = Counters()
        async with peer(replies) as here, delivery(here.port) as made:
            source = Callout(lambda: table(Route.mx()), lambda _: made, counters)
            record = await source.lookup("Jo.b+x@a.example")
            assert record is not None
            assert record.where == f"accepted by mx1.a.example [127.0.0.1]:{here.port}"
            assert "RCPT TO:<Jo.b+x@a.example>" in here.commands
            assert await source.lookup("no@a.example") is None
            with pytest.raises(DirectoryError, match=r"^mx1.a.example .*: 450 4.2.0 later"):
                await source.lookup("later@a.example")
        assert counters.snapshot()["callouts"] == {"accepted": 1, "refused": 1, "unknown": 1}

    run(main)


def test_a_local_part_that_must_be_quoted_is_quoted() -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            source = Callout(lambda: table(Route.mx()), lambda _: made)
            assert await source.lookup("jo smith@a.example") is not None
            assert 'RCPT TO:<"jo smith"@a.example>' in here.commands

    run(main)


def test_mail_that_waits_for_its_owner_is_accepted_without_a_question() -> None:
    source = Callout(lambda: table(Route.on_demand()), lambda _: WaitingAgent())
    record = asyncio.run(source.lookup("jo@a.example"))
    assert record is not None
    assert record.where == "not asked, because its route is on demand"


class Relaying:
    """Relay control of a system that asks its next hop."""

    def __init__(self, made: RemoteDelivery, *, accept_unverified: bool = False) -> None:
        self.time = Time()
        source = callout(lambda: self.routes, lambda _: made, self.time)
        relay = RelayDomains(Domains(["a.example"]), verifier=source, accept_unverified=accept_unverified)
        self.routes = Routes(MailDirectory(Domains(), relay=[relay]), [Rule(("a.example",), Route.mx())])
        self.policy = Policy(checks(Ports(directory=self.routes.directory)))

    async def rcpt(self, recipient: str) -> PolicyDecision:
        facts = Facts(ip="198.51.100.7", forward_path=Address.parse(recipient))
        decision = self.policy.decide(PolicyStage.RECIPIENT, facts)
        return decision if isinstance(decision, PolicyDecision) else await decision


def test_relay_control_asks_once_for_each_address() -> None:
    async def main() -> None:
        async with peer({"RCPT TO:<no@a.example>": b"550 5.1.1 who\r\n"}) as here, delivery(here.port) as made:
            relaying = Relaying(made)
            found = await asyncio.gather(*(relaying.rcpt(f"{name}@a.example") for name in ("jo", "no", "jo", "no")))
            assert [each.verdict.action for each in found] == [Action.ACCEPT, Action.REJECT] * 2
            assert found[0].reasons[0].endswith(f"; accepted by mx1.a.example [127.0.0.1]:{here.port}")
            assert found[1].verdict.reply is not None
            assert found[1].verdict.reply.enhanced == "5.1.1"
            assert "its next hop refuses no@a.example" in found[1].reasons[0]
            assert sorted(each for each in here.commands if each.startswith("RCPT")) == [
                "RCPT TO:<jo@a.example>", "RCPT TO:<no@a.example>",
            ]  # fmt: skip
            assert here.messages == []

    run(main)


def test_answers_are_used_for_a_time_and_those_that_accept_longer_while_the_next_hop_is_down() -> None:
    async def main() -> None:
        replies = {"RCPT TO:<no@a.example>": b"550 5.1.1 who\r\n"}
        async with peer(replies) as here, delivery(here.port) as made:
            relaying = Relaying(made)
            for name in ("jo", "no"):
                await relaying.rcpt(f"{name}@a.example")
            relaying.time.passed += CALLOUT.cache_missing - 1
            assert (await relaying.rcpt("no@a.example")).verdict.action is Action.REJECT
            assert here.commands.count("RCPT TO:<no@a.example>") == 1
            here.answers["RCPT"] = here.answers["RCPT TO:<no@a.example>"] = b"450 4.3.0 down\r\n"
            relaying.time.passed += CALLOUT.cache
            assert (await relaying.rcpt("jo@a.example")).verdict.action is Action.ACCEPT
            assert (await relaying.rcpt("no@a.example")).verdict.action is Action.DEFER
            assert (await relaying.rcpt("new@a.example")).verdict.action is Action.DEFER
            relaying.time.passed += CALLOUT.cache_stale
            assert (await relaying.rcpt("jo@a.example")).verdict.action is Action.DEFER

    run(main)


def test_an_address_can_be_accepted_although_it_is_not_verified() -> None:
    async def main() -> None:
        async with peer({"RCPT": b"450 4.3.0 down\r\n"}) as here, delivery(here.port) as made:
            found = await Relaying(made, accept_unverified=True).rcpt("jo@a.example")
            assert found.verdict.action is Action.ACCEPT
            assert found.noted
            assert f"not verified: mx1.a.example [127.0.0.1]:{here.port}: 450 4.3.0 down" in found.reasons[0]

    run(main)


def test_queued_mail_is_routed_without_a_question() -> None:
    class Never(RecordTable):
        def lookup(self, key: str, /) -> None:
            raise AssertionError(key)

    decision = table(Route.mx(), Never({})).decide(JO)
    assert not hasattr(decision, "close")
