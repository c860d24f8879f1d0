"""Access to the data directory without a server: implements `operations.context.DataDirectory`.

Promises: files are opened with the rights of the directory's owner (`storage.ownership`); `explainer` evaluates what
`ironpost serve` would, because both are built by this package.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ironpost.accounts.file import UsersFile
from ironpost.model.text import counted, error_text
from ironpost.operations.operation import OperationError, Reason
from ironpost.queue.store import StoreUnusable
from ironpost.storage import BACKENDS
from ironpost.storage.backend import CheckedAmount, StoreOptions
from ironpost.storage.ownership import acting_for
from ironpost.storage.sqlite import state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ironpost.compose.delivery import DeliveryAgents
    from ironpost.config import Configuration
    from ironpost.config.queue import QueueSection
    from ironpost.http import HttpClient
    from ironpost.mail_auth.keys import Key
    from ironpost.model.dns import Resolver
    from ironpost.operations.dane import DaneChecker
    from ironpost.operations.explain import Explainer
    from ironpost.queue.store import StandaloneReader
    from ironpost.routing.directory import Directory
    from ironpost.routing.tls.mta_sts import StsPolicy
    from ironpost.storage.backup import FinishedBackup
    from ironpost.storage.restore import Restored
    from ironpost.storage.sqlite.received_reports import ReportedDomains


def store_options(queue: QueueSection, now: Callable[[], float]) -> StoreOptions:
    """Return the options of the store with this configuration; `now` is the time in seconds since 1970."""
    return StoreOptions(now, queue.reserve, queue.memory, queue.history, queue.history_size, queue.idempotency)


class VerifyLine(NamedTuple):
    """One line of the report of `check --data`."""

    damage: bool
    text: str


class LocalData:
    """The data directory of one configuration."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self.path: Path = configuration.data
        self._backend = BACKENDS[configuration.queue.backend]()
        self.users = UsersFile(configuration.users)

    @contextmanager
    def queue_reader(self) -> Iterator[StandaloneReader]:
        """See `operations.context.DataDirectory`."""
        try:
            with acting_for(self.path):  # SQLite opens further files, and would follow symbolic links of the owner
                reader = self._backend.open_reader(self.path)
                try:
                    yield reader
                finally:
                    reader.close()
        except FileNotFoundError:
            sentence = f"there is no queue in {self.path}; has a server run on it?"
            raise OperationError(Reason.UNAVAILABLE, sentence) from None
        except StoreUnusable as error:
            raise OperationError(Reason.UNAVAILABLE, str(error)) from None
        except PermissionError:
            sentence = f"permission denied: {self.path}: only the user who runs the server may read its queue"
            raise OperationError(Reason.FORBIDDEN, sentence) from None
        except OSError as error:
            sentence = f"{self.path}: the queue cannot be read: {error_text(error)}"
            raise OperationError(Reason.UNAVAILABLE, sentence) from None

    @asynccontextmanager
    async def explainer(self) -> AsyncIterator[Explainer]:
        """See `operations.context.DataDirectory`."""
        from ironpost.accounts.record_sources import SourceContext
        from ironpost.compose.delivery import rewriting, routes
        from ironpost.compose.directory import SourceError, callout, record_sources
        from ironpost.compose.policy import policy
        from ironpost.operations.explain import Explainer
        from ironpost.policy import Ports

        configuration = self._configuration
        async with self._delivery(lambda: table.directory) as agents:
            found = agents.context
            try:
                context = SourceContext(found.clock, configuration.folder, agents.http)
                sources = record_sources(configuration, context)
            except SourceError as error:
                raise OperationError(Reason.CONFIGURATION, str(error)) from None
            asking = callout(lambda: table, agents.agent, found.clock)
            table = routes(configuration, sources, callout=asking)
            ports = Ports(found.clock, found.resolver, directory=table.directory)
            yield Explainer(
                policy(configuration, found.name, ports),
                table,
                agents.agent,
                reception=rewriting(configuration, "reception"),
                delivery=found.rewriting.rules,
            )

    @asynccontextmanager
    async def dane(self) -> AsyncIterator[DaneChecker]:
        """See `operations.context.DataDirectory`."""
        from ironpost.delivery.agents import dialer
        from ironpost.operations.dane import DaneChecker

        async with self._delivery() as agents:
            found = agents.context
            yield DaneChecker(found.resolver, found.random, found.clock, found.own, dialer(found), agents.dane_obstacle)

    @asynccontextmanager
    async def _delivery(self, directory: Callable[[], Directory] | None = None) -> AsyncIterator[DeliveryAgents]:
        """The delivery agents of a server with this configuration."""
        from ironpost.compose.delivery import DeliveryAgents, own_system
        from ironpost.compose.keyed_state import stored_state
        from ironpost.compose.own_name import own_name
        from ironpost.processes.clock import SystemClock, SystemRandom
        from ironpost.server.tls import TlsError

        configuration = self._configuration
        name, clock = await own_name(configuration), SystemClock()
        try:
            agents = DeliveryAgents(
                configuration,
                name,
                own_system(configuration, name),
                clock,
                SystemRandom(),
                state=stored_state(self.path, clock),
                directory=directory,
            )
        except TlsError as error:
            raise OperationError(Reason.CONFIGURATION, str(error)) from None
        try:
            yield agents
        finally:
            await agents.close()

    def resolver(self) -> Resolver:
        """See `operations.context.DataDirectory`."""
        from ironpost.compose.delivery import configured_resolver

        return configured_resolver(self._configuration.dns)

    def dmarc_reports(self, domain: str | None, days: int) -> ReportedDomains:
        """See `operations.context.DataDirectory`."""
        from ironpost.storage.sqlite.received_reports import reported

        with acting_for(self.path):
            return reported(self.path, time.time() - days * 86_400, domain)

    def http(self, resolver: Resolver) -> HttpClient:
        """See `operations.context.DataDirectory`."""
        from ironpost.compose.delivery import http_client
        from ironpost.server.tls import TlsError

        try:
            return http_client(self._configuration.http, resolver)
        except TlsError as error:
            raise OperationError(Reason.CONFIGURATION, str(error)) from None

    def dkim_keys(self) -> Sequence[Key]:
        """See `operations.context.DataDirectory`."""
        from ironpost.compose.signing import usable_keys
        from ironpost.delivery.access import AccessError

        try:
            return usable_keys(self._configuration)
        except AccessError as error:
            raise OperationError(Reason.CONFIGURATION, str(error)) from None

    @property
    def sts_policies(self) -> Mapping[str, StsPolicy]:
        """See `operations.context.DataDirectory`."""
        return self._configuration.sts_policies

    async def back_up(self, target: Path, *, mail: bool) -> FinishedBackup:
        """See `operations.context.DataDirectory`."""
        from ironpost.storage.backup import back_up, create_target

        create_target(target, self.path)
        with acting_for(self.path):
            return await back_up(self.path, target, self._backend, time.time(), mail=mail)

    async def restore(self, backup: Path, *, release: bool) -> Restored:
        """See `operations.context.DataDirectory`."""
        from ironpost.storage.restore import restore

        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with acting_for(self.path):
            options = store_options(self._configuration.queue, time.time)
            return await restore(backup, self.path, self._backend, options, release=release)

    async def verify(self) -> AsyncIterator[VerifyLine]:
        """Read the keyed state and everything in the queue; yield each damage as it is found, then a summary.

        Raises:
            FileNotFoundError: there is no queue in this directory.
        """
        count = 0
        with acting_for(self.path):
            if damage := state.verify(self.path):
                yield VerifyLine(True, f"{self.path / state.STATE_FILE}: {damage}")
            async for found in self._backend.verify(self.path):
                if isinstance(found, CheckedAmount):
                    yield VerifyLine(
                        False,
                        f"{counted(found.messages, 'message')} read, {counted(found.octets, 'octet')}; {count} damaged",
                    )
                else:
                    count += 1
                    what = f"message {found.message}" if found.message else "the shard"
                    yield VerifyLine(True, f"{found.shard}: {what} is damaged: {found.sentence}")
