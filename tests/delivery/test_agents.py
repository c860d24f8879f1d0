"""The registry of delivery agents: one agent for each kind of route, and how another one is added."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ironpost.compose.delivery import DeliveryAgents, reported_domains, routes
from ironpost.config import Configuration, parse
from ironpost.delivery import NextHops
from ironpost.delivery.access import AccessError
from ironpost.delivery.agents import AGENTS, AgentEntry, Scope
from ironpost.delivery.own_system import OwnSystem
from ironpost.delivery.remote import RemoteDelivery
from ironpost.model import Address, Disposition, Outcome, Reply
from ironpost.mta.destinations import destination_key
from ironpost.processes.clock import SystemClock, SystemRandom
from ironpost.routing.route import Kind, Route
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.delivery.agents import AgentContext
    from ironpost.queue.store import QueuedMessage, QueuedRecipient


class Lmtp:
    """An agent that stands for delivery over LMTP."""

    def __init__(self, context: AgentContext) -> None:
        self.host = context.name
        self.closed = False

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], route: Route
    ) -> Sequence[tuple[int, Outcome]]:
        del message, route
        delivered = Outcome(Disposition.DELIVERED, Reply(250, "2.1.5", (f"{self.host} has it",)))
        return [(each.number, delivered) for each in recipients]

    async def preview(self, address: Address, route: Route) -> NextHops:
        return NextHops(f"LMTP for {address} by {route}")

    def close(self) -> None:
        self.closed = True


def agents(configuration: Configuration) -> DeliveryAgents:
    return DeliveryAgents(
        configuration, "mx.here.example", OwnSystem(), SystemClock(), SystemRandom(), resolver=StaticResolver()
    )


def test_every_kind_of_route_has_an_agent() -> None:
    assert set(AGENTS) == set(Kind)


def test_all_mail_to_other_systems_shares_one_agent_and_its_connections() -> None:
    async def main() -> None:
        made = agents(Configuration())
        assert isinstance(made.agent(Route.mx()), RemoteDelivery)
        assert made.agent(Route.mx()) is made.agent(Route.smart(["hub.example"]))
        await made.close()

    asyncio.run(main())


def test_an_agent_is_added_by_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AGENTS, Kind.LOCAL, AgentEntry(Lmtp, Scope.ROUTE))  # type: ignore[arg-type]

    async def main() -> None:
        made = agents(Configuration())
        agent = made.agent(Route.local())
        assert isinstance(agent, Lmtp)
        assert agent.host == "mx.here.example"
        assert (await agent.preview(Address.parse("jo@here.example"), Route.local())).text == (
            "LMTP for jo@here.example by local"
        )
        assert destination_key(Route.local(), "here.example") == ((Route.local(), ""), Scope.ROUTE)
        await made.close()
        assert agent.closed

    asyncio.run(main())


def test_the_route_of_local_mail_has_its_maildir() -> None:
    async def main() -> None:
        made = agents(Configuration())
        for where, path in (("inbox", "inbox"), ("/srv/{domain}/{local}", "/srv/localhost/jo")):
            jo = Address.parse("Jo@localhost")
            route = routes(parse(f'local.maildir = "{where}"')).decide(jo).route
            assert (await made.agent(route).preview(jo, route)).text == f"Maildir {path}"
            assert str(route) == f"local {where}"
        await made.close()

    asyncio.run(main())


def test_reports_about_dmarc_may_be_about_the_domains_of_the_server() -> None:
    configured = parse("""
local.domains = ["Mail.example", "*.hosted.example"]
relay = [{ domains = ["x.relayed.example"] }]
dkim = [{ domain = "signed.example", selector = "s", key = "file:key.pem" }]
""")
    ours = reported_domains(configured)
    for domain in ("mail.example", "a.mail.example", "hosted.example", "relayed.example", "b.signed.example"):
        assert domain in ours
    for domain in ("", "example", "other.example", "y.relayed.example", "xmail.example"):
        assert domain not in ours
    assert "other.example" in reported_domains(parse('local.domains = ["*"]'))


def test_a_start_or_reload_refuses_local_delivery_that_this_system_cannot_make() -> None:
    entry = '[[local.delivery]]\nrecipients = ["*"]\npipe = { command = ["/no/such/program"], user = "no-such-user" }\n'

    async def main() -> None:
        made = agents(Configuration())
        with pytest.raises(AccessError, match=r"local\.delivery\[1\]\.pipe\.user: there is no user no-such-user"):
            made.prepare(parse(entry))
        await made.close()

    asyncio.run(main())
