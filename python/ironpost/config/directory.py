"""`[[mailbox]]`, `[[alias]]`, `[[relay]]` and `[directory]`: the addresses that exist, and where their mail goes.

Promises: an alias has at least one target, and each address has one entry (`Configuration` checks that). `[directory]`
has an array of tables for each source in `accounts.record_sources`, with the source's options.
Refuses: an address that is not valid, `keep` without `forward` or for a disabled mailbox, a disabled
`postmaster` (RFC 5321 §4.5.1) or `abuse` (RFC 2142 §4), and a relay domain `*`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path  # noqa: TC003 - pydantic reads annotations
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ironpost.accounts.record_sources import RecordSources
from ironpost.accounts.records_cache import CacheOptions
from ironpost.config.declared import read, section
from ironpost.config.quantities import size
from ironpost.config.values import MailAddress, PathText, Pattern, Recipient, Section, Size, Switch, least, mail_address
from ironpost.model.address import AddressOrDomain
from ironpost.model.options import not_empty
from ironpost.model.patterns import EVERY
from ironpost.routing.alias_patterns import AliasPattern
from ironpost.routing.mail_directory import is_role, key_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ironpost.accounts.record_sources import SourceOptions
    from ironpost.delivery.path_template import PathTemplate

T = TypeVar("T")


def _alias_key(value: object) -> str:
    """The key of an alias: an address, or `@` and a domain for its catch-all."""
    return key_of(AddressOrDomain.parse(value if isinstance(value, str) else "", mail_address))


def _separator(value: str) -> str:
    if not set(value) <= set("+-_=.~#"):
        raise ValueError(f'"{value}" cannot separate a detail: expected some of the characters + - _ = . ~ #')
    return value


def _of_a_mailbox(value: PathTemplate | None) -> PathTemplate | None:
    if value is not None and (value.single is not None or not value.base.is_absolute()):
        raise ValueError(f'"{value}": expected an absolute path with a placeholder, such as /home/{{local}}/.forward')
    return value


def _not_every(domains: tuple[str, ...]) -> tuple[str, ...]:
    if EVERY in domains:
        raise ValueError('"*" would make this server an open relay: list the domains')
    return domains


Login = Annotated[str, Field(min_length=1)]
"""The name of an account, in any case."""
AliasKey = Annotated[str, BeforeValidator(_alias_key)]


class DirectoryKeys(Section):
    """The keys of `[directory]` besides those of the sources and their cache."""

    separator: Annotated[str, AfterValidator(_separator)] = "+"
    """Characters that separate a local part from its detail, `jo+news@mail.example`; empty for none."""
    files: tuple[Path, ...] = ()
    """Files with more mailboxes and aliases (`accounts.records_files`)."""
    logins: Switch = True
    """Whether the accounts of the users file have mailboxes (`accounts.records_logins`)."""
    forward_files: Annotated[PathText | None, AfterValidator(_of_a_mailbox)] = None
    """The file with which the user of a mailbox redirects its mail; default: there are no such files."""

    @property
    def has_sources(self) -> bool:
        """Whether there are files or other sources."""
        return bool(self.files) or next(self.sources(), None) is not None

    def read(self, options: type[T]) -> T:
        """Return `RecordSources` or `CacheOptions`."""
        return read(options, self)

    def sources(self) -> Iterator[tuple[str, SourceOptions]]:
        """The options of the sources, in the order in which these are asked, each with its key."""
        found = self.read(RecordSources)
        for field in dataclasses.fields(found):
            for number, options in enumerate(getattr(found, field.name), 1):
                yield f"directory.{field.name}[{number}]", options


if TYPE_CHECKING:
    DirectorySection = DirectoryKeys  # a type checker cannot know the keys
else:
    DirectorySection = section("DirectorySection", (CacheOptions, RecordSources), DirectoryKeys)


class MailboxSection(Section):
    """`[[mailbox]]`: a mailbox of a local domain."""

    address: MailAddress
    """Its address."""
    senders: tuple[Login, ...] = ()
    """Logins that may use it as a sender, besides the login of the address."""
    quota: Annotated[Size, least(size, "1B")] | None = None
    """The most octets that it may hold."""
    disabled: Switch = False
    """Refuse its mail with 550 5.2.1; what is forwarded still is."""
    forward: Annotated[tuple[MailAddress, ...], AfterValidator(not_empty)] | None = None
    """Addresses to which its mail goes instead."""
    keep: Switch = False
    """Put a copy of what is forwarded into the mailbox."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.keep and self.forward is None:
            raise ValueError("keep: there is nothing to keep a copy of without forward")
        if self.keep and self.disabled:
            raise ValueError("keep: a disabled mailbox takes no copies")
        if self.disabled and self.forward is None and is_role(key_of(self.address)):
            sentence = f"disabled: mail for {self.address.local_part} must be accepted; name others with forward"
            raise ValueError(sentence)
        return self


class AliasSection(Section):
    """`[[alias]]`: an address, or all that match a pattern, whose mail goes to others."""

    address: AliasKey | None = None
    """The address, or `@mail.example` for all addresses of a domain that do not exist otherwise."""
    pattern: str | None = None
    """A regular expression for whole addresses of local domains that do not exist otherwise."""
    targets: Annotated[tuple[MailAddress, ...], AfterValidator(not_empty)]
    """The addresses to which its mail goes; with a pattern, `{1}` in a local part is replaced by the first group."""
    senders: tuple[Login, ...] = ()
    """Logins that may use the address as a sender."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.address is None) == (self.pattern is None):
            raise ValueError("expected either address or pattern")
        if self.senders and (self.address is None or self.address.startswith("@")):
            raise ValueError("senders: only of one address; for more of them use policy.sender_login")
        self.matching("")  # refuses a wrong pattern
        return self

    def matching(self, where: str) -> AliasPattern | None:
        """The alias of a pattern; None if it is of an address."""
        return None if self.pattern is None else AliasPattern(self.pattern, self.targets, where)


class RelaySection(Section):
    """`[[relay]]`: domains of another system, for which this one accepts mail from any client."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(not_empty), AfterValidator(_not_every)]
    """The domains: `mail.example` itself, `*.mail.example` for all names below it."""
    recipients: tuple[Recipient, ...] | None = None
    """The addresses that exist there, besides those of `[[mailbox]]` and `[[alias]]`; default: all."""
    verify: Literal["callout"] | None = None
    """How to find out whether another address exists there: `callout` asks the next hop."""
    unverified: Literal["defer", "accept"] = "defer"
    """What to do with an address for which that is not known now."""

    @model_validator(mode="after")
    def _asked(self) -> Self:
        if self.verify is None and "unverified" in self.model_fields_set:
            raise ValueError('unverified: no address is asked for without verify = "callout"')
        return self
