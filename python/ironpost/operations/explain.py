"""A dry run: the decisions about one recipient, stage by stage, with reasons; or what the directory says about it.

Promises: policy, directory, routes, delivery agents and DNS are those of a running server; nothing is changed, and no
mail is sent, but the next hop of a relay domain may be asked for the recipient (`delivery.callout`). The steps end with
the stage that refuses or drops. CONTENT is not evaluated, because there is no message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.model import NULL, Action, Address, Recipient
from ironpost.model.idna import a_labels
from ironpost.model.network import parse_ip
from ironpost.model.text import complaint, counted
from ironpost.operations.operation import Operation, OperationError, Reason, Scope
from ironpost.policy import Facts, PolicyDecision, PolicyStage
from ironpost.protocol.server.transaction import Identity
from ironpost.routing.directory import Alias, Closed, DirectoryError, Mailbox, NotLocal, expand
from ironpost.routing.rewriting import Place
from ironpost.routing.route import Kind, RouteDecision

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ironpost.delivery import RouteAgent
    from ironpost.operations.context import DataDirectory
    from ironpost.policy import Policy
    from ironpost.routing.directory import Step
    from ironpost.routing.rewriting import Rewriting
    from ironpost.routing.route import Route, Routes


class RouteOutcome(Enum):
    """The reply to RCPT in one word; and for each target, what happens to its mail."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"
    """The client would get 250, and the message would be discarded."""
    DEFERRED = "deferred"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RouteStep:
    """One decision and its reasons."""

    name: str
    """`connect`, `hello`, `mail`, `recipient`, `entry` (of the directory), `route`, `next hop`, or
    `rewriting` (of an address of the envelope)."""
    about: str
    answer: str
    reasons: tuple[str, ...] = ()
    level: int = 0
    """How many aliases led to the address."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The result and the steps that led to it."""

    outcome: RouteOutcome
    steps: tuple[RouteStep, ...]
    targets: int = 0
    """Number of recipients after aliases were expanded; 0 unless the recipient is accepted."""
    failing: int = 0
    """Number of those whose mail fails, so that the sender gets a bounce."""
    deferred: int = 0
    """Number of those whose mail waits."""


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """A recipient, and the client and envelope that mail to it would have."""

    recipient: str
    sender: str = ""
    """The reverse-path; empty for the null reverse-path."""
    client: str = ""
    """IP address of the client; empty for one outside the trusted networks."""
    hello: str = ""
    """Argument of EHLO; empty: the EHLO stage is skipped."""
    login: str = ""
    """The authenticated identity; empty for none."""


class Explainer:
    """Explains decisions of one configuration."""

    def __init__(
        self,
        policy: Policy,
        routes: Routes,
        agents: Callable[[Route], RouteAgent],
        *,
        reception: Rewriting | None = None,
        delivery: Rewriting | None = None,
    ) -> None:
        """Create an explainer from components like those of a server.

        Args:
            policy: decides at each stage.
            routes: the routing table.
            agents: the delivery agent of a route.
            reception: rewriting of mail that arrives; None if there is none.
            delivery: the same of mail that leaves.
        """
        self._policy = policy
        self._routes = routes
        self._agents = agents
        self._reception = reception
        self._delivery = delivery

    async def explain(
        self, recipient: Address, sender: Address, *, client: str = "", hello: str = "", login: str = ""
    ) -> Explanation:
        """Explain the decisions about a recipient.

        Args:
            recipient: the forward-path.
            sender: the reverse-path.
            client: the client's IP address; empty for a client in no trusted network.
            hello: its EHLO name; if empty, the hello stage is skipped.
            login: the authenticated identity; empty without authentication.
        """
        steps: list[RouteStep] = []
        final_sender, recipient = _rewritten(steps, self._reception, sender, recipient)
        identity = Identity(login, "none") if login else None
        facts = Facts(ip=client, helo=hello, identity=identity, reverse_path=sender, forward_path=recipient)
        stages = [(PolicyStage.CONNECT, client or "an untrusted client")]
        if hello:
            stages.append((PolicyStage.HELLO, hello))
        stages += [(PolicyStage.MAIL, f"<{sender}>"), (PolicyStage.RECIPIENT, f"<{recipient}>")]
        for stage, about in stages:
            opinion = await _decided(self._policy.decide(stage, facts))
            verdict = opinion.verdict
            steps.append(RouteStep(stage.value, about, str(verdict), opinion.reasons))
            if verdict.refused:
                refused = verdict.final.action is Action.REJECT
                return Explanation(RouteOutcome.REFUSED if refused else RouteOutcome.DEFERRED, tuple(steps))
            if verdict.final.action is Action.DROP:
                return Explanation(RouteOutcome.DROPPED, tuple(steps))
        return await self._delivered(steps, recipient, final_sender, login)

    async def find(self, address: Address) -> Explanation:
        """Explain what the directory says about an address, and where mail for it goes from the null reverse-path."""
        return await self._delivered([], address, NULL, "", always=True)

    async def _delivered(
        self, steps: list[RouteStep], recipient: Address, sender: Address, login: str, *, always: bool = False
    ) -> Explanation:
        """Add the entry of the recipient (if it is an alias, or always) and of its targets, each with its route."""
        found: list[Step] = []
        failure = ""
        try:
            directory = self._routes.directory
            await expand((Recipient(recipient),), directory, accepted=0, steps=found)  # type: ignore[misc] # with steps
        except DirectoryError as error:
            failure = str(error)
        ends: list[RouteOutcome] = []
        for step in found:
            if shown := always or len(found) > 1:
                reasons = (step.entry.reason,)
                steps.append(RouteStep("entry", f"<{step.address}>", _entry_text(step), reasons, step.level))
            if step.repeated:
                continue
            if step.refusal is not None and step.level:
                ends.append(RouteOutcome.REFUSED)
            elif step.refusal is not None and always:  # else the policy decided
                return Explanation(RouteOutcome.REFUSED, tuple(steps))
            elif not isinstance(step.entry, Alias):
                ends.append(await self._routed(steps, step, sender, login, shown=shown))
        if failure:
            steps.append(RouteStep("entry", f"<{recipient}>", "cannot be found now", (failure,)))
            return Explanation(RouteOutcome.DEFERRED, tuple(steps))
        failing, deferred = ends.count(RouteOutcome.REFUSED), ends.count(RouteOutcome.DEFERRED)
        return Explanation(RouteOutcome.ACCEPTED, tuple(steps), len(ends), failing, deferred)

    async def _routed(
        self, steps: list[RouteStep], found: Step, sender: Address, login: str, *, shown: bool
    ) -> RouteOutcome:
        """Add the route and next hop of one final recipient, without its entry if that is shown; return its outcome."""
        recipient, level = found.address, found.level
        decision = self._routes.decide(recipient, sender, login)
        chosen = decision if isinstance(decision, RouteDecision) else await decision
        reasons = chosen.reasons[1:] if shown else chosen.reasons
        steps.append(RouteStep("route", f"<{recipient}>", str(chosen.route), reasons, level))
        hops = await self._agents(chosen.route).preview(recipient, chosen.route)
        steps.append(RouteStep("next hop", recipient.key or "postmaster", hops.text, hops.reasons, level))
        if chosen.route.kind in {Kind.SMART_HOST, Kind.MX}:
            _rewritten(steps, self._delivery, sender, recipient, level)
        if hops.failure is None:
            return RouteOutcome.ACCEPTED
        return RouteOutcome.DEFERRED if hops.failure.transient else RouteOutcome.REFUSED


