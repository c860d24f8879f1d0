"""The resolver of a system without a configured name server: local mail and smart hosts by IP address still work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ironpost.model.dns import ResolverError

if TYPE_CHECKING:
    from ironpost.model.dns import Records, RecordType


class UnconfiguredResolver:
    """Fails every query, so that mail which needs DNS is deferred."""

    def __init__(self, reason: str) -> None:
        """`reason` becomes the text of each `ResolverError`."""
        self._reason = reason

    async def resolve(self, _name: str, _kind: RecordType, /) -> Records[Any]:
        """Raise `ResolverError`."""
        raise ResolverError(self._reason)
