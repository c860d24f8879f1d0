"""Composes the directory of recipients: the domains, mailboxes and aliases of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.model.patterns import Addresses, Domains
from ironpost.routing.mail_directory import MailDirectory, RelayDomains, key_of
from ironpost.routing.records import Record, RecordTable

if TYPE_CHECKING:
    from ironpost.config import Configuration


def directory(configuration: Configuration) -> MailDirectory:
    """Return the directory of a configuration."""
    local = configuration.local
    records = configured_records(configuration)
    relay = [
        RelayDomains(
            Domains(each.domains), None if each.recipients is None else Addresses(each.recipients), f"relay[{number}]"
        )
        for number, each in enumerate(configuration.relay, 1)
    ]
    return MailDirectory(
        Domains(local.domains),
        [RecordTable(records)] if records else [],
        listed=None if local.recipients is None else Addresses(local.recipients),
        relay=relay,
        separator=configuration.directory.separator,
        postmaster=local.postmaster,
        has_aliases=any(record.targets for record in records.values()),
    )


def configured_records(configuration: Configuration) -> dict[str, Record]:
    """Return the records of `[[mailbox]]` and `[[alias]]` by their keys."""
    records: dict[str, Record] = {}
    for number, mailbox in enumerate(configuration.mailbox, 1):
        records[key_of(mailbox.address)] = Record(
            f"mailbox[{number}]", mailbox.forward or (), mailbox.keep, disabled=mailbox.disabled
        )
    for number, alias in enumerate(configuration.alias, 1):
        records[alias.address] = Record(f"alias[{number}]", alias.targets)
    return records
