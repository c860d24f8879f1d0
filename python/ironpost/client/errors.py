"""What can go wrong when a program sends mail, typed by whose doing it is and where it happened.

Promises: every error carries a `Reply`: the peer's, or one that says our own reason with an enhanced status code; so
`error.reply.transient` always tells whether another attempt makes sense (RFC 5321 §4.2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Address, Reply
    from ironpost.protocol.client import Step


class ClientError(Exception):
    """Nothing was accepted."""

    def __init__(self, reply: Reply, remote: str) -> None:
        # One argument: the OSErrors among us would take two for a number and its meaning.
        super().__init__(f"{remote}: {reply}")
        self.reply = reply
        """The peer's reply, or our own reason."""
        self.remote = remote
        """Whom we spoke to."""

    def __reduce__(self) -> tuple[object, ...]:
        """By our own arguments: so that errors can be copied, and cross to other processes."""
        return type(self), self._arguments, self.__dict__

    @property
    def _arguments(self) -> tuple[object, ...]:
        return self.reply, self.remote

    def __str__(self) -> str:
        return f"{self.remote}: {self.reply}{self._detail}"

    @property
    def _detail(self) -> str:
        """What is known beyond the reply, of our own reasons."""
        return f" ({self.reply.detail})" if self.reply.detail else ""


class ConnectFailed(ClientError, ConnectionError):
    """No connection could be had."""


class ConnectionLost(ClientError, ConnectionError):
    """The connection ended early. If the content had been sent to its end, the message may have been accepted."""


class TimedOut(ClientError, TimeoutError):
    """A limit of RFC 5321 §4.5.3.2 passed."""


class Insecure(ClientError):
    """The server does not give the protection that was asked for: no TLS, a certificate that was not accepted, no way
    to log in that can be used, or a login in which the server did not prove itself. Nothing secret was said."""


class PeerFault(ClientError):
    """What came is no SMTP, or out of step; the connection cannot be used any more."""


class Refused(ClientError):
    """The peer refused, in a reply."""

    def __init__(self, reply: Reply, remote: str, step: Step) -> None:
        super().__init__(reply, remote)
        self.step = step
        """What was refused."""

    @property
    def _arguments(self) -> tuple[object, ...]:
        return self.reply, self.remote, self.step

    def __str__(self) -> str:
        return f"{self.remote} refused at {self.step.value}: {self.reply}"


class ServiceRefused(Refused):
    """The greeting, EHLO or HELO was refused, or 421 ended the session."""


class LoginRefused(Refused):
    """AUTH was refused: the credentials are wrong (535), or cannot be checked now (454)."""


class SenderRefused(Refused):
    """MAIL was refused."""


class RecipientsRefused(Refused):
    """Every recipient was refused; `reply` is the last one's."""

    def __init__(self, reply: Reply, remote: str, step: Step, refused: Mapping[Address, Reply]) -> None:
        super().__init__(reply, remote, step)
        self.refused = refused
        """Each recipient's reply."""

    @property
    def _arguments(self) -> tuple[object, ...]:
        return self.reply, self.remote, self.step, self.refused


class ContentRefused(Refused):
    """DATA, BDAT or the content was refused."""


class Unsupported(Refused):
    """The peer does not offer what the message needs (its size, SMTPUTF8, 8BITMIME); nothing was sent."""
