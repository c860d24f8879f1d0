"""One message, sent with up to a window of commands at a time, and by DATA: see `ironpost.compat.smtplib` about BDAT.

Standards: RFC 2920 §3.1 (pipelining), RFC 1870 §6.1 (the size of content).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .commands import envelope_words
from .errors import (
    SMTPDataError,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from .protocol import SMTPProtocol, command_line, pieces
from .response import SMTPResponse
from .typing import SMTPStatus

if TYPE_CHECKING:
    from .commands import Commands, Limit

WINDOW: Final = 100
"""Maximum commands that wait for their replies; all these replies fit into the buffers of a socket (RFC 2920 §3.1)."""
ACCEPTED: Final = frozenset({250, 251})
"""Replies to RCPT that accept the recipient."""
END: Final = b".\r\n"


def content_size(encoded: bytes) -> int:
    """Return the octets of content that `encode_content` encoded (RFC 1870 §6.1)."""
    return len(encoded) - len(END) - encoded.count(b"\r\n..") - encoded.startswith(b"..")


class Transaction:
    """A message for a server that offers PIPELINING."""

    def __init__(
        self,
        client: Commands,
        sender: str,
        recipients: list[str],
        content: bytes,
        mail_options: list[str],
        rcpt_options: list[str],
        encoding: str,
        timeout: Limit,
    ) -> None:
        assert client.protocol is not None
        self._client = client
        self._protocol: SMTPProtocol = client.protocol
        self._seconds = client._seconds(timeout)
        self._sender = sender
        self._recipients = recipients
        self._content = content
        self._commands = [command_line(*envelope_words(b"MAIL FROM:", sender, mail_options, encoding))]
        self._commands += [
            command_line(*envelope_words(b"RCPT TO:", recipient, rcpt_options, encoding)) for recipient in recipients
        ]
        self._refused: list[SMTPRecipientRefused] = []

    async def send(self) -> tuple[dict[str, SMTPResponse], str]:
        """Send it; return the replies to the recipients that were refused, and the text of the reply to the content.

        Raises:
            SMTPSenderRefused, SMTPRecipientsRefused, SMTPDataError: the server refused it.
        """
        try:
            async with self._protocol.command_lock():
                final = await self._send()
        except (SMTPServerDisconnected, SMTPTimeoutError):
            self._client.close()
            raise
        if final.code != SMTPStatus.completed:
            raise SMTPDataError(*final)
        return {error.recipient: SMTPResponse(error.code, error.message) for error in self._refused}, final.message

    async def _send(self) -> SMTPResponse:
        final = await self._envelope()
        if final.code != SMTPStatus.start_input:
            raise SMTPDataError(*final)
        return await self._protocol.send_content(pieces(self._content), self._seconds)

    async def _envelope(self) -> SMTPResponse:
        """Send MAIL and RCPT, and DATA with them; return the reply to that.

        Raises:
            SMTPSenderRefused, SMTPRecipientsRefused: nothing is to be sent.
        """
        commands = [*self._commands, b"DATA\r\n"]
        accepted: SMTPResponse | None = None
        for start in range(0, len(commands), WINDOW):
            group = commands[start : start + WINDOW]
            self._protocol.send(b"".join(group), len(group))
            for number in range(start, start + len(group)):
                response = await self._read()
                if number == 0:
                    accepted = response
                elif number <= len(self._recipients) and response.code not in ACCEPTED:
                    self._refused.append(SMTPRecipientRefused(*response, self._recipients[number - 1]))
                if response.code == SMTPStatus.domain_unavailable and number <= len(self._recipients):
                    self._client.close()
                    self._check(accepted)
                    raise SMTPServerDisconnected("Server not connected")
            if accepted is not None and accepted.code != SMTPStatus.completed and start + WINDOW < len(commands):
                self._check(accepted)
        if response.code == SMTPStatus.start_input and self._nothing(accepted):
            self._protocol.send(END)  # an empty message, which the server must refuse (RFC 2920 §3.1)
            await self._read()
        self._check(accepted)
        return response

    def _nothing(self, accepted: SMTPResponse | None) -> bool:
        """Whether the sender or all recipients were refused."""
        refused = accepted is None or accepted.code != SMTPStatus.completed
        return refused or len(self._refused) == len(self._recipients)

    def _check(self, accepted: SMTPResponse | None) -> None:
        if accepted is not None and accepted.code != SMTPStatus.completed:
            raise SMTPSenderRefused(*accepted, self._sender)
        if len(self._refused) == len(self._recipients):
            raise SMTPRecipientsRefused(self._refused)

    async def _read(self) -> SMTPResponse:
        return await self._protocol.read_response(self._seconds)
