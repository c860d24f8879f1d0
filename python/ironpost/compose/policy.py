"""Composes policy.

Promises: `ironpost serve` and `ironpost route explain` evaluate the same policy, because both get it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.config.quantities import Endpoint
from ironpost.model.network import address_literal
from ironpost.model.patterns import Domains
from ironpost.policy import LocalSystem, Policy

if TYPE_CHECKING:
    from ironpost.config import Configuration
    from ironpost.policy import Ports


def policy(configuration: Configuration, name: str, ports: Ports) -> Policy:
    """Return the policy of a configuration.

    Args:
        configuration: the configuration.
        name: the host name of the server.
        ports: what the checks may use: the clock and the resolver, for instance.
    """
    system = LocalSystem(
        local_domains=Domains(configuration.local.domains),
        customer_domains=frozenset(domain for each in configuration.on_demand for domain in each.domains),
        trusted_networks=configuration.smtp.trusted,
        name=name,
        own_names=frozenset({name.lower(), *_own_literals(configuration)}),
    )
    return Policy(configuration.policy.checks(system, ports))


def _own_literals(configuration: Configuration) -> list[str]:
    """Return the address literals of the addresses that listeners of mail are bound to, in lower case."""
    listening = (place for listener in configuration.listener if listener.takes_mail for place in listener.listen)
    places = (place for place in listening if isinstance(place, Endpoint))
    return [literal.lower() for place in places if (literal := address_literal(place.host))]  # names have none
