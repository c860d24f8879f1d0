"""Operations reach the processes that their scope names: an example is registered and called over a control socket."""

from __future__ import annotations

import asyncio
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from ironpost.operations.control_socket import ControlServer, ask
from ironpost.operations.dispatch import supervisor_handlers
from ironpost.operations.operation import EmptyRequest, Operation, Scope, decode, encode, merged
from ironpost.operations.registry import OPERATIONS
from ironpost.processes.requests import RequestRefused
from ironpost.processes.worker_pool import WorkerPool

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Greeting:
    """The request of the example."""

    name: str
    ids: list[str] | None = None


@dataclass(frozen=True)
class Greeted:
    """The response of the example."""

    texts: list[str]
    count: int = 1


class Process:
    """A worker that owns one message."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.queue = self

    async def find(self, messages: list[str]) -> list[str]:
        return [message for message in messages if message == f"m{self.number}"]


async def greet(process: Process, request: Greeting) -> Greeted:
    suffix = "" if request.ids is None else f" with {','.join(request.ids)}"
    return Greeted([f"{request.name} from {process.number}{suffix}"])


EXAMPLES: tuple[Operation[Any, Any, Any], ...] = (
    Operation("greet.one", Greeting, Greeted, Scope.ONE, greet),
    Operation("greet.all", Greeting, Greeted, Scope.ALL, greet),
    Operation("greet.owner", Greeting, Greeted, Scope.OWNER, greet),
)

WORKER = textwrap.dedent(
    f"""
    import asyncio, json, socket, sys
    sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "python")!r}]
    from ironpost.operations.dispatch import worker_handlers
    from ironpost.processes.channel import Channel
    from tests.operations.test_dispatch import EXAMPLES, Process

    async def main():
        sock = socket.socket(fileno=int(sys.argv[-1]))
        number = json.loads(sock.makefile("rb").readline())["note"]["number"]
        ended = asyncio.Event()
        channel = Channel(worker_handlers(Process(number), EXAMPLES), lambda note: None, ended.set)
        await channel.open(sock)
        channel.notify({{"ready": True}})
        await ended.wait()

    asyncio.run(main())
    """
)


def test_an_operation_runs_where_its_scope_says(tmp_path: Path) -> None:
    def call(name: str, /, **fields: Any) -> Any:
        return asyncio.to_thread(ask, tmp_path / "c", {"do": name, **fields})

    async def scenario() -> None:
        assert await call("greet.one", name="hello") == {"texts": ["hello from 9"], "count": 1}
        every = await call("greet.all", name="hello")
        assert (sorted(every["texts"]), every["count"]) == (["hello from 0", "hello from 1"], 2)
        assert await call("greet.owner", name="hello", ids=["m1"]) == {"texts": ["hello from 1 with m1"], "count": 1}
        with pytest.raises(
            RequestRefused,
            match="nothing was changed: no message m7 in the queue; what happened to it: ironpost trace m7",
        ):
            await call("greet.owner", name="hello", ids=["m0", "m7"])
        with pytest.raises(RequestRefused, match=r'^invalid request: "name" is missing$'):
            await call("greet.all")
        with pytest.raises(RequestRefused, match=r'^invalid request: "ids" must be a list of strings$'):
            await call("greet.owner", name="x", ids=[1])
        with pytest.raises(RequestRefused, match=r"^unknown command"):
            await call("known", ids=["m0"])

    async def run() -> None:
        workers = WorkerPool(2, ("-c", WORKER), lambda number: {"number": number})
        server = ControlServer(tmp_path / "c", supervisor_handlers(Process(9), workers, EXAMPLES))  # type: ignore[arg-type] # it has no status
        async with asyncio.timeout(60):
            await workers.start()
            await server.start()
            try:
                await scenario()
            finally:
                await server.stop()
                await workers.stop()

    asyncio.run(run())


def test_every_registered_operation_has_its_own_name_and_encodes_its_request() -> None:
    names = [each.name for each in OPERATIONS]
    assert len(names) == len(set(names))
    for each in OPERATIONS:
        assert each.response.__doc__
        if not fields(each.request):
            assert each.request is EmptyRequest
            assert encode(decode(each.request, {"do": each.name})) == {}


def test_responses_of_workers_are_merged_by_type() -> None:
    one = {"n": 1, "list": ["a"], "of": {"x": 1}, "text": "first", "flag": True}
    other = {"n": 2, "list": ["a", "b"], "of": {"x": 2, "y": 3}, "text": "second", "flag": False}
    assert merged([one, other]) == {
        "n": 3, "list": ["a", "b"], "of": {"x": 3, "y": 3}, "text": "first", "flag": True,
    }  # fmt: skip
