"""Answers requests with operations: in one process, or by fan-out to the workers of a supervisor.

Promises: which processes run an operation follows from its `scope` alone. If some workers do not answer, the response
has those of the others, `silent` lists who is missing and why, and `not_done` the messages whose change is uncertain.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ironpost.operations.operation import Operation, Scope, decode, encode, merged
from ironpost.operations.queue import owned, refuse_unknown
from ironpost.operations.registry import OPERATIONS
from ironpost.processes.requests import RequestRefused, RequestTimedOut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ironpost.operations.context import ControlProcess, ServingProcess, SupervisorProcess
    from ironpost.processes.requests import RequestHandler
    from ironpost.processes.worker_pool import Answers

KNOWN = "known"
"""Name of the request that asks a worker which messages it owns. Between processes only: it is not an operation."""

Operations = tuple[Operation[Any, Any, Any], ...]


class Workers(Protocol):
    """The workers of a supervisor (`processes.worker_pool.WorkerPool`)."""

    async def ask_all(self, request: Mapping[str, Any]) -> Answers: ...

    async def ask_each(self, requests: Mapping[int, Mapping[str, Any]]) -> Answers: ...


def handlers(process: ServingProcess, operations: Operations = OPERATIONS) -> dict[str, RequestHandler]:
    """Return the request handlers of the only process of a server, by name."""
    return {each.name: partial(_run, each, process) for each in operations if each.scope is not Scope.LOCAL}


def worker_handlers(process: ServingProcess, operations: Operations = OPERATIONS) -> dict[str, RequestHandler]:
    """Return the request handlers of a worker: those of `handlers`, and those that the supervisor's fan-out calls."""

    async def known(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"ids": await owned(process, request["ids"])}

    return {**handlers(process, operations), KNOWN: known}


def supervisor_handlers(
    supervisor: SupervisorProcess, workers: Workers, operations: Operations = OPERATIONS
) -> dict[str, RequestHandler]:
    """Return the request handlers of a supervisor, by name."""
    fan_out = _FanOut(supervisor, workers)
    found: dict[str, RequestHandler] = {}
    for each in operations:
        if each.scope is Scope.ONE:
            found[each.name] = partial(_run, each, supervisor)
        elif each.scope is Scope.ALL:
            found[each.name] = partial(fan_out.to_all, each)
        elif each.scope is Scope.OWNER:
            found[each.name] = partial(fan_out.to_owners, each)
    return found


async def _run(
    operation: Operation[Any, Any, Any], process: ControlProcess, request: Mapping[str, Any]
) -> Mapping[str, Any]:
    response: Mapping[str, Any] = encode(await operation.run(process, decode(operation.request, request)))
    return response


class _FanOut:
    """Runs operations in the workers and merges their responses."""

    def __init__(self, supervisor: SupervisorProcess, workers: Workers) -> None:
        self._supervisor = supervisor
        self._workers = workers

    async def to_all(self, operation: Operation[Any, Any, Any], request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run an operation in every worker."""
        checked = encode(decode(operation.request, request))
        answers = await self._workers.ask_all({"do": operation.name, **checked})
        return self._response(operation, list(answers.given.values()), answers.silent)

    async def to_owners(self, operation: Operation[Any, Any, Any], request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run an operation in the workers that own the messages it names."""
        checked = decode(operation.request, request)
        if checked.ids is None:
            return await self.to_all(operation, request)
        ids: Sequence[str] = checked.ids
        if not ids:
            raise RequestRefused('invalid request: "ids" is empty')
        known = await self._workers.ask_all({"do": KNOWN, "ids": ids})
        owner = {each: number for number, answer in known.given.items() for each in answer["ids"]}
        if not known.silent:
            refuse_unknown(ids, owner)
        answers = await self._workers.ask_each(
            {
                number: {"do": operation.name, **encode(replace(checked, ids=answer["ids"]))}
                for number, answer in known.given.items()
                if answer["ids"]
            }
        )
        not_done = [each for each in ids if each not in owner or owner[each] in answers.silent]
        silent = {**(known.silent if len(owner) < len(set(ids)) else {}), **answers.silent}
        response = self._response(operation, list(answers.given.values()), silent)
        return {**response, "not_done": not_done} if silent else response

    def _response(
        self, operation: Operation[Any, Any, Any], given: Sequence[Mapping[str, Any]], silent: Mapping[int, str]
    ) -> dict[str, Any]:
        """Merge the answers into a response.

        Raises:
            RequestTimedOut: no worker answered.
        """
        if not given:
            if operation.empty is None:
                raise RequestTimedOut("\n".join(silent.values()))
            given = [encode(operation.empty)]
        answer: dict[str, Any] = merged(given)
        if operation.complete is not None:
            response = decode(operation.response, answer)
            answer = encode(operation.complete(self._supervisor, response, silent))
        return {**answer, "silent": silent_workers(silent)} if silent else answer


def silent_workers(silent: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the JSON list of workers that did not answer."""
    return [{"worker": number, "why": why} for number, why in sorted(silent.items())]
