"""What the agents that write into mailboxes share: where the mailbox of an address is, the trace fields, and outcomes.

Promises: an error is transient if an operator or the mailbox's owner can correct it, and its detail says how:

- 450 4.2.0: another program has locked the mailbox (an mbox) for a long time;
- 450 4.2.1: the directory that must exist is missing;
- 451 4.3.5: the mailbox belongs to another user than the one that writes it;
- 451 4.3.0: something else is in its place, it cannot be written, or the directory of mailboxes cannot answer;
- 452 4.3.1: the disk is full;
- 452 4.2.2: the mailbox is full, and after a time 552 5.2.2; 552 5.2.3: the message alone is larger than the quota;
- 553 5.1.3: the address is too long for a file name; 554 5.4.6: the mailbox got this message before.

A full mailbox is transient at first, as with Dovecot's `quota_full_tempfail = yes`, because its owner can delete mail,
and permanent later, as without, so that the sender gets to know long before the message expires.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.delivery.path_template import PathError
from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.body import lacks_room
from ironpost.model.options import Seconds
from ironpost.model.text import error_text
from ironpost.routing.directory import Alias, DirectoryError, Mailbox
from ironpost.storage.directory import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ironpost.delivery.path_template import PathTemplate
    from ironpost.model import Address, Recipient
    from ironpost.queue.store import QueuedRecipient
    from ironpost.routing.directory import Directory

FULL_WAIT: Final = Seconds(24 * 3600.0)
"""Default time for which a message waits for room in a full mailbox."""
DELIVERED: Final = Outcome(Disposition.DELIVERED, Reply(250, "2.0.0", ("Delivered to the mailbox",)))
LOOPS: Final = Outcome(
    Disposition.FAILED, Reply(554, "5.4.6", ("Mail loops: the message was delivered to this mailbox before",))
)
LOCKED: Final = Outcome(Disposition.DEFERRED, Reply(450, "4.2.0", ("The mailbox is locked by another program",)))
_MISSING: Final = Reply(450, "4.2.1", ("The mailbox is not available",))
_NOT_OURS: Final = Reply(451, "4.3.5", ("The mailbox is not set up correctly",))
_NOT_WRITABLE: Final = Reply(451, "4.3.0", ("Cannot write to the mailbox",))
_NO_ROOM: Final = Reply(452, "4.3.1", ("Insufficient disk space for the mailbox",))
_NO_ANSWER: Final = Reply(451, "4.3.0", ("The mailbox cannot be looked up now",))
_NO_PATH: Final = Reply(553, "5.1.3", ("The address is too long for a mailbox of this system",))
_FULL: Final = Reply(452, "4.2.2", ("The mailbox is full",))
_STAYS_FULL: Final = Reply(552, "5.2.2", ("The mailbox is full",))
_TOO_LARGE: Final = Reply(552, "5.2.3", ("The message is larger than the mailbox may hold",))
_WRITTEN: Final = {
    reply.enhanced: reply
    for reply in (_MISSING, _NOT_OURS, _NOT_WRITABLE, _NO_ROOM, _FULL, _STAYS_FULL, _TOO_LARGE, LOCKED.reply)
}
"""The replies of what can be wrong while a mailbox is written."""
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IN_THE_WAY: Final = frozenset({errno.ENOTDIR, errno.ELOOP, errno.EISDIR})


class MailboxError(OSError):
    """A mailbox cannot take a message, for a reason that is not an error of the system."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.detail)
        self.reply = reply
        """The reply in the recipient's outcome."""


class Location(NamedTuple):
    """The mailbox of a recipient."""

    path: Path
    address: Address
    """The address of the mailbox, which is not that of the recipient if there is a detail."""
    detail: str = ""
    """What follows the separator in the local part (`news` in `jo+news@mail.example`), or empty."""
    quota: int | None = None
    """The most octets that the mailbox may hold; None for no limit."""


def distinct(recipients: Sequence[QueuedRecipient]) -> dict[Address, Recipient]:
    """The first recipient of each address: equal addresses share one copy."""
    found: dict[Address, Recipient] = {}
    for each in recipients:
        found.setdefault(each.recipient.address, each.recipient)
    return found


def clean_up(threads: Executor, call: Callable[[], object]) -> None:
    """Call in a thread, after what runs there; at once if the agent was closed meanwhile, so that nothing runs."""
    try:
        threads.submit(call)
    except RuntimeError:
        call()


