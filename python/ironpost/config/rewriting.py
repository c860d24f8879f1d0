"""`[[rewrite]]`: other addresses for those of some mail.

Promises: the result of a rule is not rewritten again, by another rule or a second time (`Configuration` checks that).
Refuses: a new address that is not ASCII, because the message may not have SMTPUTF8; a domain is written with A-labels.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ironpost.config.values import AddressMatch, Section, Switch, mail_address
from ironpost.model.options import not_empty
from ironpost.routing.rewriting import Place, RewriteRule


def _new_address(value: object) -> str:
    """An address, or `@` and a domain, in ASCII."""
    domain_only = isinstance(value, str) and value.startswith("@")
    address = mail_address(f"x{value}" if domain_only else value)
    try:
        text = str(address.in_ascii())
    except ValueError as fault:
        raise ValueError(f'"{value}" cannot be used in mail without SMTPUTF8: {fault}') from None
    return text.removeprefix("x") if domain_only else text


class RewriteSection(Section):
    """`[[rewrite]]`: new addresses. The first rule of the same `at` that matches an address decides."""

    addresses: Annotated[tuple[AddressMatch, ...], AfterValidator(not_empty)]
    """The addresses that are replaced: `jo@old.example`, `old.example` for all of the domain, `*.mail.example` for all
    names below it, `*`."""
    to: Annotated[str, BeforeValidator(_new_address)]
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
        local_part, domain = "", self.to[1:]
        if not self.to.startswith("@"):
            address = mail_address(self.to)
            local_part, domain = address.local_part, address.domain
        return RewriteRule(
            self.addresses,
            domain,
            local_part,
            frozenset(self.places),
            frozenset(each.lower() for each in self.exceptions),
            self.all_clients,
            name,
        )


def rewrite_rules(sections: tuple[RewriteSection, ...], at: str) -> list[RewriteRule]:
    """The rules for `reception` or `delivery`."""
    return [each.rule(f"rewrite[{number}]") for number, each in enumerate(sections, 1) if each.at == at]
