"""A dry run: what would be decided about one recipient, stage by stage, with the reasons that were given.

Promises: asks the same policy, routes and DNS as a running server, sends nothing and changes nothing. Each stage is
there up to the one that ends the matter; nothing behind it was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ironpost.delivery.next_hop import MAX_ADDRESSES, NowhereError, exchangers, smart_hosts
from ironpost.model import Action, Address
from ironpost.model.ports import ResolverError
from ironpost.policy import Decision, Facts, Stage
from ironpost.protocol.transaction import Identity
from ironpost.routing.route import Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.delivery.next_hop import OwnSystem
    from ironpost.model import Reply
    from ironpost.model.ports import Random, Resolver
    from ironpost.policy import Policy
    from ironpost.routing.route import Route, Routes


class Outcome(Enum):
    """How it would end."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"
    """The client would read 250, and nothing would be done."""
    DEFERRED = "deferred"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Step:
    """One question and its answer."""

    name: str
    """`connect`, `hello`, `mail`, `recipient`, `route` or `next hop`."""
    about: str
    answer: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole story."""

    outcome: Outcome
    steps: tuple[Step, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "outcome": self.outcome.value,
            "steps": [
                {"name": step.name, "about": step.about, "answer": step.answer, "reasons": list(step.reasons)}
                for step in self.steps
            ],
        }


class Explainer:
    """Explains by the parts of one configuration."""

    def __init__(
        self, policy: Policy, routes: Routes, resolver: Resolver, random: Random, own: OwnSystem, mailbox: str
    ) -> None:
        """`mailbox` is what local delivery is called."""
        self._policy = policy
        self._routes = routes
        self._resolver = resolver
        self._random = random
        self._own = own
        self._mailbox = mailbox

    async def explain(
        self, recipient: Address, sender: Address, *, client: str = "", hello: str = "", login: str = ""
    ) -> Explanation:
        """What would be decided.

        Args:
            recipient: who is written to.
            sender: the reverse-path.
            client: its IP address; empty for one that nobody trusts.
            hello: what it calls itself; empty: EHLO is not asked about.
            login: as whom it has authenticated; empty for nobody.
        """
        identity = Identity(login, "none") if login else None
        facts = Facts(ip=client, helo=hello, identity=identity, reverse_path=sender, forward_path=recipient)
        asked = [(Stage.CONNECT, client or "a client that nobody trusts")]
        if hello:
            asked.append((Stage.HELLO, hello))
        asked += [(Stage.MAIL, f"<{sender}>"), (Stage.RECIPIENT, f"<{recipient}>")]
        steps: list[Step] = []
        for stage, about in asked:
            decision = await _decided(self._policy.decide(stage, facts))
            verdict = decision.verdict
            steps.append(Step(stage.value, about, str(verdict), decision.reasons))
            if verdict.refused:
                refused = verdict.final.action is Action.REJECT
                return Explanation(Outcome.REFUSED if refused else Outcome.DEFERRED, tuple(steps))
            if verdict.final.action is Action.DROP:
                return Explanation(Outcome.DROPPED, tuple(steps))
        chosen = self._routes.decide(recipient)
        steps.append(Step("route", f"<{recipient}>", str(chosen.route), chosen.reasons))
        if chosen.route.kind is Kind.LOCAL:
            steps.append(Step("next hop", recipient.key or "postmaster", self._mailbox))
            return Explanation(Outcome.ACCEPTED, tuple(steps))
        step, failure = await self._next_hop(chosen.route, recipient.key)
        outcome = Outcome.ACCEPTED
        if failure is not None:
            outcome = Outcome.DEFERRED if failure.transient else Outcome.REFUSED
        return Explanation(outcome, (*steps, step))

    async def _next_hop(self, route: Route, domain: str) -> tuple[Step, Reply | None]:
        if route.kind is Kind.SMART_HOST:
            targets = smart_hosts(route.hosts, self._resolver)
            reasons: tuple[str, ...] = ()
        else:
            targets = exchangers(domain, self._resolver, self._random, self._own)
            reasons = await self._records(domain)
        found: list[str] = []
        try:
            async for target in targets:
                found.append(str(target))
                if len(found) == MAX_ADDRESSES:
                    break
        except NowhereError as nowhere:
            reply = nowhere.outcome.reply
            if not found:
                return Step("next hop", domain, f"none: {reply}", reasons), reply
            reasons = (*reasons, f"behind these: {reply}")
        finally:
            await targets.aclose()
        return Step("next hop", domain, ", ".join(found), reasons), None

    async def _records(self, domain: str) -> tuple[str, ...]:
        """What DNS says of a domain's exchangers."""
        if domain.startswith("["):
            return ("an address literal: nothing is looked up",)
        try:
            answer = await self._resolver.mx(domain)
        except ResolverError as error:
            return (f"no answer: {error}",)
        if not answer.exists:
            return (f"{domain} does not exist",)
        if not answer.exchangers:
            return (f"{domain} has no MX: it is its own exchanger",)
        records = sorted(answer.exchangers, key=lambda record: record.preference)
        return tuple(f"MX {record.preference} {record.host or '. (no mail is taken)'}" for record in records)


async def _decided(decision: Decision | Awaitable[Decision]) -> Decision:
    return decision if isinstance(decision, Decision) else await decision
