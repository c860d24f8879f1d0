"""Composes the directory of recipients: the domains, mailboxes and aliases of a configuration, and its sources.

Promises: a source that cannot be used, such as a missing database, is an error at start and at a reload, not at the
first recipient. The mailboxes and aliases of the configuration come before those of the sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.accounts.records_cache import CacheOptions, RecordCache
from ironpost.accounts.records_files import RecordFileError, alias_file
from ironpost.accounts.records_logins import login_file
from ironpost.delivery.forward_files import ForwardFiles
from ironpost.model.options import Seconds
from ironpost.model.patterns import Addresses, Domains
from ironpost.routing.mail_directory import MailDirectory, RelayDomains, key_of
from ironpost.routing.records import Record, RecordTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ironpost.accounts.record_sources import SourceContext
    from ironpost.config import Configuration
    from ironpost.delivery import RouteAgent
    from ironpost.model.ports import Clock, Metrics
    from ironpost.routing.records import RecordSource
    from ironpost.routing.route import Route, Routes


class SourceError(Exception):
    """A source of the directory cannot be used; the text starts with its key, and gives the reason."""


CALLOUT: Final = CacheOptions(
    cache=Seconds(24 * 3600), cache_missing=Seconds(3600), cache_stale=Seconds(7 * 24 * 3600), timeout=Seconds(60)
)
"""How long the answers of next hops are used. Addresses rarely disappear. One that a next hop accepted is accepted for
a week while it is down, so that a backup MX can do its work. Clients wait 5 minutes for the reply to RCPT
(RFC 5321 §4.5.3.2.3)."""


def directory(
    configuration: Configuration,
    sources: Sequence[RecordSource] = (),
    *,
    callout: RecordSource | None = None,
    metrics: Metrics | None = None,
    forward_files: bool = True,
) -> MailDirectory:
    """Return the directory of a configuration.

    Args:
        configuration: the configuration.
        sources: the others, from `record_sources`.
        callout: asks next hops whether a recipient exists; None if nothing is accepted by this directory.
        metrics: counts failures of forward files; nothing if None.
        forward_files: whether forward files are read.
    """
    local = configuration.local
    records = configured_records(configuration)
    patterns = [each.matching(f"alias[{number}]") for number, each in enumerate(configuration.alias, 1)]
    files = configuration.directory.forward_files if forward_files else None
    relay = [
        RelayDomains(
            Domains(each.domains),
            None if each.recipients is None else Addresses(each.recipients),
            f"relay[{number}]",
            callout if each.verify is not None else None,
            each.unverified == "accept",
        )
        for number, each in enumerate(configuration.relay, 1)
    ]
    return MailDirectory(
        Domains(local.domains),
        [*([RecordTable(records)] if records else []), *sources],
        patterns=[each for each in patterns if each is not None],
        listed=None if local.recipients is None else Addresses(local.recipients),
        relay=relay,
        separator=configuration.directory.separator,
        postmaster=local.postmaster,
        forward_file=None if files is None else ForwardFiles(files, metrics).record,
        has_aliases=configuration.directory.has_sources or any(record.targets for record in records.values()),
    )


def callout(
    routes: Callable[[], Routes], agents: Callable[[Route], RouteAgent], clock: Clock, metrics: Metrics | None = None
) -> RecordSource:
    """Return what asks next hops for recipients of relay domains, with its cache.

    Args:
        routes: returns the routing table.
        agents: the delivery agent of a route.
        clock: time.
        metrics: counts; nothing if None.
    """
    from ironpost.delivery.callout import Callout  # loads the client, which `ironpost check` does not need

    return RecordCache(Callout(routes, agents, metrics), "callout", clock, CALLOUT)


def configured_records(configuration: Configuration) -> dict[str, Record]:
    """Return the records of `[[mailbox]]` and `[[alias]]` by their keys."""
    records: dict[str, Record] = {}
    for number, mailbox in enumerate(configuration.mailbox, 1):
        records[key_of(mailbox.address)] = Record(
            f"mailbox[{number}]",
            mailbox.forward or (),
            mailbox.keep,
            disabled=mailbox.disabled,
            quota=mailbox.quota,
            senders=mailbox.senders,
        )
    for number, alias in enumerate(configuration.alias, 1):
        if alias.address is not None:
            records[alias.address] = Record(f"alias[{number}]", alias.targets, senders=alias.senders)
    return records


def record_sources(configuration: Configuration, context: SourceContext) -> list[RecordSource]:
    """Open the sources of `[directory]`, and the users file. Blocks.

    Raises:
        SourceError: one cannot be used.
    """
    found = []
    for each in opened_sources(configuration, context):
        if isinstance(each, SourceError):
            raise each
        found.append(each)
    return found


def opened_sources(configuration: Configuration, context: SourceContext) -> Iterator[RecordSource | SourceError]:
    """Open each source; yield it (with its cache if it needs one), or its errors. Blocks.

    The accounts come last, and only if not every address exists anyway.
    """
    serves = configuration.serves()
    for number, path in enumerate(configuration.directory.files, 1):
        try:
            yield alias_file(path, serves, context.clock)
        except RecordFileError as error:
            for fault in error.faults:
                yield SourceError(f"directory.files[{number}]: {fault}")
    times = configuration.directory.read(CacheOptions)
    for key, options in configuration.directory.sources():
        try:
            source = options.open(context)
        except ValueError as error:
            yield SourceError(f"{key}: {error}")
        else:
            yield RecordCache(source, str(options), context.clock, times)
    if configuration.directory.logins and configuration.lists_addresses:
        try:
            yield login_file(configuration.users, configuration.local.domains, context.clock)
        except (ValueError, OSError) as error:
            yield SourceError(f"directory.logins: {error}")