def _entry_text(step: Step) -> str:
    """What an entry of the directory says about mail for its address."""
    entry = step.entry
    if step.repeated:
        return "named before"
    if step.refusal is not None:
        return f"refused: {step.refusal}"
    if isinstance(entry, Alias):
        return f"alias of {counted(len(entry.targets), 'target')}"
    if isinstance(entry, Closed):
        return f"deferred: {entry.reply}"
    if isinstance(entry, Mailbox):
        return "mailbox"
    return "not local" if isinstance(entry, NotLocal) else "relayed"


def _rewritten(
    steps: list[RouteStep], rules: Rewriting | None, sender: Address, recipient: Address, level: int = 0
) -> tuple[Address, Address]:
    """Add what rules change in the envelope; return its addresses after that."""
    after = []
    for place, address in ((Place.REVERSE_PATH, sender), (Place.FORWARD_PATH, recipient)):
        found = None if rules is None else rules.find(place, address)
        if found is not None:
            steps.append(RouteStep("rewriting", f"<{address}>", f"<{found.after}>", (str(found),), level))
        after.append(address if found is None else found.after)
    return after[0], after[1]


async def _decided(decision: PolicyDecision | Awaitable[PolicyDecision]) -> PolicyDecision:
    return decision if isinstance(decision, PolicyDecision) else await decision


async def _explain(data: DataDirectory, request: ExplainRequest) -> Explanation:
    recipient = given_address("recipient", request.recipient)
    sender = given_address("sender", request.sender) if request.sender else NULL
    if recipient.is_null:
        raise OperationError(Reason.INVALID, "the recipient is empty")
    if request.client and parse_ip(request.client) is None:
        raise OperationError(Reason.INVALID, f"--client {request.client}: not an IP address")
    async with data.explainer() as explainer:
        return await explainer.explain(
            recipient, sender, client=request.client, hello=request.hello, login=request.login
        )


def given_address(what: str, text: str) -> Address:
    """Parse an address in a request, with or without its angle brackets.

    Raises:
        OperationError: it is not valid; the text says what it should be.
    """
    bare = text.removeprefix("<").removesuffix(">")
    try:
        return Address.parse(bare)
    except ValueError as fault:
        raise OperationError(Reason.INVALID, f"invalid {what} {text}: {complaint(bare, fault)}") from None


def given_domain(text: str) -> str:
    """Parse the domain in a request, which may not be an address literal; return it in A-labels and lower case.

    Raises:
        OperationError: it is not valid.
    """
    try:
        domain = a_labels(Address.parse(f"postmaster@{text.removesuffix('.')}").key)
    except ValueError:
        domain = ""
    if not domain or domain.startswith("["):
        raise OperationError(Reason.INVALID, f"{text}: not a domain")
    return domain


EXPLAIN: Final = Operation("explain", ExplainRequest, Explanation, Scope.LOCAL, _explain)
