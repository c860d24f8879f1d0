"""The errors of the client, typed by who caused them and at which step.

Promises: every error has a `Reply`: the peer's, or one of the client with an enhanced status code; so
`error.reply.transient` always says whether another attempt makes sense (RFC 5321 §4.2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Address, Reply
    from ironpost.protocol.client.session import ClientStep


class ClientError(Exception):
    """The message was not accepted for any recipient."""

    def __init__(self, reply: Reply, remote: str) -> None:
        # One argument: OSError, a base of some subclasses, would take two for errno and strerror.
        super().__init__(f"{remote}: {reply}")
        self.reply = reply
        """The peer's reply, or the client's reason."""
        self.remote = remote
        """The peer."""

    def __reduce__(self) -> tuple[object, ...]:
        """Errors can be copied and pickled."""
        return type(self), self._arguments, self.__dict__

    @property
    def _arguments(self) -> tuple[object, ...]:
        return self.reply, self.remote

    def __str__(self) -> str:
        return f"{self.remote}: {self.reply}{self._detail}"

    @property
    def _detail(self) -> str:
        """The detail of a client's reason."""
        return f" ({self.reply.detail})" if self.reply.detail else ""


class ConnectFailed(ClientError, ConnectionError):
    """The TCP connection failed."""


class ConnectionLost(ClientError, ConnectionError):
    """The connection was lost. If all content had been sent, the message may have been accepted."""


class TimedOut(ClientError, TimeoutError):
    """A timeout of RFC 5321 §4.5.3.2 expired."""


class Insecure(ClientError):
    """The server does not provide the required security: no TLS, an invalid certificate, no usable authentication
    mechanism, or a login in which the server did not prove its identity. Nothing secret was sent."""


class PeerFault(ClientError):
    """The server sent a malformed or unexpected reply; the connection cannot be used any more."""


class Refused(ClientError):
    """The peer refused with a reply."""

    def __init__(self, reply: Reply, remote: str, step: ClientStep) -> None:
        super().__init__(reply, remote)
        self.step = step
        """The step that was refused."""

    @property
    def _arguments(self) -> tuple[object, ...]:
        return self.reply, self.remote, self.step

    def __str__(self) -> str:
        return f"{self.remote} refused at {self.step.value}: {self.reply}"


class ServiceRefused(Refused):
    """The greeting, EHLO or HELO was refused, or 421 ended the session."""


class LoginRefused(Refused):
    """AUTH was refused: invalid credentials (535), or a temporary failure (454)."""


class SenderRefused(Refused):
    """MAIL was refused."""


class RecipientsRefused(Refused):
    """Every recipient was refused; `reply` is the last of their replies."""

    def __init__(self, reply: Reply, remote: str, step: ClientStep, refused: Mapping[Address, Reply]) -> None:
        super().__init__(reply, remote, step)
        self.refused = refused
        """The reply to each recipient."""

    @property
    def _arguments(self) -> tuple[object, ...]:
        return self.reply, self.remote, self.step, self.refused


class ContentRefused(Refused):
    """DATA, BDAT or the content was refused."""


class Unsupported(Refused):
    """The peer does not support what the message requires (its size, SMTPUTF8, 8BITMIME); nothing was sent."""
