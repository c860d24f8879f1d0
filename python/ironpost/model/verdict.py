"""Verdicts: what a policy check or a hook of the Server API decides about a client, a recipient or a message.

    accept()                     the usual positive reply, or another text
    defer("Come back later")     4yz: the client tries again
    reject("No such list")       5yz: permanent failure, the client gives up
    quarantine("looks odd")      the usual positive reply; the message is held for an operator
    drop("known abuse")          the usual positive reply; the message is discarded
    tarpit(10, reject("No"))     a delay in seconds, then the other verdict

Promises: every `Verdict` has a valid reply: the text for the peer and the details for the log are different fields,
and the class digit of the enhanced code is computed from the reply code, so that the two cannot disagree
(RFC 2034 §4). Refuses: a code or a status outside the action's class, CR and LF, and a delay beyond `LONGEST`, with
ValueError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.model.reply import Reply

if TYPE_CHECKING:
    from typing import Self

LONGEST: Final = 240.0
"""Maximum seconds by which a reply may be delayed: clients wait 300 (RFC 5321 §4.5.3.2)."""

_STATUS: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_CLOSING: Final = 421
_NO_SERVICE: Final = 554


class Action(Enum):
    """The action of a verdict."""

    ACCEPT = "accept"
    DEFER = "defer"
    REJECT = "reject"
    QUARANTINE = "quarantine"
    DROP = "drop"
    TARPIT = "tarpit"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict. Create it with the functions of this module."""

    action: Action
    reply: Reply | None = None
    """The reply to the peer; None for the usual positive reply of the stage."""
    reason: str = ""
    """The reason, for the log only."""
    seconds: float = 0.0
    """Seconds by which TARPIT delays the reply; 0 for other actions."""
    then: Verdict | None = None
    """The verdict after the delay of TARPIT; None for other actions."""

    def __post_init__(self) -> None:
        wanted = {Action.DEFER: 4, Action.REJECT: 5}.get(self.action)
        code = None if self.reply is None else self.reply.code
        if wanted is not None and (code is None or code // 100 != wanted):
            raise ValueError(f"the reply of {self.action.value} must be {wanted}yz, not {code or 'missing'}")
        if wanted is None and code is not None and (self.action is not Action.ACCEPT or code // 100 != 2):
            raise ValueError(f"the reply of {self.action.value} cannot be {code}")
        if (self.action is Action.TARPIT) != (self.then is not None):
            raise ValueError("a tarpit needs the verdict that follows it; other actions must not have one")
        if self.then is not None and not 0 < self.seconds <= LONGEST:
            raise ValueError(f"the delay of a tarpit must be more than 0 and at most {LONGEST:g} s, not {self.seconds}")

    @classmethod
    def refuse(cls, reply: Reply) -> Self:
        """Return the verdict that refuses with a reply: DEFER for 4yz, REJECT for 5yz.

        Raises:
            ValueError: the reply is positive.
        """
        return cls(Action.DEFER if reply.transient else Action.REJECT, reply, reply.detail)

    @property
    def final(self) -> Verdict:
        """The verdict without its delay."""
        return self.then or self

    @property
    def refused(self) -> bool:
        """Whether the verdict defers or rejects, with or without a delay."""
        return self.final.action in {Action.DEFER, Action.REJECT}

    def __str__(self) -> str:
        if self.then is not None:
            return f"tarpit {self.seconds:g} s, then {self.then}"
        words = self.action.value if self.reply is None else f"{self.action.value} ({self.reply})"
        return f"{words}: {self.reason}" if self.reason and self.reply is None else words


_ACCEPTED: Final = Verdict(Action.ACCEPT)


def accept(text: str = "", *, status: str = "0.0") -> Verdict:
    """Accept. A text replaces the usual reply by 250 2.0.0 and the text; `status` is subject and detail.

    Raises:
        ValueError: CR, LF or NUL in the text, or an invalid status.
    """
    return Verdict(Action.ACCEPT, _reply(250, status, text, "")) if text else _ACCEPTED


def defer(text: str = "Try again later", *, code: int = 451, status: str = "7.1", detail: str = "") -> Verdict:
    """Defer, with 451 4.7.1 by default; `status` is subject and detail (RFC 3463 §3), `detail` for the log.

    With code 421 the connection closes after the reply (RFC 5321 §4.2.3).

    Raises:
        ValueError: the code is not 4yz, the status is invalid, or the text has CR, LF or NUL.
    """
    return Verdict(Action.DEFER, _reply(code, status, text, detail), detail)


def reject(text: str = "Not accepted", *, code: int = 550, status: str = "7.1", detail: str = "") -> Verdict:
    """Reject, with 550 5.7.1 by default; `status` is subject and detail (RFC 3463 §3), `detail` for the log.

    Raises:
        ValueError: the code is not 5yz, the status is invalid, or the text has CR, LF or NUL.
    """
    return Verdict(Action.REJECT, _reply(code, status, text, detail), detail)


def quarantine(reason: str) -> Verdict:
    """Accept the message with the usual positive reply, and hold it for an operator, with the reason."""
    return Verdict(Action.QUARANTINE, None, reason)


def drop(reason: str) -> Verdict:
    """Discard the message after the usual positive reply. Neither sender nor recipient is notified: use with care."""
    return Verdict(Action.DROP, None, reason)


def tarpit(seconds: float, then: Verdict = _ACCEPTED) -> Verdict:
    """Delay the reply, then apply another verdict. Delays of nested tarpits add up, to `LONGEST` at most.

    Raises:
        ValueError: the delay is not more than 0, or longer than `LONGEST`.
    """
    if then.then is not None and seconds > 0:
        seconds, then = min(LONGEST, seconds + then.seconds), then.then
    return Verdict(Action.TARPIT, None, then.reason, float(seconds), then)


def greeting(reply: Reply) -> Reply:
    """Convert a refusal to a greeting: 421 or 554 (RFC 5321 §3.1), without an enhanced code (RFC 2034 §4)."""
    return replace(reply, code=_CLOSING if reply.transient else _NO_SERVICE, enhanced=None)


def unenhanced(reply: Reply) -> Reply:
    """Return the reply without its enhanced code, as in replies to EHLO and HELO (RFC 2034 §4)."""
    return reply if reply.enhanced is None else replace(reply, enhanced=None)


def _reply(code: int, status: str, text: str, detail: str) -> Reply:
    if not _STATUS.fullmatch(status):
        raise ValueError(f'status {status!r}: write subject and detail without the class, like "7.1"')
    return Reply(code, f"{code // 100}.{status}", (text,), detail)
