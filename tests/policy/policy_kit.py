"""Checks from keyword arguments: the keys of `[policy]`, and the fields of `LocalSystem`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ironpost.message.section import HeaderReader
from ironpost.model.network import parse_networks
from ironpost.model.patterns import Domains
from ironpost.policy import (
    Check,
    CommonOptions,
    Context,
    Facts,
    LocalSystem,
    Policy,
    PolicyDecision,
    PolicyStage,
    Ports,
)
from ironpost.policy.check import NoOptions
from ironpost.policy.checks import CHECKS, configured

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.policy.check import Opinion
    from ironpost.policy.pipeline import Scan


def check_at(stage: PolicyStage, judge: Callable[[Facts], Opinion], name: str) -> Check:
    """A check that runs at one stage, where it returns what `judge` does."""
    kind = type("OneStage", (Check,), {"name": name, stage.value: staticmethod(judge)})
    return kind(NoOptions(), Context())


def system(**values: Any) -> LocalSystem:
    """The system; domains and networks are given as text."""
    for name, read in {"local_domains": Domains, "trusted_networks": parse_networks}.items():
        if name in values:
            values[name] = read(values[name])
    return LocalSystem(**values)


def checks(ports: Ports = Ports(), registry: tuple[type[Check], ...] = CHECKS, **values: Any) -> list[Check]:  # noqa: B008
    """The checks that these options enable; every keyword must be known."""

    def taken(kind: type[Any]) -> Any:
        return {each.name: values.pop(each.name) for each in fields(kind) if each.name in values}

    own, common = taken(LocalSystem), CommonOptions(**taken(CommonOptions))
    options = [check.Options(**taken(check.Options)) for check in registry]
    assert not values, values
    return configured(Context(system(**own), ports, common), options, registry)


async def received(policy: Policy, facts: Facts, message: bytes, piece: int = 1000) -> PolicyDecision:
    """The decision at CONTENT about a message that arrives in pieces, or at MAIL if the message does not arrive."""
    decision = await _decided(policy, PolicyStage.MAIL, facts)
    if decision.verdict.refused:
        return decision
    scan, reader = policy.scan(facts), HeaderReader()
    for at in range(0, len(message), piece):
        octets = message[at : at + piece]
        known = reader.header is not None
        body = reader.feed(octets)
        if scan is not None and reader.header is not None:
            if not known:
                scan.header(reader.header)
            if octets[body:]:
                scan.body(octets[body:])
    if reader.header is None and scan is not None:
        scan.header(reader.finish())
    facts.header, facts.size = reader.finish(), len(message)
    return await _decided(policy, PolicyStage.CONTENT, facts, scan)


async def _decided(policy: Policy, stage: PolicyStage, facts: Facts, scan: Scan | None = None) -> PolicyDecision:
    decision = policy.decide(stage, facts, scan)
    return decision if isinstance(decision, PolicyDecision) else await decision
