"""Callouts: the next hop of a relay domain is asked whether a recipient exists, before mail for it is accepted.

Promises: hosts, TLS, logins, limits and kept connections are those of delivery, because a callout is a delivery that
ends after RCPT, from the null reverse-path. The route is the one of such mail.
Limitations: a next hop that accepts every recipient and refuses later cannot be asked. Mail that waits until its owner
fetches it is accepted without a question.
Standards: RFC 5321 §3.7 (relaying for other systems), §4.5.5 (the null reverse-path).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.delivery.remote import RemoteDelivery
from ironpost.model import NULL, Address, Disposition
from ironpost.model.ports import Uncounted
from ironpost.routing.directory import DirectoryError
from ironpost.routing.records import Record
from ironpost.routing.route import RouteDecision

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.delivery import RouteAgent
    from ironpost.model.ports import Metrics
    from ironpost.routing.route import Route, Routes

_RESULTS = {Disposition.DELIVERED: "accepted", Disposition.FAILED: "refused"}
"""Labels of the counter; all others are `unknown`."""


class Callout:
    """Implements `routing.records.RecordSource`: its record of an address is that its next hop accepts it."""

    def __init__(
        self, routes: Callable[[], Routes], agents: Callable[[Route], RouteAgent], metrics: Metrics | None = None
    ) -> None:
        """`routes` returns the routing table, whose directory may use this object."""
        self._routes = routes
        self._agents = agents
        self._metrics = metrics or Uncounted()

    async def lookup(self, key: str, /) -> Record | None:
        """Ask for the address that `key` is, without quotes; None if mail for it would fail permanently.

        Raises:
            DirectoryError: that is not known now; the text says why.
        """
        local_part, _, domain = key.rpartition("@")
        address = Address(local_part, domain)
        decision = self._routes().decide(address, NULL)
        route = (decision if isinstance(decision, RouteDecision) else await decision).route
        agent = self._agents(route)
        if not isinstance(agent, RemoteDelivery):
            return Record(f"not asked, because its route is {route}")
        outcome = await agent.callout(address, route)
        self._metrics.count("callouts", _RESULTS.get(outcome.disposition, "unknown"))
        if outcome.disposition is Disposition.DELIVERED:
            return Record(f"accepted by {outcome.remote}")
        if outcome.disposition is Disposition.FAILED:
            return None
        raise DirectoryError(f"{outcome.remote or route}: {outcome.reply}")
