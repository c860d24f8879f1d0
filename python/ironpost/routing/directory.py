"""The directory of recipients: looked up by relay control, at commit and by routing.

Promises: `expand` replaces aliases by their targets, loses no recipient and always ends: targets are delivered once,
and depth and number are limited. An alias that leads back to itself (unless it keeps a copy in its mailbox), or to an
address that takes no mail, leaves a recipient that is `REFUSED`: it fails, and its sender gets a report; and so does
such an address itself in mail that did not come by RCPT. A directory that cannot answer raises `DirectoryError`: the
caller defers, and never concludes that a recipient does not exist.

`routing.mail_directory` is the directory of a server.
Limitations: an alias that is created after a message was accepted is not expanded for it; NOTIFY=SUCCESS at an alias
with several targets is dropped without the "expanded" report of RFC 3461 §5.2.7.3 (c).
Standards: RFC 5321 §3.9.1 (aliases), §4.5.1 (postmaster); RFC 3461 §5.2.7.2 and §5.2.7.3 (parameters of DSN);
RFC 3463 §3.2, §3.3 and §3.5 (status codes).
"""

from __future__ import annotations

from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from ironpost.model import Recipient, Reply
from ironpost.model.envelope import REFUSED
from ironpost.model.parameters import Notify, OriginalRecipient
from ironpost.model.pause import pause
from ironpost.protocol.replies import NOT_ACCEPTED_HERE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from ironpost.model import Address
    from ironpost.routing.records import RecordSource

POSTMASTER: Final = "postmaster"
MAX_DEPTH: Final = 20
"""Maximum depth of nested aliases."""
MAX_TARGETS: Final = 1000
"""Maximum number of recipients of one message after expansion."""
BATCH: Final = 100
"""Number of targets that are looked up before others have their turn."""
LOOP: Final = Reply(550, "5.4.6", ("The recipient's alias leads back to it",))
DISABLED: Final = Reply(550, "5.2.1", ("Mailbox disabled, not accepting messages",))
_REFUSALS: Final[Mapping[str | None, Reply]] = MappingProxyType(
    {reply.enhanced: reply for reply in (LOOP, DISABLED, NOT_ACCEPTED_HERE)}
)
"""Why an address takes no mail, by the value of the tag `REFUSED`."""


class DirectoryError(Exception):
    """The directory cannot answer now, or an alias cannot be expanded: defer."""


class Mailbox(NamedTuple):
    """A recipient whose mail is delivered on this system."""

    reason: str
    address: Address | None = None
    """The address of the mailbox; None if it is the one that was looked up."""
    detail: str = ""
    """What follows the separator in the local part (`news` in `jo+news@mail.example`), or empty."""
    quota: int | None = None
    """The most octets that the mailbox may hold; None for no limit."""
    senders: tuple[str, ...] = ()
    """Logins that may use the address as a sender, besides the login of the address."""


class Alias(NamedTuple):
    """A recipient whose mail goes to others, here or elsewhere."""

    targets: tuple[Address, ...]
    """At least one; the address itself among them if a copy is kept."""
    reason: str
    mailbox: Mailbox | None = None
    """The mailbox into which a copy goes if one is kept: how mail for the address itself is delivered."""
    senders: tuple[str, ...] = ()
    """As for `Mailbox`."""
    disabled: bool = False
    """It is the address of a disabled account, whose mail is still forwarded."""


class Unknown(NamedTuple):
    """An address in a local domain or a relay domain that does not exist."""

    reason: str
    relayed: bool = False
    """It is in a relay domain: mail that is queued is still relayed."""


class Closed(NamedTuple):
    """An address in a local domain that takes no mail now, such as a disabled account's."""

    reason: str
    reply: Reply
    """The refusal, permanent or transient."""


class Relayed(NamedTuple):
    """An address in a domain of another system, for which this one accepts mail from anybody (RFC 5321 §3.7)."""

    reason: str
    verifier: RecordSource | None = None
    """Has a record of the address if it exists there. It is asked before mail is accepted, not when it is routed; case
    is kept in its keys, because that system may distinguish it (RFC 5321 §2.4). None: the address is accepted."""
    accept_unverified: bool = False
    """Accept the address if the verifier cannot answer; if not, defer."""


class NotLocal(NamedTuple):
    """An address in a domain of another system."""

    reason: str


Entry: TypeAlias = Mailbox | Alias | Closed | Unknown | Relayed | NotLocal


class Directory(Protocol):
    """Knows the recipients of this system."""

    @property
    def has_aliases(self) -> bool:
        """Whether `find` can return an `Alias`. If not, what RCPT accepted is not looked up again for the commit."""
        ...

    def find(self, address: Address, /) -> Entry | Awaitable[Entry]:
        """Look up `address`, which is never the null reverse-path.

        Return the entry itself if no I/O is needed: only an awaitable costs an iteration of the event loop.

        Raises:
            DirectoryError: the directory cannot answer now.
        """
        ...


class Step(NamedTuple):
    """What an expansion found for one address."""

    level: int
    """How many aliases led to it."""
    address: Address
    entry: Entry
    repeated: bool = False
    """It was reached before, so its mail is delivered there."""
    refusal: Reply | None = None
    """Why mail for it fails."""


