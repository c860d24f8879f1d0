"""`[delivery]`: connections to other hosts."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ironpost.config.quantities import duration
from ironpost.config.values import Count, Duration, Pattern, Rate, Section, Switch, Timeout, least
from ironpost.delivery.settings import (
    ATTEMPT_SECONDS,
    CONNECT_TIMEOUT,
    CONNECTION_MESSAGES,
    DESTINATION_LIMIT,
    IDLE_SECONDS,
)
from ironpost.model.options import not_empty
from ironpost.protocol.client.tolerance import Tolerance
from ironpost.queue.concurrency import DEFAULT


class TlsRuleSection(Section):
    """`[[delivery.tls]]`: TLS with some next hops. The first matching rule decides; without one, `may` applies."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(not_empty)]
    """Domains of recipients, or names of smart hosts: `mail.example` itself, `*.mail.example` for all below it, `*`."""
    level: Literal["none", "may", "encrypt", "verify"]
    """`may` sends unencrypted if TLS fails; `encrypt` demands TLS; `verify` also a certificate for the host's name, or
    one that the host's TLSA records authenticate."""
    published: Switch = True
    """Whether what these domains publish about TLS (DANE, MTA-STS) also applies; `false` ignores it."""


class DestinationSection(Section):
    """`[[delivery.destination]]`: limits of some destinations. The first matching rule decides."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(not_empty)]
    """Domains of recipients, or names of smart hosts, as in `TlsRuleSection`."""
    connections: Count | None = None
    """Concurrent connections to one destination; `delivery.connections` if it is not set."""
    rate: Rate = 0.0
    """Deliveries started per second; 0 for no limit."""


class DeliverySection(Section):
    """`[delivery]`: connections to other hosts."""

    connections: Count = DESTINATION_LIMIT
    """Maximum number of concurrent connections to one destination."""
    initial_connections: Count = DEFAULT.initial
    """Concurrent connections to a destination of which nothing is known yet."""
    probe_wait: Timeout = DEFAULT.first_wait
    """Time until the first probe of a destination that is down; each probe that fails doubles it."""
    longest_probe_wait: Timeout = DEFAULT.longest_wait
    """Maximum time between two probes."""
    destination: tuple[DestinationSection, ...] = ()
    """Limits of some destinations."""
    connection_messages: Count = CONNECTION_MESSAGES
    """Maximum number of messages sent over one connection."""
    idle: Duration = IDLE_SECONDS
    """Time for which an idle connection is kept."""
    connect_timeout: Timeout = CONNECT_TIMEOUT
    """Timeout of a TCP connection to each address."""
    attempt: Annotated[Duration, least(duration, "60s")] = ATTEMPT_SECONDS
    """Time limit of one attempt at one destination until the content is sent; large content gets more."""
    chunking: Annotated[bool, Field(strict=True)] = True
    """Send small content with BDAT where it is offered (RFC 3030)."""
    tolerances: tuple[Tolerance, ...] = tuple(Tolerance)
    """Protocol errors of other hosts that are tolerated."""
    tls: tuple[TlsRuleSection, ...] = ()
    """TLS with some next hops."""
    mta_sts: Switch = True
    """Apply the MTA-STS policies of recipient domains (RFC 8461)."""
    dane: Switch = True
    """Authenticate hosts by TLSA records (RFC 7672), where a trusted resolver validates DNSSEC (`[dns]`)."""
    ca: Path | None = None
    """PEM file of the authorities that verify other hosts; default: the system's."""

    @model_validator(mode="after")
    def _waits(self) -> Self:
        if self.probe_wait > self.longest_probe_wait:
            raise ValueError("probe_wait is above longest_probe_wait")
        if "initial_connections" in self.model_fields_set and self.initial_connections > self.connections:
            raise ValueError(f"initial_connections is above connections ({self.connections})")
        return self
