"""The configuration: all sections, keys, units and defaults.

Promises: models are frozen; unknown keys are errors. In `[[route]]` the first rule that matches decides. Without a file
`load.default` decides, which differs from the defaults here in one thing: every domain is local, and no mail leaves the
system.
Standards: RFC 5321 §4.5.3.1.8 (recipients), RFC 1870 (size), RFC 5321 §5.1 (routes).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from ironpost.config.auth import AuthSection
from ironpost.config.delivery import DeliverySection
from ironpost.config.directory import AliasSection, DirectorySection, MailboxSection, RelaySection
from ironpost.config.dkim import DkimSection  # noqa: TC001 - pydantic reads annotations
from ironpost.config.listeners import LimitsSection, ListenerSection, ServerLimitsSection, TlsSection
from ironpost.config.local import LocalSection
from ironpost.config.mta_sts import MtaStsSection  # noqa: TC001 - pydantic reads annotations
from ironpost.config.policies import PolicySection
from ironpost.config.quantities import MANY, Endpoint, size
from ironpost.config.queue import QueueSection
from ironpost.config.reports import DmarcReportsSection, TlsrptSection
from ironpost.config.rewriting import RewriteSection, rewrite_rules
from ironpost.config.routes import RouteSection  # noqa: TC001 - pydantic reads annotations
from ironpost.config.sendmail import SendmailSection
from ironpost.config.values import (
    Domain,
    Hostname,
    MailAddress,
    NameServer,
    Network,
    Pattern,
    Section,
    Size,
    Switch,
    least,
)
from ironpost.delivery.path_template import PathTemplate
from ironpost.mail_auth.keys import require_cryptography
from ironpost.model.network import LOOPBACK
from ironpost.model.options import not_empty
from ironpost.model.packages import PackageMissing
from ironpost.model.patterns import EVERY, Domains
from ironpost.policy.checks.arc import Arc
from ironpost.policy.checks.dkim import Dkim
from ironpost.policy.checks.dmarc import Dmarc
from ironpost.policy.checks.own_sender import OwnSender
from ironpost.policy.options import Enforcement
from ironpost.routing.mail_directory import key_of
from ironpost.routing.rewriting import ENVELOPE, conflict
from ironpost.routing.tls.mta_sts import StsMode, StsPolicy

if TYPE_CHECKING:
    from collections.abc import Callable


class SmtpSection(Section):
    """`[smtp]`: incoming mail on every listener."""

    trusted: tuple[Network, ...] = LOOPBACK
    """Networks whose clients may send to any domain. Other clients reach local domains only."""
    max_message: Annotated[Size, least(size, "64KiB")] = 1 << 30
    """Maximum size of a message in octets, announced by SIZE (RFC 1870)."""
    max_recipients: Annotated[int, Field(strict=True, ge=100, le=MANY)] = 1000
    """Maximum number of recipients in one transaction, at least 100 (RFC 5321 §4.5.3.1.8)."""


class OnDemandSection(Section):
    """`[[on_demand]]`: a customer who fetches mail with ATRN (RFC 2645), or requests its delivery with ETRN (RFC 1985).

    Mail to its domains is accepted from any client, as for local domains.
    """

    login: Annotated[str, Field(min_length=1)]
    """The login with which the customer authenticates."""
    domains: Annotated[tuple[Domain, ...], AfterValidator(not_empty)]
    """The customer's domains."""
    waits: Switch = True
    """Whether mail waits here until it is fetched with ATRN; if not, it is delivered like other mail, and ETRN makes it
    due."""


class ArchiveSection(Section):
    """`[[archive]]`: copies of the mail of some domains."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(not_empty)]
    """Domains of senders or recipients: `mail.example`, `*.mail.example` for all below it, `*` for all mail."""
    to: MailAddress
    """The address that gets a copy of each message."""


class HttpSection(Section):
    """`[http]`: HTTPS requests to other systems, such as for MTA-STS policies."""

    ca: Path | None = None
    """PEM file of the authorities that verify HTTPS servers; default: the system's."""
    allow: tuple[Network, ...] = ()
    """Networks that may be contacted although their addresses are not public (SECURITY R45)."""


class DnsSection(Section):
    """`[dns]`: the resolvers of this system."""

    servers: tuple[NameServer, ...] = ()
    """Addresses of recursive resolvers, `127.0.0.1`, `127.0.0.1:5353` or `[::1]:5353`; default: the system's."""
    trusted: Switch = False
    """Believe resolvers that are not on this machine when they say that an answer was validated with DNSSEC. Only for a
    network in which nobody can forge their answers. Resolvers at loopback addresses are always trusted."""


class LogSection(Section):
    """`[log]`: the log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged."""
    format: Literal["json", "text"] = "json"
    """`json`: one JSON object per line; `text`: `key=value` pairs."""