def expand(
    recipients: tuple[Recipient, ...], directory: Directory, *, accepted: int, steps: list[Step] | None = None
) -> tuple[Recipient, ...] | Awaitable[tuple[Recipient, ...]]:
    """Replace aliases by their targets. If all recipients stay as they are, and without I/O, return the tuple at once.

    Args:
        recipients: the recipients of a message.
        directory: knows the aliases.
        accepted: how many of them, from the first, RCPT accepted: the others are refused here if they take no mail.
        steps: gets a step for each address that is looked up; then the result is always awaitable.

    Raises:
        DirectoryError: see `Directory.find`; or an alias has too many targets, or is nested too deeply.
    """
    if steps is None and not directory.has_aliases and accepted == len(recipients):
        return recipients
    found: list[Entry | Awaitable[Entry]] = []
    for number, recipient in enumerate(recipients):
        entry = directory.find(recipient.address)
        found.append(entry)
        if (
            steps is not None
            or not isinstance(entry, tuple)
            or isinstance(entry, Alias)
            or (number >= accepted and refusal_of(entry) is not None)
        ):
            return _Expansion(directory, steps).run(recipients, found, accepted)
    return recipients


def refusal(recipient: Recipient) -> Reply | None:
    """Return why mail for a recipient fails that an expansion left; None if it is delivered."""
    status: str | None = recipient.parameters.get(REFUSED)
    if status is None:
        return None
    return _REFUSALS.get(status) or Reply(550, status, ("Recipient refused",))


class _Expansion:
    """The recipients of one message while aliases are expanded."""

    def __init__(self, directory: Directory, steps: list[Step] | None) -> None:
        self._directory = directory
        self._steps = steps
        self._final: dict[tuple[str, str], Recipient] = {}
        self._expanded: set[tuple[str, str]] = set()
        self._seen = 0

    async def run(
        self, recipients: Sequence[Recipient], found: Sequence[Entry | Awaitable[Entry]], accepted: int
    ) -> tuple[Recipient, ...]:
        """Expand the recipients, of which the first were looked up already; see `expand`."""
        for number, recipient in enumerate(recipients):
            entry = found[number] if number < len(found) else self._directory.find(recipient.address)
            await self._add(recipient, entry, (), accepted=number < accepted)
        return tuple(self._final.values())

    async def _add(
        self,
        recipient: Recipient,
        entry: Entry | Awaitable[Entry],
        chain: tuple[tuple[str, str], ...],
        *,
        accepted: bool = False,
    ) -> None:
        found = entry if isinstance(entry, tuple) else await entry
        key = recipient.address.local_part, recipient.address.key
        if isinstance(found, Alias) and key in chain and found.mailbox is not None:
            found = found.mailbox  # the copy that is kept
        if not isinstance(found, Alias) or key in chain:
            self._end(recipient, key, found, len(chain), accepted=accepted)
            return
        repeated = key in self._expanded
        self._note(Step(len(chain), recipient.address, found, repeated))
        if repeated:
            return
        self._expanded.add(key)
        if not found.targets:
            raise DirectoryError(f"the alias {recipient.address} has no targets")
        if len(chain) == MAX_DEPTH:
            raise DirectoryError(f"the alias {recipient.address} is nested more than {MAX_DEPTH} levels deep")
        for target in found.targets:
            self._seen += 1
            if self._seen % BATCH == 0:
                await pause()
            target_recipient = redirected(recipient, target, single=len(found.targets) == 1)
            await self._add(target_recipient, self._directory.find(target), (*chain, key))

    def _end(self, recipient: Recipient, key: tuple[str, str], entry: Entry, level: int, *, accepted: bool) -> None:
        """Add a recipient: not an alias, or one that led back to itself."""
        refused = refusal_of(entry)
        repeated = key in self._final
        self._note(Step(level, recipient.address, entry, repeated, refused))
        if repeated:
            return
        if refused is not None and not accepted:
            parameters = {**recipient.parameters, REFUSED: refused.enhanced}
            recipient = recipient._replace(parameters=MappingProxyType(parameters))
        self._final[key] = recipient
        if len(self._final) > MAX_TARGETS:
            raise DirectoryError(f"aliases expand to more than {MAX_TARGETS} recipients")

    def _note(self, step: Step) -> None:
        if self._steps is not None:
            self._steps.append(step)


def refusal_of(entry: Entry) -> Reply | None:
    """Return why mail for the address of an entry fails permanently; of an alias, because it led back to it."""
    if isinstance(entry, Alias):
        return LOOP
    if isinstance(entry, Unknown):
        return NOT_ACCEPTED_HERE
    return entry.reply if isinstance(entry, Closed) and entry.reply.permanent else None


def close_awaitable(pending: Awaitable[object]) -> None:
    """Give up a lookup before it was awaited: a coroutine, or another object with `close`."""
    if callable(close := getattr(pending, "close", None)):
        close()


def redirected(recipient: Recipient, target: Address, *, single: bool = True) -> Recipient:
    """Return a target of an alias, with the parameters that RFC 3461 §5.2.7.2 and §5.2.7.3 (c) allow.

    ORCPT is added if the client sent none, so that a report names the address that the sender wrote.
    """
    parameters = dict(recipient.parameters)
    if "ORCPT" not in parameters:
        with suppress(ValueError):  # too long for a parameter: the report names the target
            parameters["ORCPT"] = OriginalRecipient.of(str(recipient.address))
    notify = parameters.get("NOTIFY")
    if isinstance(notify, Notify) and not single:
        parameters["NOTIFY"] = notify & ~Notify.SUCCESS or notify
    original = recipient.original or recipient.address
    return Recipient(target, MappingProxyType(parameters), original)
