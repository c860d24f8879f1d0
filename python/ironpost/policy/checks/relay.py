"""Relay control: accept local recipients, and any recipient from a trusted or authenticated client; refuse the rest.

Promises: recipients are accepted for exactly six reasons: `<postmaster>` (RFC 5321 §4.5.1), a local mailbox or alias, a
relay domain, a customer's domain, a trusted client, an authenticated client (RFC 5068 §3.1). A local part is compared
and never interpreted: `user%elsewhere`, `elsewhere!user` and `"user@elsewhere"` at a local domain are local mailboxes
with odd names, never relayed (RFC 2505 §2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.verdict import Verdict
from ironpost.policy.check import ACCEPT, Check, Finding, lookup_failed
from ironpost.protocol import replies
from ironpost.routing.directory import Closed, DirectoryError, NotLocal, Relayed, Unknown
from ironpost.routing.mail_directory import MailDirectory

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model import Address
    from ironpost.policy.check import NoOptions, Opinion
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts
    from ironpost.routing.directory import Directory, Entry
    from ironpost.routing.records import RecordSource

_REFUSED: Final = Verdict.refuse(replies.RELAY_DENIED)
_UNKNOWN: Final = Verdict.refuse(replies.NOT_ACCEPTED_HERE)


class Relay(Check):
    """Runs at RCPT. It cannot be turned off."""

    name: Final = "relay"

    def __init__(self, options: NoOptions, context: Context) -> None:
        super().__init__(options, context)
        directory = context.ports.directory
        self._directory: Directory = directory or MailDirectory(context.system.local_domains)

    def recipient(self, facts: Facts) -> Opinion:
        """Accept or refuse; never neutral."""
        address = facts.forward_path
        if address is None:
            return Finding(_REFUSED, "no recipient")
        if not address.domain:
            return Finding(ACCEPT, "postmaster is always accepted")
        try:
            entry = self._directory.find(address)
        except DirectoryError as error:
            return lookup_failed("Recipient", error)
        return self._decide(facts, address, entry) if isinstance(entry, tuple) else self._later(facts, address, entry)

    async def _later(self, facts: Facts, address: Address, entry: Awaitable[Entry]) -> Finding:
        try:
            decided = self._decide(facts, address, await entry)
        except DirectoryError as error:
            return lookup_failed("Recipient", error)
        return decided if isinstance(decided, Finding) else await decided

    def _decide(self, facts: Facts, address: Address, entry: Entry) -> Finding | Awaitable[Finding]:
        if isinstance(entry, Unknown):
            return Finding(_UNKNOWN, entry.reason)
        if isinstance(entry, Closed):
            return Finding(Verdict.refuse(entry.reply), entry.reason)
        if isinstance(entry, Relayed) and entry.verifier is not None:
            return _verified(address, entry, entry.verifier)
        if not isinstance(entry, NotLocal):
            return Finding(ACCEPT, entry.reason)
        system = self.context.system
        if address.key in system.customer_domains:
            return Finding(ACCEPT, f"{address.key} belongs to a customer who fetches mail here")
        if facts.identity is not None:
            return Finding(ACCEPT, f"{facts.identity.name} is authenticated")
        if system.may_relay(facts.ip):
            return Finding(ACCEPT, f"{facts.ip} is in a trusted network")
        return Finding(_REFUSED, f"{entry.reason}, and {facts.ip or 'the client'} is not trusted")


async def _verified(address: Address, entry: Relayed, verifier: RecordSource) -> Finding:
    """Accept or refuse an address of a relay domain."""
    try:
        found = verifier.lookup(f"{address.local_part}@{address.key}")
        record = found if found is None or isinstance(found, tuple) else await found
    except DirectoryError as error:
        if entry.accept_unverified:
            return Finding(ACCEPT, f"{entry.reason}; not verified: {error}", noted=True)
        return lookup_failed("Recipient", error)
    if record is None:
        return Finding(_UNKNOWN, f"{entry.reason}, and its next hop refuses {address}")
    return Finding(ACCEPT, f"{entry.reason}; {record.where}")
