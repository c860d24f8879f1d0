"""Queries of the directory: which entry an address has, what it leads to, and why.

Promises: the steps are those of `route explain` for the same address, without the policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.operations.explain import Explanation, given_address
from ironpost.operations.operation import Operation, OperationError, Reason, Scope

if TYPE_CHECKING:
    from ironpost.operations.context import DataDirectory


@dataclass(frozen=True, slots=True)
class FindRequest:
    """An address to look up."""

    address: str


async def _find(data: DataDirectory, request: FindRequest) -> Explanation:
    address = given_address("address", request.address)
    if address.is_null:
        raise OperationError(Reason.INVALID, "the address is empty")
    async with data.explainer() as explainer:
        return await explainer.find(address)


FIND: Final = Operation("directory.find", FindRequest, Explanation, Scope.LOCAL, _find)
