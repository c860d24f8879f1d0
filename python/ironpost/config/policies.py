"""`[policy]`: the options of the checks in `policy.checks`, and those that they share.

Promises: the keys are those that the checks declare; a new check adds its keys. In `[[policy.access]]` and
`[[policy.sender]]` the order matters: the first rule that matches decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from ironpost.config.declared import read, section
from ironpost.config.values import Section
from ironpost.policy.checks import CHECKS, configured
from ironpost.policy.context import CommonOptions, Context

if TYPE_CHECKING:
    from ironpost.policy.check import Check
    from ironpost.policy.context import LocalSystem, Ports

T = TypeVar("T")


class ChecksSection(Section):
    """The options of the checks in a registry. `policy_section` adds the keys."""

    registry: ClassVar[tuple[type[Check], ...]] = ()

    def read(self, options: type[T]) -> T:
        """Return the options of one check, or the common ones."""
        return read(options, self)

    def checks(self, system: LocalSystem, ports: Ports) -> list[Check]:
        """Return the checks that are enabled, for `policy.Policy`."""
        context = Context(system, ports, self.read(CommonOptions))
        return configured(context, [self.read(check.Options) for check in self.registry], self.registry)


def policy_section(registry: tuple[type[Check], ...]) -> type[ChecksSection]:
    """Create the section for the checks in a registry.

    Raises:
        ValueError: two checks declare the same key.
    """
    made = section("PolicySection", (CommonOptions, *(check.Options for check in registry)), ChecksSection)
    made.registry = registry
    return made


if TYPE_CHECKING:
    PolicySection = ChecksSection  # a type checker cannot know the keys
else:
    PolicySection = policy_section(CHECKS)
