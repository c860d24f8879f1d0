"""The composition of a server in several processes: the supervisor's side. A worker is `compose.System` with a `Share`.

Promises: the supervisor holds the data directory, the addresses and the control socket, and no mail. It is ready when
every worker is. An address that another program has is refused before a worker starts. A command on the control socket
reaches the workers that it concerns, and their answers come back as one, with the names of those who did not answer
(`silent`); a reload is tried by one worker before the others hear of it, and a configuration that cannot be used leaves
the old one everywhere. A worker that did not answer a reload hears of it again as soon as it answers.
Refuses: more workers than the data directory has shards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from ironpost.compose.auth import authenticator, first_login
from ironpost.compose.listeners import ListenError, certificates, handed_over, place_of
from ironpost.compose.system import UNCHANGED, Control, Lock, own_name, refuse_fixed, reloading, used
from ironpost.config.quantities import Endpoint, SocketPath
from ironpost.server.binding import bind, bind_unix, unbind_unix
from ironpost.service import records
from ironpost.service.control import ControlServer, Unanswered
from ironpost.service.lending import ENDED
from ironpost.service.queue_commands import queue_ids, refuse_unknown
from ironpost.service.shared_limits import CONNECTIONS, Ledger
from ironpost.service.supervisor import Part, Supervisor
from ironpost.service.workers import Answers, Worker, Workers
from ironpost.storage.lock import DirectoryLock
from ironpost.storage.shards import lay_out

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from ironpost.compose.auth import Login
    from ironpost.config import Configuration, Listener
    from ironpost.config.quantities import Where

WORKER = ("-m", "ironpost.cli.worker")
"""The interpreter's arguments that make a worker."""

log = logging.getLogger("ironpost.compose")


class Source(NamedTuple):
    """A configuration, and what a worker needs to read the same one."""

    configuration: Configuration
    text: str | None
    """The file's; None for the built-in default."""
    name: str
    """How messages call it."""


class TooManyWorkers(Exception):
    """There are more workers than shards."""

    def __init__(self, workers: int, shards: int) -> None:
        super().__init__(f"{workers} workers are too many: this data directory has room for {shards}")


class Reserved:
    """A part: one address of one listener, kept for the workers, so that it is theirs while one is down.

    A port is bound by each worker as well; a Unix socket and what a service manager handed over exist once, and the
    workers inherit them.
    """

    def __init__(self, number: int, listener: Listener, where: Where, kept: list[int]) -> None:
        """`number`: which listener, from 0. `kept`: gets the descriptors that the workers inherit."""
        self.listener = number
        self.role = listener.role
        self.tls = listener.tls
        self.where = where
        self._mode = listener.mode
        self._kept = kept
        self._made: os.stat_result | None = None
        self.sockets: list[socket.socket] = []
        """What is bound here; what was handed over is put here before the start."""

    async def start(self) -> None:
        """Takes the address.

        Raises:
            ListenError: it cannot be had.
        """
        where = self.where
        try:
            if isinstance(where, Endpoint):
                if where.port:
                    # Who may share a port would share it with another server, too: once without sharing.
                    for sock in await bind(where.host, where.port):
                        sock.close()
                self.sockets = await bind(where.host, where.port, reuse_port=True)
                return
            if isinstance(where, SocketPath):
                self.sockets = [bind_unix(where.path, self._mode)]
                self._made = where.path.stat()
            elif not self.sockets:
                raise OSError(errno.ENOENT, "no socket of that name was handed over (LISTEN_FDS)")
        except OSError as error:
            raise ListenError(where) from error
        self._kept.extend(sock.fileno() for sock in self.sockets)

    async def stop(self) -> None:
        """Lets it go."""
        for sock in self.sockets:
            sock.close()
        if isinstance(self.where, SocketPath) and self._made is not None:
            unbind_unix(self.where.path, self._made)

    @property
    def port(self) -> int:
        """The one that is bound; 0 if it is none."""
        return int(self.sockets[0].getsockname()[1]) if isinstance(self.where, Endpoint) else 0

    @property
    def bound(self) -> list[Endpoint | SocketPath]:
        """As `compose.listeners.Place.bound`."""
        return [place_of(sock.getsockname()) for sock in self.sockets]


