"""Two checks from outside the package, which use every part of the contract: what a new file in `policy/checks` holds.

`Exclamations` counts exclamation marks in the body, says so in a header field, and removes such a field that came with
the message. `Shouting` refuses messages with too many of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from ironpost.message.header import field
from ironpost.model.patterns import AddressPattern  # noqa: TC001 - the types of options are read at run time
from ironpost.model.verdict import reject
from ironpost.policy import NEUTRAL, NOTHING, Check, Finding, Scanner

if TYPE_CHECKING:
    from ironpost.message.section import Header
    from ironpost.policy import Facts

FIELD: Final = "X-Exclamations"


def positive(value: int) -> int:
    if value < 1:
        raise ValueError("minimum: 1")
    return value


class Counted(NamedTuple):
    """The result of `Exclamations` at MAIL and at CONTENT."""

    exempt: bool
    marks: int = 0


@dataclass(frozen=True, slots=True)
class ExclamationOptions:
    """`[policy.exclamations]`."""

    enabled: bool = False
    """Count exclamation marks."""
    exempt: tuple[AddressPattern, ...] = ()
    """Senders whose marks are not counted."""


class Exclamations(Check):
    """Runs at MAIL, and scans the content."""

    name: Final = "exclamations"

    @dataclass(frozen=True, slots=True)
    class Options:
        """One table."""

        exclamations: ExclamationOptions = ExclamationOptions()

    options: Options

    @property
    def enabled(self) -> bool:
        return self.options.exclamations.enabled

    def mail(self, facts: Facts) -> Finding:
        sender = facts.reverse_path
        assert sender is not None
        exempt = any(pattern.matches(sender) for pattern in self.options.exclamations.exempt)
        return Finding(NEUTRAL, "is exempt" if exempt else "", result=Counted(exempt))

    def strip(self, facts: Facts) -> frozenset[str]:
        return frozenset({FIELD.lower()})

    def scanner(self, facts: Facts) -> Scanner | None:
        found = facts.result(Counted)
        return None if found is None or found.exempt else Marks()


class Marks(Scanner):
    """Counts in the body, and in the subject."""

    def __init__(self) -> None:
        self.marks = 0

    def header(self, header: Header) -> None:
        self.marks += (header.first("Subject") or b"").count(b"!")

    def body(self, piece: bytes) -> None:
        self.marks += piece.count(b"!")

    async def finish(self, facts: Facts) -> Finding:
        reason = f"{self.marks} marks in {facts.size} octets"
        return Finding(NEUTRAL, reason, result=Counted(False, self.marks), fields=(field(FIELD, (str(self.marks),)),))


class Shouting(Check):
    """Runs when the content is complete, after `Exclamations`."""

    name: Final = "shouting"

    @dataclass(frozen=True, slots=True)
    class Options:
        """One key."""

        shouting: Annotated[int, positive] = 10
        """Marks from which a message is refused."""

    options: Options

    def content(self, facts: Facts) -> Finding:
        found = facts.result(Counted)
        if found is None or found.marks < self.options.shouting:
            return NOTHING
        return Finding(reject("No shouting"), f"{found.marks} marks")
