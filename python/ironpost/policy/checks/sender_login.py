"""Which senders an authenticated client may use (RFC 6409 §6.1: submission rights).

A login that is an address may use that address; a bare name may be used in each local domain; the mailbox or alias of
another address can name the login among its `senders`, and the option `sender_login` grants more. Every login may use
the null reverse-path, which receipts and vacation notices need.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the types of options are read at run time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ironpost.model.patterns import EVERY, AddressPattern
from ironpost.model.verdict import reject
from ironpost.policy.check import NEUTRAL, NOTHING, Check, Finding, lookup_failed
from ironpost.routing.directory import Alias, DirectoryError, Mailbox

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model import Address
    from ironpost.policy.check import Opinion
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts
    from ironpost.routing.directory import Entry

_REFUSED: Final = reject("Sender address rejected: not owned by this login", code=553, status="7.1")


class SenderLogin(Check):
    """Runs at MAIL. It cannot be turned off, so that a stolen password does not give access to every sender."""

    name: Final = "sender-login"

    @dataclass(frozen=True, slots=True)
    class Options:
        """The senders of each login."""

        sender_login: Mapping[str, tuple[AddressPattern, ...]] = field(default_factory=dict)
        """A table of logins and the additional senders that each may use; `"*"` applies to every login. A login may
        always use itself, if it is an address; a bare name is allowed in each local domain (`ada` as
        `ada@mail.example`), and each an address whose `senders` name it. Other senders are refused with 553 5.7.1.
        `"*" = ["*"]` lets every login use every sender."""

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self._local_domains = context.system.local_domains
        self._senders = {login.lower(): patterns for login, patterns in options.sender_login.items()}

    def mail(self, facts: Facts) -> Opinion:
        """Refuse a sender that the login may not use (553 5.7.1)."""
        identity, sender = facts.identity, facts.reverse_path
        if identity is None or sender is None or sender.is_null:
            return NOTHING
        login = identity.name.lower()
        if str(sender).lower() == login:
            return NOTHING
        if sender.local_part.lower() == login and sender.key in self._local_domains:
            return NOTHING
        for pattern in (*self._senders.get(login, ()), *self._senders.get(EVERY, ())):
            if pattern.matches(sender):
                return Finding(NEUTRAL, f"{identity.name} may send as {pattern.text}")
        directory = self.context.ports.directory
        if directory is None or sender.key not in self._local_domains:
            return Finding(_REFUSED, f"{identity.name} may not send as {sender}")
        try:
            entry = directory.find(sender)
        except DirectoryError as error:
            return lookup_failed("Sender", error)
        return _decided(login, sender, entry) if isinstance(entry, tuple) else _later(login, sender, entry)


async def _later(login: str, sender: Address, entry: Awaitable[Entry]) -> Finding:
    try:
        return _decided(login, sender, await entry)
    except DirectoryError as error:
        return lookup_failed("Sender", error)


def _decided(login: str, sender: Address, entry: Entry) -> Finding:
    if isinstance(entry, Mailbox | Alias) and login in map(str.lower, entry.senders):
        return Finding(NEUTRAL, f"{login} may send as {sender}: {entry.reason}")
    return Finding(_REFUSED, f"{login} may not send as {sender}")
