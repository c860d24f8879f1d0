"""Claims of one process on recipients of one shard. They live in memory only and end with the lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ironpost.storage.bodies import BodyLocation


class ClaimedMessage:
    """A message with claimed recipients."""

    __slots__ = ("claimed", "id", "outside", "retired", "seq")

    def __init__(self, seq: int, identifier: str, *, outside: bool) -> None:
        self.seq = seq
        self.id = identifier
        self.outside = outside
        """Whether its body is outside its row."""
        self.claimed: set[int] = set()
        """Numbers of the claimed recipients."""
        self.retired: list[BodyLocation] = []
        """Body locations without a row, which an attempt may still read."""


class Claims:
    """The claims of one shard, by id and by `seq` of the message."""

    def __init__(self, retire: Callable[[BodyLocation], None]) -> None:
        """`retire` frees body locations that no claim needs any more."""
        self._retire = retire
        self._by_id: dict[str, ClaimedMessage] = {}
        self._by_seq: dict[int, ClaimedMessage] = {}
        self.broken: set[int] = set()
        """Messages (`seq`) that cannot be read, until they are held: treated as claimed."""

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def by_id(self, identifier: str) -> ClaimedMessage | None:
        """Return the claimed message of this id."""
        return self._by_id.get(identifier)

    def add(self, message: ClaimedMessage) -> None:
        """Add a message with its claimed recipients."""
        self._by_id[message.id] = self._by_seq[message.seq] = message

    def claim(self, seq: int, identifier: str, numbers: Iterable[int], *, outside: bool) -> None:
        """Claim recipients of a message, some of which may be claimed already."""
        message = self._by_seq.get(seq)
        if message is None:
            message = ClaimedMessage(seq, identifier, outside=outside)
            self.add(message)
        message.claimed.update(numbers)

    def touches(self, seq: int) -> bool:
        """Whether recipients of this message are claimed, or it cannot be read."""
        return seq in self._by_seq or seq in self.broken

    def covers(self, seq: int, number: int) -> bool:
        """Whether this recipient is claimed, or its message cannot be read."""
        if seq in self.broken:
            return True
        message = self._by_seq.get(seq)
        return message is not None and number in message.claimed

    def end(self, identifier: str, numbers: Iterable[int]) -> None:
        """End the claims on these recipients; with the last one, free the message's retired bodies."""
        message = self._by_id.get(identifier)
        if message is None:
            return
        message.claimed.difference_update(numbers)
        if not message.claimed:
            del self._by_id[message.id], self._by_seq[message.seq]
            for place in message.retired:
                self._retire(place)

    def retire(self, seq: int, place: BodyLocation) -> None:
        """Free a body that has no row any more: at once, or when its message has no claims."""
        message = self._by_seq.get(seq)
        if message is not None:
            message.retired.append(place)
        else:
            self._retire(place)