class Supervised:
    """A server of several processes: `run` it."""

    def __init__(self, source: Source, again: Callable[[], Source], workers: int) -> None:
        """Opens nothing yet. `again` reads the configuration anew, for a reload; it raises what is wrong with it."""
        self._source = source
        self._again = again
        self._count = workers
        self._name: str
        """What the server calls itself."""
        self._workers: Workers
        self._reloading = asyncio.Lock()
        self._ledger = Ledger()
        self.first_login: Login | None = None
        """As `System.first_login`."""
        self._told: dict[int, Source] = {}
        """What each worker runs with, as far as it was told."""
        self._unsure: dict[int, str] = {}
        """Workers that did not answer the last reload, and why: they may or may not have taken it over."""
        self._kept: list[int] = []
        self.places = [
            Reserved(number, listener, where, self._kept)
            for number, listener in enumerate(source.configuration.listener)
            for where in listener.listen
        ]
        """Where it listens."""

    @property
    def configuration(self) -> Configuration:
        """What runs."""
        return self._source.configuration

    async def run(self, ready: Callable[[], None]) -> None:
        """Runs until a signal; calls `ready` when every worker listens.

        Raises:
            DataError, ListenError, TooManyWorkers, WorkerFailed: it cannot start; what was started is stopped.
            SchemaError: another version of ironpost wrote the data.
            TlsError, AuthError: a certificate, or who knows the users, cannot be used.
        """
        data = self.configuration.data
        with used(data):
            lock = DirectoryLock(data)
            try:
                shards = lay_out(data)
                if self._count > shards:
                    raise TooManyWorkers(self._count, shards)
                self.first_login = first_login(self.configuration)
                self._name = await own_name(self.configuration)
                certificates(self.configuration, self._name)  # one is made here, if at all
                authenticator(self.configuration)  # the same
                sockets = handed_over(self.configuration)
            except BaseException:
                lock.release()
                raise
        for place in self.places:
            place.sockets = sockets.get(str(place.where), [])
        self._kept.append(lock.descriptor)  # a worker that lives on for a moment keeps the directory locked, too
        self._workers = Workers(
            self._count, WORKER, self._orders, keep=self._kept,
            heard=self._heard, began=self._began, ended=self._ended, alive=self._alive,
        )  # fmt: skip
        commands = {
            "reload": self._reload,
            "status": self._status,
            "metrics": self._metrics,
            **dict.fromkeys(("retry", "hold", "release", "drop"), self._by_owner),
        }
        parts: list[Part] = [
            Lock(lock),
            *self.places,
            self._workers,
            Control(ControlServer(self.configuration.control, commands), data),
        ]
        await Supervisor(parts, self.reload).run(ready)

    def _orders(self, number: int) -> Mapping[str, Any]:
        self._told[number] = self._source
        self._unsure.pop(number, None)
        return {
            "number": number,
            "workers": self._count,
            "name": self._name,
            "ports": [place.port for place in self.places],
            "sockets": {
                str(place.where): [sock.fileno() for sock in place.sockets]
                for place in self.places
                if not isinstance(place.where, Endpoint)
            },
            "text": self._source.text,
            "source": self._source.name,
        }

    # -- what workers tell each other

    def _heard(self, number: int, note: Mapping[str, Any]) -> None:
        if CONNECTIONS in note:
            self._ledger.told(number, note[CONNECTIONS])
        self._workers.tell_others(number, note)

    def _ended(self, number: int) -> None:
        self._workers.tell_others(number, {CONNECTIONS: self._ledger.ended(number), ENDED: number})

    def _began(self, worker: Worker) -> None:
        for held in self._ledger.others(worker.number):
            self._workers.tell(worker.number, {CONNECTIONS: held})
        if self._told[worker.number] is not self._source:
            log.warning("worker %d missed a reload and is told again", worker.number)
            task = asyncio.ensure_future(self._hand_over(worker, self._source))
            task.add_done_callback(_logged)

    def _alive(self, worker: Worker) -> None:
        if worker.number in self._unsure and not self._reloading.locked():
            log.warning("worker %d answers again and is told of the configuration again", worker.number)
            task = asyncio.ensure_future(self._hand_over_again(worker))
            task.add_done_callback(_logged)

    async def _hand_over_again(self, worker: Worker) -> None:
        async with self._reloading:
            if worker.number in self._unsure:
                await self._hand_over(worker, self._source)

    # -- reload

    async def reload(self) -> str:
        """As `System.reload`, in every worker that answers; those that do not are named.

        Raises:
            ConfigError, ControlError: it cannot be used; nothing has changed.
            Unanswered: two workers were asked to try it and did not answer; nothing has changed.
        """
        async with self._reloading:
            new, old = self._again(), self._source
            refuse_fixed(old.configuration, new.configuration)
            await self._try_out(new)  # what is refused, nobody has
            self._source = new
            records.change(new.configuration.log.level, new.configuration.log.format)
            # One that became ready meanwhile has the old one; who comes from here on hears of it by `_began`.
            living = [
                each for each in self._workers.all
                if each.ready.is_set() and self._told[each.number] is not new and each.number not in self._unsure
            ]  # fmt: skip
            done = await asyncio.gather(*(self._hand_over(each, new) for each in living), return_exceptions=True)
            said = f"configuration {new.configuration.hash} replaces {old.configuration.hash}"
            if new.configuration.hash == old.configuration.hash:  # certificates may have been read anew all the same
                said = UNCHANGED.format(old.configuration.hash)
            refused = [str(each) for each in done if each is not None and not isinstance(each, Unanswered)]
            return "; ".join([said, *refused, *self._unsure.values()])

    async def _try_out(self, new: Source) -> None:
        """Has one worker take it over; a second one, if the first does not answer."""
        living = sorted((each for each in self._workers.all if each.ready.is_set()), key=lambda each: each.silent)
        for worker in living[:2]:
            with contextlib.suppress(Unanswered):
                await self._hand_over(worker, new)
                return
        if living:
            raise Unanswered("\n".join(self._unsure[each.number] for each in living[:2]))

    async def _hand_over(self, worker: Worker, source: Source) -> None:
        self._unsure.pop(worker.number, None)
        try:
            await worker.ask({"do": "reload", "text": source.text})
        except Unanswered as error:
            self._unsure[worker.number] = str(error)
            raise
        self._told[worker.number] = source

    async def _reload(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**await reloading(self.reload)(request), "silent": _named(self._unsure)}

    # -- what the control socket offers

    async def _by_owner(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """To all workers; what names messages, to those who have them.

        With a worker that does not answer, the others do their part, and `not_done` lists what may not be done.
        """
        if request.get("ids") is None:
            return _whole(await self._workers.ask_all(request))
        ids = queue_ids(request)
        known = await self._workers.ask_all({"do": "known", "ids": ids})
        owner = {each: number for number, answer in known.given.items() for each in answer["ids"]}
        if not known.silent:
            refuse_unknown(ids, owner)
        requests = {
            number: {**request, "ids": answer["ids"]} for number, answer in known.given.items() if answer["ids"]
        }
        answers = await self._workers.ask_each(requests)
        not_done = [each for each in ids if each not in owner or owner[each] in answers.silent]
        silent = {**(known.silent if len(owner) < len(set(ids)) else {}), **answers.silent}
        if not silent:
            return merged(list(answers.given.values()))
        return {**_whole(Answers(answers.given, silent)), "not_done": not_done}

    async def _metrics(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        answers = await self._workers.ask_all(request)
        ours = {
            "counts": {"worker_restarts": {"": self._workers.restarts}},
            "gauges": {"workers_silent": {"": len(answers.silent)}},
        }
        return merged([_whole(answers), ours])

    async def _status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        workers = [
            {
                "number": worker.number,
                "pid": worker.process.pid if worker.process is not None else None,
                "ready": worker.ready.is_set(),
                "starts": worker.starts,
            }
            for worker in self._workers.all
        ]
        answers = await self._workers.ask_all(request)
        ours = {
            "configuration": self.configuration.hash,
            "listening": [
                {"role": place.role, "tls": place.tls, "at": str(bound)}
                for place in self.places
                for bound in place.bound
            ],
            "workers": workers,
            "silent": _named(answers.silent),
        }
        return {**merged([{"connections": 0}, *answers.given.values()]), **ours}


def _whole(answers: Answers) -> dict[str, Any]:
    """One answer, with those who gave none, if there are such.

    Raises:
        Unanswered: nobody gave one.
    """
    if not answers.given:
        raise Unanswered("\n".join(answers.silent.values()))
    answer = merged(list(answers.given.values()))
    return {**answer, "silent": _named(answers.silent)} if answers.silent else answer


def _named(silent: Mapping[int, str]) -> list[dict[str, Any]]:
    """As answers on the control socket name those who did not answer."""
    return [{"worker": number, "why": why} for number, why in sorted(silent.items())]


def merged(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One answer out of those of several workers: numbers add up, lists are joined, the rest is the first one's."""
    total: dict[str, Any] = {}
    for answer in answers:
        for key, value in answer.items():
            total[key] = _joined(total[key], value) if key in total else value
    return total


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return merged([one, other])
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *(each for each in other if each not in one)]
    return one + other if _number(one) and _number(other) else one


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _logged(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a reload was not taken over: %s", error)
