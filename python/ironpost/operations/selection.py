"""The selection of recipients in requests: the text form of `queue.selection`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ironpost.config.quantities import duration
from ironpost.model.patterns import AddressPattern
from ironpost.model.text import complaint
from ironpost.operations.operation import OperationError, Reason
from ironpost.queue.selection import Selection
from ironpost.queue.store import UNFINISHED, RecipientState

NULL_SENDER: Final = "<>"
"""Selects the null reverse-path."""
STATES: Final = {state.value: state for state in UNFINISHED}


@dataclass(frozen=True, slots=True)
class SelectionRequest:
    """Recipients that fulfil all the criteria."""

    ids: list[str] | None = None
    """Messages by id."""
    everything: bool = field(default=False, metadata={"name": "all"})
    """Allows a request without any other criterion."""
    sender: str | None = field(default=None, metadata={"name": "from"})
    """The reverse-path: `jo@mail.example`, `mail.example`, `*.mail.example`, `*`; `<>` for the null reverse-path."""
    recipient: str | None = field(default=None, metadata={"name": "to"})
    """The recipient, in the same forms except `<>`."""
    domain: str | None = None
    """The recipient's domain: `mail.example`, `*.mail.example`."""
    state: str | None = None
    """`queued` or `held`."""
    older_than: str | None = None
    """Minimum time since the message was accepted, as a duration such as `2h`."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no criterion."""
        criteria = self.ids, self.sender, self.recipient, self.domain, self.state, self.older_than
        return all(each is None for each in criteria)

    def selection(self) -> Selection:
        """Parse the criteria.

        Raises:
            OperationError: a criterion is invalid.
        """
        null = self.sender == NULL_SENDER
        if self.domain is not None and "@" in self.domain:
            raise OperationError(Reason.INVALID, f"invalid domain {self.domain}: write mail.example or *.mail.example")
        if self.state is not None and self.state not in STATES:
            raise OperationError(Reason.INVALID, f"invalid state {self.state}: write {' or '.join(STATES)}")
        try:
            age = 0.0 if self.older_than is None else duration(self.older_than)
        except ValueError as error:
            raise OperationError(Reason.INVALID, f"invalid age {self.older_than}: {error}") from None
        return Selection(
            None if self.ids is None else tuple(dict.fromkeys(self.ids)),
            None if null else _pattern("sender", self.sender),
            null,
            _pattern("recipient", self.recipient),
            _pattern("domain", self.domain),
            _state(self.state),
            age,
        )

    def change(self) -> Selection:
        """Parse the criteria of a change, or of a list of what it would concern.

        Raises:
            OperationError: a criterion is invalid, or there is none and `everything` is not set, or both.
        """
        if self.ids == []:
            raise OperationError(Reason.INVALID, 'invalid request: "ids" is empty')
        if self.everything != self.is_empty:
            raise OperationError(Reason.INVALID, "give message IDs or criteria, or --all alone")
        return self.selection()


def _pattern(what: str, text: str | None) -> AddressPattern | None:
    if text is None:
        return None
    try:
        return AddressPattern(text)
    except ValueError as error:
        raise OperationError(Reason.INVALID, f"invalid {what} {text}: {complaint(text, error)}") from None


def _state(text: str | None) -> RecipientState | None:
    return None if text is None else STATES[text]
