"""Text forms of envelope parts and updates, shared by all backends.

Promises: what was encoded is decoded to an equal value, but for `Outcome.crash`, which is left out. Parameters have the
form that they have in a command, so that operators can query them.
"""

from __future__ import annotations

import json
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ironpost.model import Disposition, Origin, Outcome, Reply
from ironpost.model.tls import TlsLevel, TlsResult
from ironpost.protocol.extensions import typed_parameters
from ironpost.queue.store import RecipientState, Update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.protocol.extensions import Parameters

NO_PARAMETERS: Final[Parameters] = MappingProxyType({})
LOCAL_ORIGIN: Final = Origin()
"""Origin of a message that this system created, such as a bounce."""


def encode_parameters(parameters: Parameters) -> str:
    """Return parameters as in a command; empty for none.

    Raises:
        ValueError: a keyword or a value contains a space.
    """
    if not parameters:
        return ""
    text = " ".join([key if value is None else f"{key}={value}" for key, value in parameters.items()])
    if text.count(" ") != len(parameters) - 1:
        raise ValueError("the message cannot be stored: a parameter contains a space")
    return text


@lru_cache(maxsize=1024)  # as for origins
def decode_parameters(text: str) -> Parameters:
    """Parse the result of `encode_parameters`, unless it is empty."""
    wire: dict[str, str | None] = {}
    for item in text.split(" "):
        keyword, equals, value = item.partition("=")
        wire[keyword] = value if equals else None
    return MappingProxyType(typed_parameters(wire))


@lru_cache(maxsize=1024)  # a client sends many messages
def encode_origin(origin: Origin) -> str:
    """Return an origin as JSON; empty for `LOCAL_ORIGIN`."""
    return json.dumps(origin) if origin != LOCAL_ORIGIN else ""


def decode_origin(text: str) -> Origin:
    """Parse the result of `encode_origin`, unless it is empty.

    Raises:
        ValueError, TypeError: it is not an encoded origin.
    """
    origin = Origin(*json.loads(text))
    if not all(isinstance(each, str) for each in origin):
        raise TypeError("its origin contains a value that is not text")
    return origin


def encode_update(update: Update) -> list[Any]:
    """Return an update as a JSON value."""
    outcome: list[Any] | None = None
    if update.outcome is not None:
        found, tls = update.outcome, update.outcome.tls
        reply = [found.reply.code, found.reply.enhanced, list(found.reply.text), found.reply.detail]
        outcome = [
            found.disposition.value, reply, found.remote, found.asked, found.ours,
            None if tls is None else [tls.host, int(tls.level), int(tls.required), tls.reason],
            found.unreachable, found.relayed, found.wait,
        ]  # fmt: skip
    return [*update._replace(state=update.state.value, outcome=outcome)]  # type: ignore[arg-type]


def decode_update(values: Sequence[Any]) -> Update:
    """Parse the result of `encode_update`."""
    update = Update(*values)
    outcome: Any = update.outcome
    if outcome is not None:
        disposition, (code, enhanced, text, detail), remote, asked, ours, tls, unreachable, relayed, wait = outcome
        if tls is not None:
            host, level, required, reason = tls
            tls = TlsResult(host, TlsLevel(level), TlsLevel(required), reason)
        reply = Reply(code, enhanced, tuple(text), detail)
        outcome = Outcome(Disposition(disposition), reply, remote, asked, ours, tls, unreachable, relayed, wait)
    return update._replace(state=RecipientState(update.state), outcome=outcome)
