"""A queue runner over the store in memory, in virtual time, with agents that follow a script."""

from __future__ import annotations

import asyncio
import heapq

from ironpost.model import Address, Disposition, Envelope, Outcome, Recipient, Reply
from ironpost.model.envelope import Origin
from ironpost.mta.queue_runner import QueueRunner
from ironpost.queue.retry import RetryPolicy
from ironpost.queue.store import NewMessage
from ironpost.routing.route import Kind, Route, Routes, Rule
from ironpost.storage.memory import MemoryStore
from ironpost.testing import directory

NOW = 1_700_000_000.0
OK = Outcome.of(Reply(250, "2.0.0", ("Taken",)), "mx.example [192.0.2.1]")
LATER = Outcome.of(Reply(451, "4.7.1", ("Come back",)), "mx.example [192.0.2.1]")
NEVER = Outcome.of(Reply(550, "5.1.1", ("Nobody",)), "mx.example [192.0.2.1]")
DOWN = Outcome(Disposition.DEFERRED, Reply(451, "4.4.1", ("Connection refused",)), unreachable=True)
UNASKED = Outcome(Disposition.DEFERRED, Reply(451, "4.4.3", ("No answer from DNS",)))


class VirtualClock:
    """A clock that moves only in `World.run`."""

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
        """Advance to the end of the next sleep, and of all that end at the same time."""
        while self.sleepers and self.sleepers[0][2].done():
            heapq.heappop(self.sleepers)
        if not self.sleepers:
            raise AssertionError("nobody sleeps: nothing would ever happen")
        self.time = max(self.time, self.sleepers[0][0])
        while self.sleepers and self.sleepers[0][0] <= self.time:
            _, _, future = heapq.heappop(self.sleepers)
            if not future.done():
                future.set_result(None)


class Chance:
    """A `Random` without jitter that returns tokens in order."""

    def __init__(self) -> None:
        self.count = 0

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def shuffle(self, items: list[str]) -> None: ...

    def token(self) -> str:
        self.count += 1
        return f"token{self.count}"


class Script:
    """An agent whose outcomes come from a function; it records its deliveries."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.calls: list[tuple[float, str, list[str], bytes]] = []
        self.running = self.most = 0
        self.world: World | None = None

    async def deliver(self, message, recipients, route):
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
    """A queue runner with its store, clock and agents."""

    def __init__(self, remote, local=None, *, store=None, random=None, **options) -> None:
        options.setdefault("retry", RetryPolicy(warn_after=None))
        self.clock = VirtualClock()
        self.store = store or MemoryStore(now=self.clock.now)
        self.remote = Script(remote)
        self.local = Script(local or (lambda message, recipient: OK))
        self.other = Script(remote)
        for script in (self.remote, self.local, self.other):
            script.world = self
        routes = Routes(directory.local(["local.example"]), [Rule(("other.example",), Route.smart(["hub.example"]))])
        agents = {Kind.LOCAL: self.local, Kind.MX: self.remote, Kind.SMART_HOST: self.other, Kind.DISCARD: self.other}
        self.runner = QueueRunner(
            store=self.store, routes=routes, agents=lambda route: agents[route.kind], clock=self.clock,
            random=random or Chance(), reporting_mta="mx.local.example", **options,
        )  # fmt: skip

    def hold(self, outcome=OK) -> asyncio.Event:
        """From now on, attempts by MX wait for the event that is returned, and then have this outcome."""
        gate = asyncio.Event()

        async def answer():
            await gate.wait()
            return outcome

        self.remote.answer = lambda message, recipient: answer()
        return gate

    async def put(self, identifier, *recipients, **options):
        self.runner.accept(await self.commit(identifier, *recipients, **options))

    async def commit(
        self, identifier, *recipients, sender="from@local.example", content=b"Subject: s\r\n\r\nx\r\n", **options
    ):
        spool = self.store.spool()
        spool.write(content)
        parameters, of_mail = options.pop("parameters", {}), options.pop("parameters_of_mail", {})
        to = tuple(Recipient(Address.parse(name), parameters) for name in recipients or ("to@remote.example",))
        envelope = Envelope(Address.parse(sender), to, of_mail, options.pop("origin", Origin()))
        return await self.store.commit(NewMessage(identifier, envelope, self.clock.time, b"", spool, **options))

    async def settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    async def run(self, seconds: float) -> None:
        """Let that much time pass (seconds)."""
        end = self.clock.time + seconds
        await self.settle()
        while min((time for time, _, future in self.clock.sleepers if not future.done()), default=end + 1) <= end:
            self.clock.leap()
            await self.settle()
        self.clock.time = end

    async def stop(self) -> None:
        """Stop the queue runner; the time passes that running attempts have."""
        stopping = asyncio.ensure_future(self.runner.stop())
        await self.settle()
        while not stopping.done():
            self.clock.leap()
            await self.settle()
        await stopping

    def times(self) -> list[float]:
        return [time - NOW for time, *_ in self.remote.calls]


def scenario(world_options, act):
    """Run `act(world)` with a started queue runner, then stop it."""

    async def main():
        remote = world_options.pop("remote", lambda message, recipient: OK)
        world = World(remote, **world_options)
        world.runner.start()
        try:
            return await asyncio.wait_for(act(world), 30)
        finally:
            await world.stop()

    return asyncio.run(main())
