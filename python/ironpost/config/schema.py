"""Every key that a configuration may hold, with its meaning, its unit and its default.

Promises: models are frozen; a key that is not here is an error. Order of `[[route]]` is its semantics: the first that
matches decides. Without a file `load.default` decides, which differs from the defaults here in one thing: every domain
is local, and no mail leaves the system.
Standards: RFC 5321 §4.5.3.1.8 (recipients), RFC 1870 (size), RFC 5321 §5.1 (routes).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ironpost.config.auth import Auth
from ironpost.config.listeners import Limits, Listener, Tls
from ironpost.config.policies import Policy
from ironpost.config.quantities import Endpoint, duration, size
from ironpost.config.values import (
    Count,
    Domain,
    Duration,
    Hop,
    Hostname,
    Network,
    Pattern,
    Recipient,
    Section,
    Size,
    Switch,
    Timeout,
    least,
    some,
)
from ironpost.delivery.settings import (
    ATTEMPT_SECONDS,
    CONNECT_TIMEOUT,
    CONNECTION_MESSAGES,
    DESTINATION_LIMIT,
    IDLE_SECONDS,
)
from ironpost.model.patterns import EVERY, Domains
from ironpost.policy.settings import LOOPBACK
from ironpost.protocol.client_tolerance import Tolerance


class Smtp(Section):
    """`[smtp]`: how mail comes in, on every listener."""

    trusted: tuple[Network, ...] = LOOPBACK
    """Networks whose clients may send to any domain. All others reach the local domains only."""
    max_message: Annotated[Size, least(size, "64KiB")] = 1 << 30
    """Octets in the largest message, announced by SIZE (RFC 1870)."""
    max_recipients: Annotated[int, Field(strict=True, ge=100)] = 1000
    """Recipients in one transaction, never below 100 (RFC 5321 §4.5.3.1.8)."""


class Local(Section):
    """`[local]`: mail that ends here."""

    domains: tuple[Pattern, ...] = ("localhost",)
    """Domains whose mail is delivered here: `mail.example`, `*.mail.example` for all below it, or `*` for every domain:
    then no mail leaves this system."""
    recipients: tuple[Recipient, ...] | None = None
    """The addresses that exist in these domains, `jo@mail.example` or `*@mail.example`; without the key every local
    part does."""
    maildir: Path | None = None
    """The Maildir that takes it; `mail` in the data directory unless said otherwise."""

    @property
    def sample_domain(self) -> str:
        """A domain whose mail is delivered here, for examples: the first, if it is no pattern."""
        first = next(iter(self.domains), EVERY)
        if first == EVERY:
            return "localhost"
        return "host." + first[2:] if first.startswith("*.") else first


class Queue(Section):
    """`[queue]`: mail that waits."""

    expire: Annotated[Duration, least(duration, "60s")] = 5 * 86400.0
    """How long to try before the sender gets a report (RFC 5321 §4.5.4.1)."""
    concurrency: Annotated[int, Field(strict=True, ge=1, le=1000)] = 100
    """Deliveries at one time."""
    reserve: Size = 64 << 20
    """Free disk space below which new mail is answered 452 4.3.1."""
    memory: Size = 64 << 20
    """Content above 64 KiB a message that each worker holds in memory until it is complete; more goes to files."""
    history: Duration = 7 * 86400.0
    """How long attempts and events of mail that is gone are kept for questions in SQL."""
    history_size: Size = 1 << 30
    """How many octets of them a shard keeps, about."""


class Delivery(Section):
    """`[delivery]`: connections to other hosts."""

    connections: Count = DESTINATION_LIMIT
    """Connections to one destination at a time."""
    connection_messages: Count = CONNECTION_MESSAGES
    """Messages over one connection."""
    idle: Duration = IDLE_SECONDS
    """How long a connection is kept without work."""
    connect_timeout: Timeout = CONNECT_TIMEOUT
    """How long to wait for TCP, each address."""
    attempt: Annotated[Duration, least(duration, "60s")] = ATTEMPT_SECONDS
    """How long one attempt at one destination may take until the content is sent; large content has more."""
    chunking: Annotated[bool, Field(strict=True)] = True
    """Send small content with BDAT where it is offered (RFC 3030)."""
    tolerances: tuple[Tolerance, ...] = tuple(Tolerance)
    """The protocol errors of other hosts that are tolerated."""


class Route(Section):
    """`[[route]]`: the next hop for some domains. The first that matches decides; without one, DNS does."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(some)]
    """`mail.example` itself, `*.mail.example` for all below it, `*` for every domain."""
    smart_host: Annotated[tuple[Hop, ...], AfterValidator(some)]
    """Next hops in order of preference."""


