"""The part of the composition that judges: policy's settings from a configuration.

Promises: what `ironpost serve` decides by is what `ironpost route explain` shows: both are made here.
"""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ironpost.config.quantities import Endpoint
from ironpost.model.patterns import Addresses, Domains
from ironpost.policy.settings import AccessRule, Measure, SenderRule, Settings, rule_verdict

if TYPE_CHECKING:
    from ironpost.config import Configuration


def policy_settings(configuration: Configuration, name: str) -> Settings:
    """Policy's settings; `name` is what the server calls itself."""
    policy, local = configuration.policy, configuration.local
    access = (AccessRule(each.networks, rule_verdict(each.action, each.text, policy.delay)) for each in policy.access)
    senders = (SenderRule(each.senders, rule_verdict(each.action, each.text, policy.delay)) for each in policy.sender)
    return Settings(
        local_domains=Domains(local.domains),
        local_recipients=None if local.recipients is None else Addresses(local.recipients),
        customer_domains=frozenset(domain for each in configuration.on_demand for domain in each.domains),
        trusted_networks=configuration.smtp.trusted,
        own_names=frozenset({name.lower(), *_own_literals(configuration)}),
        access=tuple(access),
        senders=tuple(senders),
        sender_login=policy.sender_login,
        helo_own_name=Measure(policy.helo_own_name),
        helo_bare_name=Measure(policy.helo_bare_name),
        helo_literal=Measure(policy.helo_literal),
        reverse_dns=Measure(policy.reverse_dns),
        own_sender=Measure(policy.own_sender),
        sender_domain=Measure(policy.sender_domain),
        null_sender=Measure(policy.null_sender),
        delay=policy.delay,
        network_messages=policy.network_messages,
        network_recipients=policy.network_recipients,
        login_messages=policy.login_messages,
        login_recipients=policy.login_recipients,
    )


def _own_literals(configuration: Configuration) -> list[str]:
    """The address literals of where we listen."""
    found = []
    for place in (place for listener in configuration.listener for place in listener.listen):
        if isinstance(place, Endpoint):
            with contextlib.suppress(ValueError):  # a name
                address = ip_address(place.host)
                found.append(f"[ipv6:{address}]" if address.version == 6 else f"[{address}]")
    return found
