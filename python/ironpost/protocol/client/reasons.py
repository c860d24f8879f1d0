"""The reasons for which our client settles recipients itself, as replies for logs and reports (RFC 3463 §3).

`reports_protocol_error` decides which replies of a peer are about the protocol and not about the mail.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.model import Reply
from ironpost.protocol.client.states import ClientStep

if TYPE_CHECKING:
    from ironpost import wire


def lost(step: ClientStep) -> Reply:
    """Create the reason for a lost connection."""
    if step in (ClientStep.END, ClientStep.BDAT):
        # RFC 1047: the peer may have accepted the message; sending it twice is better than losing it.
        return Reply(
            451, "4.4.2", ("Connection lost after end of data, before the reply: the message may be delivered twice",)
        )
    return Reply(451, "4.4.2", (f"Connection lost at {step.value}",))


def expired(step: ClientStep) -> Reply:
    """Create the reason for a timeout of RFC 5321 §4.5.3.2."""
    return Reply(451, "4.4.2", (f"Timed out at {step.value}",))


def faulty(step: ClientStep, sentence: str) -> Reply:
    """Create the reason for a malformed reply (SECURITY R18, R19)."""
    if step in (ClientStep.END, ClientStep.BDAT):
        return Reply(451, "4.5.0", (f"{UNREADABLE}: {sentence}",))
    return Reply(451, "4.5.0", (f"Protocol error at {step.value}: {sentence}",))


def unexpected(step: ClientStep, reply: Reply) -> Reply:
    """Create the reason for a reply that is not allowed at its step."""
    if step in (ClientStep.END, ClientStep.BDAT):
        return Reply(451, "4.5.0", (f"{UNREADABLE}: {reply}",))
    return Reply(451, "4.5.0", (f"Unexpected reply at {step.value}: {reply}",))


DIALOGUE_FAULTS: Final = frozenset({500, 501, 502, 503})
"""Codes of replies about the syntax or the order of commands (RFC 5321 §4.2.1: x0z, syntax; §4.2.3)."""
_PROTOCOL: Final = frozenset({"0", "5"})
"""Subjects of enhanced codes of such replies: undefined, and delivery protocol (RFC 3463 §3)."""


UNREADABLE: Final = "No valid reply to end of data"
"""The beginning of the reason if it is unknown whether the peer accepted the message (RFC 1047)."""
_CODE: Final = re.compile(rb"[2-5][0-9]{2}")


def final_code(octets: bytes) -> int | None:
    """Parse the code at the beginning of a malformed reply; return None if there is none."""
    return int(octets) if _CODE.fullmatch(octets) else None


def garbled(code: int, sentence: str) -> Reply:
    """Create the outcome of a malformed reply to the content, by its first digit (RFC 5321 §4.3.2)."""
    if code // 100 == 2:
        return Reply(250, "2.5.0", (f"Accepted with {code} in a malformed reply: {sentence}",))
    if code // 100 == 5:
        return Reply(554, "5.5.0", (f"Refused with {code} in a malformed reply: {sentence}",))
    if code // 100 == 4:
        return Reply(451, "4.5.0", (f"Refused with {code} in a malformed reply: {sentence}",))
    return Reply(451, "4.5.0", (f"{UNREADABLE}: {sentence}",))


def reports_protocol_error(reply: wire.Reply, step: ClientStep, *, parameters: bool = False) -> bool:
    """Whether a reply reports a protocol error, and is not a verdict on the mail.

    A 501 to MAIL or RCPT is a verdict on the address if its enhanced code says so, or if it has none and the command
    had no parameters. A reply to the content is a verdict if its enhanced code has another subject than the protocol.

    Args:
        reply: the peer's reply.
        step: the step to which it is the reply.
        parameters: the command had ESMTP parameters.
    """
    if reply.code not in DIALOGUE_FAULTS:
        return False
    if reply.code == 501 and step in (ClientStep.MAIL, ClientStep.RCPT):
        return parameters if reply.enhanced is None else _subject(reply) in _PROTOCOL
    return step not in (ClientStep.END, ClientStep.BDAT) or reply.enhanced is None or _subject(reply) in _PROTOCOL


def _subject(reply: wire.Reply) -> str:
    return (reply.enhanced or "..").split(".")[1]


def dialogue(step: ClientStep, reply: Reply) -> Reply:
    """Create the reason for a protocol error that the peer reported (`reports_protocol_error`)."""
    return Reply(451, "4.5.0", (f"Protocol error reported at {step.value}: {reply}",))


def unsolicited(reply: Reply) -> Reply:
    """Create the reason for an unsolicited reply, after which replies cannot be matched to commands (SECURITY R19)."""
    return Reply(451, "4.5.0", (f"Unsolicited reply: {reply}",))