class OnDemand(Section):
    """`[[on_demand]]`: a customer who fetches mail with ATRN (RFC 2645), or asks for it with ETRN (RFC 1985).

    Anybody may send to its domains here, as to our own.
    """

    login: Annotated[str, Field(min_length=1)]
    """As whom the customer authenticates."""
    domains: Annotated[tuple[Domain, ...], AfterValidator(some)]
    """The domains whose mail is the customer's."""
    waits: Switch = True
    """The mail stays here until it is fetched with ATRN; if not, it is delivered as other mail, and ETRN hurries it."""


class Log(Section):
    """`[log]`: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important record that is written."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line, or `key=value` for eyes."""


LISTENERS: tuple[Listener, ...] = (
    Listener.model_validate({"role": "mx", "listen": ("127.0.0.1:2525",)}),
    Listener.model_validate({"role": "submission", "listen": ("127.0.0.1:2587",), "limits": {"connections": 1000}}),
)
"""Where the server listens unless the configuration says otherwise."""


class Configuration(Section):
    """A whole configuration."""

    data: Path = Path("ironpost-data")
    """The data directory: queue, control socket, Maildir."""
    hostname: Hostname | None = None
    """What this server calls itself; the machine's full name unless said otherwise."""
    listener: Annotated[tuple[Listener, ...], AfterValidator(some)] = LISTENERS
    smtp: Smtp = Smtp()
    tls: Tls = Tls()
    limits: Limits = Limits()
    auth: Auth = Auth()
    local: Local = Local()
    policy: Policy = Policy()
    queue: Queue = Queue()
    delivery: Delivery = Delivery()
    route: tuple[Route, ...] = ()
    on_demand: tuple[OnDemand, ...] = ()
    log: Log = Log()

    @model_validator(mode="after")
    def _places(self) -> Configuration:
        taken: set[str] = set()
        for listener in self.listener:
            for where in listener.listen:
                if not (isinstance(where, Endpoint) and where.port == 0):
                    if str(where) in taken:
                        raise ValueError(f"listener: {where} is listened on twice")
                    taken.add(str(where))
        return self

    @model_validator(mode="after")
    def _customers(self) -> Configuration:
        local, taken = Domains(self.local.domains), set[str]()
        for customer in self.on_demand:
            for domain in customer.domains:
                if domain in local or domain in taken:
                    raise ValueError(f"on_demand: {domain} is local, or another customer's")
                taken.add(domain)
        if self.on_demand and not any(each.role == "mx" and each.auth != "none" for each in self.listener):
            raise ValueError(
                "on_demand: nobody can fetch mail, because no listener with the role mx has "
                'auth = "offered" or "required" (RFC 6409 §7 keeps ETRN and ATRN away from submission)'
            )
        return self

    @model_validator(mode="after")
    def _addresses(self) -> Configuration:
        places = [str(place) for listener in self.listener for place in listener.listen if getattr(place, "port", 1)]
        for place in places:
            if places.count(place) > 1:
                raise ValueError(f"listener: {place} is there twice")
        return self

    @model_validator(mode="after")
    def _catch_all(self) -> Configuration:
        if EVERY not in self.local.domains:
            return self
        if self.route:
            raise ValueError('route: local.domains has "*", so that every domain is local and no route is ever taken')
        if self.policy.own_sender != "off":
            raise ValueError('policy.own_sender: local.domains has "*", so that every sender would be one of ours')
        return self

    @property
    def maildir(self) -> Path:
        """Where local mail goes."""
        return self.local.maildir or self.data / "mail"

    @property
    def users(self) -> Path:
        """The users file."""
        return self.auth.users or self.data / "users"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.data / "control.sock"

    def limits_of(self, listener: Listener) -> Limits:
        """The limits that hold on a listener: its own where it has one, else those of `[limits]`."""
        own = listener.limits
        return self.limits.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that differ when the configuration does."""
        values = self.model_dump(mode="json")
        for shown, listener in zip(values["listener"], self.listener, strict=True):
            shown["limits"] = self.limits_of(listener).model_dump(mode="json")
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


FIXED: tuple[tuple[str, ...], ...] = (("data",), ("hostname",), ("queue",), ("delivery",))
"""Key paths that a reload cannot change; and of each listener `FIXED_LISTENER`."""
FIXED_LISTENER: tuple[str, ...] = ("role", "listen", "mode", "tls", "proxy")
"""Keys of a listener that a reload cannot change."""