async def locate(address: Address, template: PathTemplate, directory: Directory | None, host: str) -> Location:
    """Find the mailbox of a local recipient.

    An address that the directory does not know any more keeps the mailbox of its name: its mail was accepted.

    Raises:
        DirectoryError: the directory cannot answer now.
        PathError: the address has no path.
    """
    found = None if directory is None else directory.find(address)
    entry = found if found is None or isinstance(found, tuple) else await found
    mailbox = entry.mailbox if isinstance(entry, Alias) else entry
    if not isinstance(mailbox, Mailbox):
        return Location(template.path(address, host), address)
    named = mailbox.address or address
    return Location(template.path(named, host), named, mailbox.detail, mailbox.quota)


def not_located(error: DirectoryError | PathError) -> Outcome:
    """The outcome if `locate` raises."""
    if isinstance(error, PathError):
        return Outcome(Disposition.FAILED, _NO_PATH.because(str(error)))
    return Outcome(Disposition.DEFERRED, _NO_ANSWER.because(str(error)))


def outcome_of(enhanced: str, detail: str) -> Outcome | None:
    """The outcome of a mailbox that another process has written, by its enhanced status code; None if unknown."""
    if enhanced == DELIVERED.reply.enhanced:
        return DELIVERED
    reply = _WRITTEN.get(enhanced)
    return None if reply is None else Outcome.of(reply.because(detail), asked=False)


def not_written(error: OSError, path: Path) -> Outcome:
    """The outcome of an error with the mailbox at `path`."""
    if isinstance(error, MailboxError):
        return Outcome.of(error.reply, asked=False)
    reason = f"{error.filename or path}: {error_text(error)}"
    if lacks_room(error):
        reply = _NO_ROOM.because(f"{reason}; free space on that disk")
    elif error.errno in _NOT_ALLOWED:
        reply = _NOT_WRITABLE.because(f"{reason}; user id {os.geteuid()} needs write permission there")
    elif error.errno in _IN_THE_WAY:
        reply = _NOT_WRITABLE.because(f"{reason}; move it away, or choose another path")
    else:
        reply = _NOT_WRITABLE.because(reason)
    return Outcome(Disposition.DEFERRED, reply)


def unusable(template: PathTemplate, *, files: bool = False) -> str:
    """Return why no mailbox can be at these paths, a sentence; empty if there can be some. Blocks.

    Args:
        template: the paths.
        files: whether mailboxes are files, not directories.
    """
    for path in (template.base, None if files else template.single):
        if path is not None and path.exists() and not path.is_dir():
            return f"{path} is not a directory"
    if template.base.exists():
        return ""
    return f"{template.base} does not exist: create it, or choose another directory"


def full(path: Path, quota: int, octets: int, *, final: bool) -> MailboxError:
    """The error of a message that does not fit into its mailbox.

    Args:
        path: the mailbox.
        quota: the most octets that it may hold.
        octets: the size of the message.
        final: whether the message has waited for room long enough.
    """
    if octets > quota:
        return MailboxError(_TOO_LARGE.because(f"{path}: {octets} octets, and the quota is {quota}"))
    reply = _STAYS_FULL if final else _FULL
    return MailboxError(reply.because(f"{path}: the quota is {quota} octets; raise it, or delete mail"))


def not_created(path: Path) -> MailboxError:
    """The error of a mailbox that does not exist and must not be created."""
    return MailboxError(_MISSING.because(f"{path} does not exist; create it, or set create = true"))


def refuse_foreign(path: Path, owner: int) -> None:
    """Refuse a mailbox of another user, who could redirect what is written there, or could not read it.

    Raises:
        MailboxError: the user id `owner` is not ours.
    """
    ours = os.geteuid()
    if owner != ours:
        advice = f"give it to user id {ours} with chown, or set user to its owner"
        raise MailboxError(_NOT_OURS.because(f"{path} belongs to user id {owner}; {advice}"))


def refuse_special(path: Path, status: os.stat_result) -> None:
    """Refuse what is not a regular file with one name: writing to it could change another file (SECURITY R47).

    Raises:
        MailboxError: it is something else.
    """
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise MailboxError(_NOT_OURS.because(f"{path} is not a regular file with one name; move it away"))


def create_directories(path: Path, base: Path) -> None:
    """Create a directory with its missing parents below `base`, durably and 0700 (SECURITY R47).

    Raises:
        MailboxError: `base` does not exist.
        OSError: a directory cannot be created.
    """
    if path.is_dir():
        return
    if not base.exists():
        advice = "create it, or mount the file system that has it"
        raise MailboxError(_MISSING.because(f"{base} does not exist; {advice}"))
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_directory(folder.parent)
