"""`route explain`: what the configuration makes of a recipient, and why, without a running server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.cli.settings import configuration
from ironpost.compose.delivery import own_system, resolver, routes
from ironpost.compose.policy import policy_settings
from ironpost.compose.system import own_name
from ironpost.model import Address
from ironpost.policy import Policy
from ironpost.policy.checks import Ports, configured
from ironpost.policy.settings import address_of
from ironpost.service.clock import SystemClock, SystemRandom
from ironpost.service.explain import Explainer, Explanation, Outcome

if TYPE_CHECKING:
    from pathlib import Path

_EXITS = {Outcome.REFUSED: exits.REFUSED, Outcome.DEFERRED: exits.TEMPORARY}


def explain(
    named: Path | None, recipient: str, sender: str, client: str, hello: str, login: str, *, as_json: bool
) -> None:
    """Prints the decision of each stage with its reasons.

    Raises:
        Stop: an argument is none, or the recipient would be refused or deferred.
    """
    found = configuration(named)
    to = _address("recipient", recipient)
    by = _address("sender", sender) if sender else Address("", "")
    if to.is_null:
        raise Stop(exits.USAGE, "the recipient is empty")
    if client and address_of(client) is None:
        raise Stop(exits.USAGE, f"--client {client}: this is no IP address")

    async def run() -> Explanation:
        name, dns, random = await own_name(found), resolver(), SystemRandom()
        policy = Policy(configured(policy_settings(found, name), Ports(SystemClock(), dns)))
        explainer = Explainer(policy, routes(found), dns, random, own_system(found, name), f"Maildir {found.maildir}")
        return await explainer.explain(to, by, client=client, hello=hello, login=login)

    explanation = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(explanation.as_json(), indent=2))
    else:
        _print(explanation)
    code = _EXITS.get(explanation.outcome)
    if code is not None:
        raise typer.Exit(code)


def _address(what: str, text: str) -> Address:
    try:
        return Address.parse(text.removeprefix("<").removesuffix(">"))
    except ValueError as fault:
        raise Stop(exits.USAGE, f"the {what} {text} is no address: {fault}") from None


def _print(explanation: Explanation) -> None:
    for step in explanation.steps:
        typer.echo(f"{step.name:<10} {_shown(step.about)}: {_shown(step.answer)}")
        for reason in step.reasons:
            typer.echo(f"{'':<10}   {_shown(reason)}")
    typer.echo(explanation.outcome.value)


def _shown(text: str) -> str:
    """Text of DNS, or of whoever gave the arguments, without control characters (SECURITY R20)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
