"""What one server's sessions have in common: names, limits, extensions.

Promises: immutable; what is derived from it (EHLO reply, line limits, parameter tables) is computed once a server, not
once a session. Refuses: limits below what RFC 5321 §4.5.3.1 makes a server support, with ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from ironpost.protocol.commands import Dialogue
from ironpost.protocol.extensions import EXTENSIONS
from ironpost.protocol.replies import reply
from ironpost.wire.interface import Limits, NewlinePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.protocol.extensions.base import Check, Extension

COMMAND_LINE: Final = 512
"""Octets of a command line with its CRLF, before extensions add to it (RFC 5321 §4.5.3.1.4)."""
RECIPIENTS: Final = 1000
"""Recipients of one transaction; RFC 5321 §4.5.3.1.8 asks for at least `RECIPIENTS_MINIMUM`."""
RECIPIENTS_MINIMUM: Final = 100
MESSAGE_SIZE: Final = 32 * 1024 * 1024
"""Octets of one message; RFC 5321 §4.5.3.1.7 asks for at least `MESSAGE_SIZE_MINIMUM`."""
MESSAGE_SIZE_MINIMUM: Final = 64 * 1024
BODY_LINE: Final = 1024 * 1024
"""Octets of one line of content without CRLF; RFC 5321 §4.5.3.1.6 asks for at least 998."""
BODY_LINE_MINIMUM: Final = 998
ERRORS: Final = 20
"""Negative replies (a count) since the last accepted message, before the session is closed with 421."""
COMMANDS: Final = 100_000
"""Commands (a count) in one session, before it is closed with 421."""


@dataclass(frozen=True)
class Settings:
    """One server's settings; sizes in octets."""

    hostname: str = "localhost"
    """What the server calls itself in the greeting and in the EHLO reply: a domain or an address literal."""
    max_size: int = MESSAGE_SIZE
    max_recipients: int = RECIPIENTS
    max_errors: int = ERRORS
    max_commands: int = COMMANDS
    max_body_line: int = BODY_LINE
    long_lines: Literal["reject", "accept"] = "reject"
    """What content with a line longer than `max_body_line` meets."""
    newlines: NewlinePolicy = "reject"
    """What a bare CR or LF in content meets. `normalise` concerns DATA; in BDAT it is refused unless `accept` is set,
    because RFC 3030 §2 makes the client send text with CRLF."""
    extensions: tuple[Extension, ...] = EXTENSIONS

    def __post_init__(self) -> None:
        for name, least in (
            ("max_recipients", RECIPIENTS_MINIMUM),
            ("max_size", MESSAGE_SIZE_MINIMUM),
            ("max_body_line", BODY_LINE_MINIMUM),
            ("max_errors", 1),
            ("max_commands", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"Settings.{name} is {getattr(self, name)}; the least allowed is {least}")

    @cached_property
    def greeting(self) -> bytes:
        """The 220 line (RFC 5321 §4.2)."""
        return reply(220, None, f"{self.hostname} ESMTP ironpost").octets

    @cached_property
    def helo_reply(self) -> bytes:
        """The answer to HELO."""
        return reply(250, None, self.hostname).octets

    @cached_property
    def ehlo_reply(self) -> bytes:
        """The answer to EHLO: one line an extension that can be honoured now (RFC 5321 §4.1.1.1)."""
        lines = (extension.advertise(self) for extension in self.extensions)
        return reply(250, None, self.hostname, *(line for line in lines if line is not None)).octets

    @cached_property
    def limits(self) -> Limits:
        """The framer's limits: the command line is 512 octets plus the most that extensions add to one verb."""
        extra: dict[str, int] = {}
        for extension in self.extensions:
            for verb, octets in extension.extra_octets.items():
                extra[verb] = extra.get(verb, 0) + octets
        return Limits(command_line=COMMAND_LINE + max(extra.values(), default=0), content=self.max_size)

    @cached_property
    def mail_parameters(self) -> Mapping[str, Check]:
        """The parameters of MAIL that the extensions own, each with its check."""
        return {key: check for extension in self.extensions for key, check in extension.mail_parameters.items()}

    @cached_property
    def rcpt_parameters(self) -> Mapping[str, Check]:
        """The parameters of RCPT that the extensions own, each with its check."""
        return {key: check for extension in self.extensions for key, check in extension.rcpt_parameters.items()}

    @cached_property
    def dialogue(self) -> Dialogue:
        """The table of commands with the verbs that the extensions bring."""
        return Dialogue({verb: handling for e in self.extensions for verb, handling in e.verbs.items()})
