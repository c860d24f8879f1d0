"""Warnings about addresses whose mail fails although it is accepted, for `ironpost check`.

Promises: the mailboxes and aliases of the configuration, of `directory.files` and of the users file are followed by the
rules of the server; nothing else is asked. Whether an address exists is not judged if it may be in another source.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from ironpost.accounts.records_files import alias_file
from ironpost.accounts.records_logins import login_file
from ironpost.compose.directory import configured_records, directory
from ironpost.model import Address, Recipient
from ironpost.processes.clock import SystemClock
from ironpost.protocol.replies import NOT_ACCEPTED_HERE
from ironpost.routing.directory import LOOP, DirectoryError, Step, expand
from ironpost.routing.mail_directory import key_of
from ironpost.routing.records import Record, RecordTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from ironpost.config import Configuration


def address_remarks(configuration: Configuration) -> list[str]:
    """Return the warnings: aliases that lead back to themselves, and targets that take no mail. Blocks."""
    return asyncio.run(_Addresses(configuration).remarks())


class _Addresses:
    """The addresses of a configuration that can be listed."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._complete = next(configuration.directory.sources(), None) is None
        """Whether an address that is not listed does not exist."""
        files = list(_files(configuration))
        self._directory = directory(
            configuration,
            [RecordTable(each) for each in files],
            callout=RecordTable({}),  # the next hop may accept what is not listed
            forward_files=False,
        )
        self._records: dict[str, Record] = {}
        for records in (configured_records(configuration), *files):
            self._records |= {key: record for key, record in records.items() if key not in self._records}
        self._cycles: set[frozenset[str]] = set()

    async def remarks(self) -> list[str]:
        found = [each async for each in self._of_aliases()]
        for key, address in _single(self._configuration):
            try:
                steps = await self._steps(address)
            except DirectoryError as error:
                found.append(f"{key}: {error}; its mail is deferred")
                continue
            if (why := self._dead(steps[0])) is not None:
                found.append(f"{key}: {address} takes no mail ({why}); add it, or name another address")
        return found

    async def _of_aliases(self) -> AsyncIterator[str]:
        for key, record in self._records.items():
            if not record.targets:
                continue
            local_part, _, domain = key.rpartition("@")
            for start in (Address(local_part, domain),) if local_part else record.targets:
                try:
                    steps = await self._steps(start)
                except DirectoryError as error:
                    yield f"{record.where}: {error}; its mail is deferred"
                    continue
                for step in steps:
                    if step.level == bool(local_part) and (why := self._dead(step)) is not None:
                        yield f"{record.where}: its target {step.address} takes no mail ({why}); add or remove it"
                for cycle in self._new_cycles(steps):
                    where = self._records.get(cycle[0], record).where
                    yield f"{where}: {' -> '.join(cycle)} is a loop, so its mail fails; remove a target"

    async def _steps(self, address: Address) -> list[Step]:
        steps: list[Step] = []
        await expand((Recipient(address),), self._directory, accepted=0, steps=steps)  # type: ignore[misc] # with steps
        return steps

    def _dead(self, step: Step) -> str | None:
        """Why the address of a step takes no mail; None if it does, or if it may exist in another source."""
        if step.refusal is None or step.refusal == LOOP:
            return None
        return str(step.refusal) if self._complete or step.refusal != NOT_ACCEPTED_HERE else None

    def _new_cycles(self, steps: list[Step]) -> Iterator[list[str]]:
        """The aliases that lead back to the first of them and were not reported yet."""
        path: list[str] = []
        for step in steps:
            path = [*path[: step.level], key_of(step.address)]
            if step.refusal == LOOP:
                end = next(at for at, key in enumerate(path) if key in path[:at])
                cycle = path[path.index(path[end]) : end + 1]
                if frozenset(cycle) not in self._cycles:
                    self._cycles.add(frozenset(cycle))
                    yield cycle


def _files(configuration: Configuration) -> Iterator[Mapping[str, Record]]:
    """The records of the files that can be read; `check` reports the others."""
    clock = SystemClock()
    for path in configuration.directory.files:
        with suppress(ValueError):
            yield alias_file(path, configuration.serves(), clock).records
    if configuration.directory.logins and configuration.lists_addresses:
        with suppress(ValueError, OSError):
            yield login_file(configuration.users, configuration.local.domains, clock).records


def _single(configuration: Configuration) -> Iterator[tuple[str, Address]]:
    """The other addresses of the configuration that must take mail, each with its key."""
    if configuration.local.postmaster is not None:
        yield "local.postmaster", configuration.local.postmaster
    for number, alias in enumerate(configuration.alias, 1):
        if alias.pattern is not None:
            yield from ((f"alias[{number}].targets", each) for each in alias.targets if "{" not in each.local_part)
    for number, archive in enumerate(configuration.archive, 1):
        yield f"archive[{number}].to", archive.to
    if configuration.sendmail.directory is not None and configuration.hostname is not None:
        yield "sendmail.directory", Address("root", configuration.domain_of_programs(configuration.hostname))
