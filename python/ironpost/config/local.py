"""`[local]`: the mail that is delivered on this system, and by which delivery agent.

Promises: `[[local.delivery]]` has a table for each agent in `delivery.local.LOCAL_AGENTS`, with the agent's options;
the first entry that matches a recipient decides, and without one the Maildir does.
Refuses: an entry with no agent, or with several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import AfterValidator, create_model, model_validator

from ironpost.config.declared import Table, read, table
from ironpost.config.values import AddressMatch, MailAddress, PathText, Pattern, Recipient, Section
from ironpost.delivery.local import LOCAL_AGENTS
from ironpost.delivery.maildir import MaildirOptions
from ironpost.model.options import not_empty
from ironpost.model.patterns import EVERY
from ironpost.routing.route import LocalRule

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from ironpost.delivery.local import LocalAgent
    from ironpost.delivery.path_template import PathTemplate


class LocalDeliveryBase(Section):
    """The keys of `[[local.delivery]]` besides the agents. `local_delivery_section` adds those."""

    registry: ClassVar[Mapping[str, LocalAgent]] = {}

    recipients: Annotated[tuple[AddressMatch, ...], AfterValidator(not_empty)]
    """Local recipients: `jo@mail.example`, `mail.example` for all of the domain, `*.mail.example` for all names below
    it, `*`."""

    @model_validator(mode="after")
    def _one_agent(self) -> Self:
        given = [key for key in self.registry if getattr(self, key) is not None]
        if not given:
            raise ValueError(f"expected the table of a delivery agent: {' or '.join(self.registry)}")
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other: each entry has one delivery agent")
        self.rule("")  # the agent refuses options that exclude each other
        return self

    def rule(self, name: str) -> LocalRule:
        """The entry as a rule of the routing table."""
        for key, agent in self.registry.items():
            options: Table | None = getattr(self, key)
            if options is not None:
                return LocalRule(self.recipients, agent.route_of(read(agent.options, options)), name)
        raise AssertionError("validated above")


def local_delivery_section(registry: Mapping[str, LocalAgent]) -> type[LocalDeliveryBase]:
    """Create the section for the agents in a registry."""
    fields: dict[str, Any] = {
        key: (table(cast("Hashable", agent.options)) | None, None) for key, agent in registry.items()
    }
    made = create_model("LocalDeliverySection", __base__=LocalDeliveryBase, **fields)
    made.registry = registry
    return made


if TYPE_CHECKING:
    LocalDeliverySection = LocalDeliveryBase  # a type checker cannot know the keys
else:
    LocalDeliverySection = local_delivery_section(LOCAL_AGENTS)


class LocalSection(Section):
    """`[local]`: mail that is delivered on this system."""

    domains: tuple[Pattern, ...] = ("localhost",)
    """Domains whose mail is delivered here: `mail.example`, `*.mail.example` for all below it, or `*` for every domain;
    then no mail leaves this system."""
    recipients: tuple[Recipient, ...] | None = None
    """The addresses that exist in these domains, `jo@mail.example` or `*@mail.example`; default: every local part."""
    postmaster: MailAddress | None = None
    """Where mail for `postmaster` and `abuse` of the local domains goes; default: into a mailbox of that address."""
    maildir: PathText | None = None
    """The Maildir for local mail; default: `mail` in the data directory."""
    delivery: tuple[LocalDeliverySection, ...] = ()
    """Delivery agents of some local recipients. The first entry that matches decides."""

    @property
    def rules(self) -> tuple[LocalRule, ...]:
        """The entries of `[[local.delivery]]` as rules of the routing table."""
        return tuple(each.rule(f"local.delivery[{number}]") for number, each in enumerate(self.delivery, 1))

    @property
    def maildirs(self) -> tuple[PathTemplate, ...]:
        """Where the Maildirs of `[[local.delivery]]` are, but for those that are written as their users."""
        found = (rule.route.options for rule in self.rules)
        return tuple(options.path for options in found if isinstance(options, MaildirOptions) and not options.user)

    @property
    def sample_domain(self) -> str:
        """A domain whose mail is delivered here, for examples: the first one, or a name that it matches."""
        first = next(iter(self.domains), EVERY)
        if first == EVERY:
            return "localhost"
        return "host." + first[2:] if first.startswith("*.") else first
