"""`[[rewrite]]`: other addresses for those of some mail.

Promises: the result of a rule is not rewritten again, by another rule or a second time (`Configuration` checks that).
Refuses: a new address that is not ASCII, because the message may not have SMTPUTF8; a domain is written with A-labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator

from ironpost.config.values import AddressMatch, Section, Switch, mail_address
from ironpost.model.address import AddressOrDomain
from ironpost.model.options import not_empty
from ironpost.routing.rewriting import Place, RewriteRule

if TYPE_CHECKING:
    from ironpost.model import Address


def _in_ascii(text: str) -> Address:
    address = mail_address(text)
    try:
        return address.in_ascii()
    except ValueError as fault:
        raise ValueError(f'"{text}" cannot be used in mail without SMTPUTF8: {fault}') from None


def _new_address(value: object) -> AddressOrDomain:
    return AddressOrDomain.parse(value if isinstance(value, str) else "", _in_ascii)


class RewriteSection(Section):
    """`[[rewrite]]`: new addresses. The first rule of the same `at` that matches an address decides."""

    addresses: Annotated[tuple[AddressMatch, ...], AfterValidator(not_empty)]
    """The addresses that are replaced: `jo@old.example`, `old.example` for all of the domain, `*.mail.example` for all
    names below it, `*`."""
    to: Annotated[AddressOrDomain, PlainValidator(_new_address), PlainSerializer(str)]
    """The new address; or `@mail.example` for the same local part in that domain."""
    at: Literal["reception", "delivery"] = "reception"
    """When: as mail arrives, or as it is sent to another system over SMTP."""
    places: Annotated[tuple[Place, ...], AfterValidator(not_empty)] = tuple(Place)
    """Where: in the envelope, `reverse-path` and `forward-path`; in the header section, `originator-fields` and
    `destination-fields`."""
    exceptions: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Local parts whose addresses stay as they are."""
    all_clients: Switch = False
    """Rewrite the header section of mail from every client, not only from authenticated and trusted ones."""

    def rule(self, name: str) -> RewriteRule:
        """The rule as a value of routing."""
        return RewriteRule(
            self.addresses,
            self.to.domain,
            self.to.local_part or "",
            frozenset(self.places),
            frozenset(each.lower() for each in self.exceptions),
            self.all_clients,
            name,
        )


def rewrite_rules(sections: tuple[RewriteSection, ...], at: str) -> list[RewriteRule]:
    """The rules for `reception` or `delivery`."""
    return [each.rule(f"rewrite[{number}]") for number, each in enumerate(sections, 1) if each.at == at]
