"""A queue runner over the store in memory, in virtual time, with agents that follow a script."""

from __future__ import annotations

import asyncio
import heapq

from ironpost.model import Address, Disposition, Envelope, Outcome, Recipient, Reply
from ironpost.queue.store import NewMessage
from ironpost.routing.route import Kind, Route, Routes, Rule
from ironpost.service.queue_runner import QueueRunner
from ironpost.storage.memory import MemoryStore

NOW = 1_700_000_000.0
OK = Outcome.of(Reply(250, "2.0.0", ("Taken",)), "mx.example [192.0.2.1]")
LATER = Outcome.of(Reply(451, "4.7.1", ("Come back",)), "mx.example [192.0.2.1]")
NEVER = Outcome.of(Reply(550, "5.1.1", ("Nobody",)), "mx.example [192.0.2.1]")
UNASKED = Outcome(Disposition.DEFERRED, Reply(451, "4.4.3", ("No answer from DNS",)))


class VirtualClock:
    """Time that moves only when `World.run` says so."""

    def __init__(self) -> None:
        self.time = NOW
        self.sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.count = 0

    def now(self) -> float:
        return self.time

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self.count += 1
        heapq.heappush(self.sleepers, (self.time + seconds, self.count, future))
        await future

    def leap(self) -> None:
        """To the next sleeper."""
        while self.sleepers:
            time, _, future = heapq.heappop(self.sleepers)
            if not future.done():
                self.time = max(self.time, time)
                future.set_result(None)
                return
        raise AssertionError("nobody sleeps: nothing would ever happen")


class Chance:
    """No jitter, no chance, and tokens in order."""

    def __init__(self) -> None:
        self.count = 0

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def shuffle(self, items: list[str]) -> None: ...

    def token(self) -> str:
        self.count += 1
        return f"token{self.count}"


class Script:
    """An agent that answers from a function, and keeps what it was asked."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.calls: list[tuple[float, str, list[str], bytes]] = []
        self.running = self.most = 0
        self.world: World | None = None

    async def deliver(self, message, recipients):
        body = b"".join([piece async for piece in message.body.pieces()])
        self.calls.append((self.world.clock.time, message.id, [str(r.recipient.address) for r in recipients], body))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            answers = []
            for recipient in recipients:
                outcome = self.answer(message, recipient)
                if asyncio.iscoroutine(outcome) or isinstance(outcome, asyncio.Future):
                    outcome = await outcome
                if outcome is not None:
                    answers.append((recipient.number, outcome))
            return answers
        finally:
            self.running -= 1


class World:
    """A runner with everything around it."""

    def __init__(self, remote, local=None, *, store=None, **options) -> None:
        self.clock = VirtualClock()
        self.store = store or MemoryStore(now=self.clock.now)
        self.remote = Script(remote)
        self.local = Script(local or (lambda message, recipient: OK))
        self.other = Script(remote)
        for script in (self.remote, self.local, self.other):
            script.world = self
        routes = Routes(["local.example"], [Rule(("other.example",), Route.smart(["hub.example"]))])
        agents = {Kind.LOCAL: self.local, Kind.MX: self.remote, Kind.SMART_HOST: self.other}
        self.runner = QueueRunner(
            store=self.store, routes=routes, agents=lambda route: agents[route.kind], clock=self.clock,
            random=Chance(), reporting_mta="mx.local.example", **options,
        )  # fmt: skip

    async def put(self, identifier, *recipients, **options):
        self.runner.accept(await self.commit(identifier, *recipients, **options))

    async def commit(
        self, identifier, *recipients, sender="from@local.example", content=b"Subject: s\r\n\r\nx\r\n", **options
    ):
        spool = self.store.spool()
        spool.write(content)
        parameters = options.pop("parameters", {})
        to = tuple(Recipient(Address.parse(name), parameters) for name in recipients or ("to@remote.example",))
        envelope = Envelope(Address.parse(sender), to)
        return await self.store.commit(NewMessage(identifier, envelope, self.clock.time, b"", spool, **options))

    async def settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    async def run(self, seconds: float) -> None:
        """Lets that much time pass."""
        end = self.clock.time + seconds
        await self.settle()
        while min((time for time, _, future in self.clock.sleepers if not future.done()), default=end + 1) <= end:
            self.clock.leap()
            await self.settle()
        self.clock.time = end

    def times(self) -> list[float]:
        return [time - NOW for time, *_ in self.remote.calls]


def scenario(world_options, act):
    """Runs `act(world)` with a started runner, and stops it."""

    async def main():
        remote = world_options.pop("remote", lambda message, recipient: OK)
        world = World(remote, **world_options)
        world.runner.start()
        try:
            return await asyncio.wait_for(act(world), 30)
        finally:
            stopping = asyncio.ensure_future(world.runner.stop())
            await world.settle()
            while not stopping.done():
                world.clock.leap()
                await world.settle()
            await stopping

    return asyncio.run(main())
