"""HELP: lists the verbs of the server (RFC 5321 §4.1.1.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.server.states import Verb

if TYPE_CHECKING:
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire.interface import Command


def _help(session: ServerSession, command: Command) -> None:  # noqa: ARG001 - a Handling
    session.write(session.table.help_reply)


class Help(Extension):
    keyword = "HELP"
    verbs: ClassVar = {"HELP": Verb(_help)}
