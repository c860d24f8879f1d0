"""`[[mailbox]]`, `[[alias]]`, `[[relay]]` and `[directory]`: the addresses that exist, and where their mail goes.

Promises: an alias has at least one target, and each address has one entry (`Configuration` checks that).
Refuses: an address that is not valid, `keep` without `forward` or for a disabled mailbox, and a relay domain `*`.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, model_validator

from ironpost.config.values import MailAddress, Pattern, Recipient, Section, Switch, mail_address
from ironpost.model.options import not_empty
from ironpost.model.patterns import EVERY
from ironpost.routing.mail_directory import key_of


def _alias_key(value: object) -> str:
    """The key of an alias: an address, or `@` and a domain for its catch-all."""
    if isinstance(value, str) and value.startswith("@"):
        return "@" + mail_address("x" + value).key
    return key_of(mail_address(value))


def _separator(value: str) -> str:
    if not set(value) <= set("+-_=.~#"):
        raise ValueError(f'"{value}" cannot separate a detail: expected some of the characters + - _ = . ~ #')
    return value


def _not_every(domains: tuple[str, ...]) -> tuple[str, ...]:
    if EVERY in domains:
        raise ValueError('"*" would make this server an open relay: list the domains')
    return domains


AliasKey = Annotated[str, BeforeValidator(_alias_key)]


class DirectorySection(Section):
    """`[directory]`: how addresses are looked up."""

    separator: Annotated[str, AfterValidator(_separator)] = "+"
    """Characters that separate a local part from its detail, `jo+news@mail.example`; empty for none."""


class MailboxSection(Section):
    """`[[mailbox]]`: a mailbox of a local domain."""

    address: MailAddress
    """Its address."""
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
        return self


class AliasSection(Section):
    """`[[alias]]`: an address whose mail goes to others."""

    address: AliasKey
    """The address, or `@mail.example` for all addresses of a domain that do not exist otherwise."""
    targets: Annotated[tuple[MailAddress, ...], AfterValidator(not_empty)]
    """The addresses to which its mail goes."""


class RelaySection(Section):
    """`[[relay]]`: domains of another system, for which this one accepts mail from any client."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(not_empty), AfterValidator(_not_every)]
    """The domains: `mail.example` itself, `*.mail.example` for all names below it."""
    recipients: tuple[Recipient, ...] | None = None
    """The addresses that exist there, besides those of `[[mailbox]]` and `[[alias]]`; default: all."""