LISTENERS: tuple[ListenerSection, ...] = (
    ListenerSection.model_validate({"role": "mx", "listen": ("127.0.0.1:2525",)}),
    ListenerSection.model_validate(
        {"role": "submission", "listen": ("127.0.0.1:2587",), "limits": {"connections": 1000}}
    ),
)
"""The default listeners."""


class Configuration(Section):
    """A whole configuration."""

    data: Path = Path("ironpost-data")
    """The data directory: queue, control socket, Maildir."""
    _folder: Path = PrivateAttr(default=Path())
    hostname: Hostname | None = None
    """The host name of this server; default: the machine's full name."""
    listener: Annotated[tuple[ListenerSection, ...], AfterValidator(not_empty)] = LISTENERS
    smtp: SmtpSection = SmtpSection()
    tls: TlsSection = TlsSection()
    limits: ServerLimitsSection = ServerLimitsSection()
    auth: AuthSection = AuthSection()
    local: LocalSection = LocalSection()
    directory: DirectorySection = DirectorySection()
    mailbox: tuple[MailboxSection, ...] = ()
    alias: tuple[AliasSection, ...] = ()
    relay: tuple[RelaySection, ...] = ()
    rewrite: tuple[RewriteSection, ...] = ()
    dkim: tuple[DkimSection, ...] = ()
    policy: PolicySection = PolicySection()
    queue: QueueSection = QueueSection()
    delivery: DeliverySection = DeliverySection()
    http: HttpSection = HttpSection()
    mta_sts: tuple[MtaStsSection, ...] = ()
    tlsrpt: TlsrptSection = TlsrptSection()
    dmarc_reports: DmarcReportsSection = DmarcReportsSection()
    sendmail: SendmailSection = SendmailSection()
    route: tuple[RouteSection, ...] = ()
    on_demand: tuple[OnDemandSection, ...] = ()
    archive: tuple[ArchiveSection, ...] = ()
    dns: DnsSection = DnsSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _places(self) -> Configuration:
        taken: set[str] = set()
        for listener in self.listener:
            for where in listener.listen:
                if not (isinstance(where, Endpoint) and where.port == 0):
                    if str(where) in taken:
                        raise ValueError(f"listener: {where} is listed twice")
                    taken.add(str(where))
        return self

    @model_validator(mode="after")
    def _customers(self) -> Configuration:
        local, taken = Domains(self.local.domains), set[str]()
        for customer in self.on_demand:
            for domain in customer.domains:
                if domain in local or domain in taken:
                    raise ValueError(f"on_demand: {domain} is also local, or another customer's")
                taken.add(domain)
        if self.on_demand and not any(each.role == "mx" and each.auth != "none" for each in self.listener):
            raise ValueError(
                "on_demand: mail cannot be fetched, because no listener with the role mx has "
                'auth = "offered" or "required" (RFC 6409 §7 keeps ETRN and ATRN away from submission)'
            )
        return self

    @model_validator(mode="after")
    def _policies(self) -> Configuration:
        taken: set[str] = set()
        for number, section in enumerate(self.mta_sts, 1):
            if not section.mx and self.hostname is None and section.mode != "none":
                raise ValueError(f"mta_sts[{number}].mx: name the hosts in the MX records, or set hostname")
            for domain in section.domains:
                if domain in taken:
                    raise ValueError(f"mta_sts[{number}].domains: {domain} is listed twice")
                taken.add(domain)
        return self

    @model_validator(mode="after")
    def _directory(self) -> Configuration:
        local = Domains(self.local.domains)
        for domain in (each for one in self.relay for each in one.domains):
            if domain in local:
                raise ValueError(f"relay: {domain} is also local")
        serves = self.serves()
        taken: set[str] = set()
        entries: list[tuple[str, str, tuple[str, ...]]] = [
            (f"mailbox[{number}]", key_of(each.address), each.senders) for number, each in enumerate(self.mailbox, 1)
        ]
        entries += [
            (f"alias[{number}]", each.address, each.senders)
            for number, each in enumerate(self.alias, 1)
            if each.address is not None
        ]
        for name, key, senders in entries:
            if not serves(key):
                raise ValueError(f"{name}.address: {key} is in no local domain (local.domains) and no relay domain")
            if key in taken:
                raise ValueError(f"{name}.address: {key} is listed twice")
            if senders and key.rpartition("@")[2] not in local:
                raise ValueError(
                    f"{name}.senders: no effect in a relay domain; policy.sender_login says who may use {key}"
                )
            taken.add(key)
        return self

    @model_validator(mode="after")
    def _rewriting(self) -> Configuration:
        for at in ("reception", "delivery"):
            if sentence := conflict(rewrite_rules(self.rewrite, at)):
                raise ValueError(sentence)
        return self

    @model_validator(mode="after")
    def _dkim(self) -> Configuration:
        taken: set[str] = set()
        for number, key in enumerate(self.dkim, 1):
            if key.name in taken:
                raise ValueError(f"dkim[{number}]: {key.name} is listed twice")
            taken.add(key.name)
        for number, rule in enumerate(self.rewrite, 1):
            if self.dkim and rule.at == "delivery" and not ENVELOPE.issuperset(rule.places):
                raise ValueError(
                    f"rewrite[{number}]: it changes header fields after they were signed ([[dkim]]): "
                    'write at = "reception", or places = ["reverse-path", "forward-path"]'
                )
        return self

    @model_validator(mode="after")
    def _catch_all(self) -> Configuration:
        if EVERY not in self.local.domains:
            return self
        if self.route:
            raise ValueError('route: local.domains has "*", so every domain is local and no route is used')
        if self.policy.read(OwnSender.Options).own_sender is not Enforcement.OFF:
            raise ValueError('policy.own_sender: local.domains has "*", so every sender would be local')
        return self

    @model_validator(mode="after")
    def _authentication(self) -> Configuration:
        dkim, options = self.policy.read(Dkim.Options).dkim, self.policy.read(Dmarc.Options)
        dmarc = options.dmarc
        for number, override in enumerate(options.dmarc_override, 1):
            if not (override.domains or override.networks):
                raise ValueError(f"policy.dmarc_override[{number}]: it applies to no mail; give domains or networks")
        if dmarc is not Enforcement.OFF and dkim is Enforcement.OFF:
            raise ValueError('policy.dmarc: needs policy.dkim = "record", or mail that only DKIM confirms would fail')
        for key, measure in (("dkim", dkim), ("arc", self.policy.read(Arc.Options).arc)):
            if measure is not Enforcement.OFF:
                try:
                    require_cryptography()
                except PackageMissing as error:
                    raise ValueError(f"policy.{key}: {error}") from None
        return self

    @property
    def folder(self) -> Path:
        """The directory of the file; the working directory if there is no file. Paths of hooks are relative to it."""
        return self._folder

    def read_from(self, folder: Path) -> Self:
        """Return the same configuration, as read from a file in that directory."""
        self._folder = folder
        return self

    @property
    def maildir(self) -> PathTemplate:
        """The Maildirs of local mail without an entry in `[[local.delivery]]`."""
        return self.local.maildir or PathTemplate.fixed(self.data / "mail")

    @property
    def drop(self) -> Path:
        """The drop directory of `ironpost sendmail`."""
        return self.sendmail.directory or self.data / "sendmail"

    def domain_of_programs(self, hostname: str) -> str:
        """Return the domain of addresses without one in mail from programs; `hostname` is this server's name."""
        local = self.local.domains
        if self.sendmail.domain is not None or hostname.lower() in Domains(local):
            return self.sendmail.domain or hostname
        return next((each for each in local if "." in each and not each.startswith(EVERY)), hostname)

    @property
    def users(self) -> Path:
        """The users file."""
        return self.auth.users or self.data / "users"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.data / "control.sock"

    @property
    def lists_addresses(self) -> bool:
        """Whether only some addresses of the local domains exist: those that something lists."""
        return bool(self.mailbox or self.alias) or self.local.recipients is not None or self.directory.has_sources

    def serves(self) -> Callable[[str], bool]:
        """Return whether the directory may have a key: its domain is local, or a relay domain if it is an address."""
        local, relay = Domains(self.local.domains), Domains(each for one in self.relay for each in one.domains)

        def has(key: str) -> bool:
            domain = key.rpartition("@")[2]
            return domain in local or (domain in relay and not key.startswith("@"))

        return has

    @property
    def sts_policies(self) -> dict[str, StsPolicy]:
        """The MTA-STS policies of our own domains."""
        own = () if self.hostname is None else (self.hostname,)
        return {
            domain: StsPolicy(StsMode(each.mode), each.mx or own, round(each.max_age))
            for each in self.mta_sts
            for domain in each.domains
        }

    def limits_of(self, listener: ListenerSection) -> LimitsSection:
        """Return the limits of a listener: its own where it sets them, else those of `[limits]`."""
        own = listener.limits
        return self.limits.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

    @property
    def hash(self) -> str:
        """A hash of the configuration, as 12 hexadecimal digits."""
        values = self.model_dump(mode="json")
        for shown, listener in zip(values["listener"], self.listener, strict=True):
            shown["limits"] = self.limits_of(listener).model_dump(mode="json")
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


FIXED: tuple[tuple[str, ...], ...] = (
    ("data",),
    ("hostname",),
    ("queue",),
    ("delivery",),
    ("http",),
    ("tlsrpt",),
    ("dmarc_reports",),
    ("dns",),
)
"""Key paths that a reload cannot change; and of each listener `FIXED_LISTENER`."""
FIXED_LISTENER: tuple[str, ...] = ("role", "listen", "mode", "tls", "proxy")
"""Keys of a listener that a reload cannot change."""
