"""One message, sent with up to a window of commands at a time, and by DATA: see `ironpost.compat.smtplib` about BDAT.

Standards: RFC 2920 §3.1 (pipelining), RFC 1870 §6.1 (the size of content).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.compat.content import END, PIECE, Content
from ironpost.compat.envelope import WINDOW

from .commands import envelope_words
from .errors import (
    SMTPDataError,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from .protocol import CLOSING, SMTPProtocol, command_line
from .response import SMTPResponse
from .typing import SMTPStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .commands import Commands, Limit

ACCEPTED: Final = frozenset({250, 251})
"""Replies to RCPT that accept the recipient."""


class Transaction:
    """A message for a server that offers PIPELINING."""

    def __init__(
        self,
        client: Commands,
        addresses: list[str],
        mailboxes: list[str],
        content: Content | Iterable[bytes],
        mail_options: list[str],
        rcpt_options: list[str],
        encoding: str,
        timeout: Limit,
    ) -> None:
        """
        Args:
            client: it is connected.
            addresses: of the sender and the recipients, as they were given.
            mailboxes: the same, as `parse_address` returned them.
            content: the content.
            mail_options: parameters of MAIL.
            rcpt_options: parameters of RCPT.
            encoding: of the addresses.
            timeout: of each wait for replies.
        """
        assert client.protocol is not None
        self._client = client
        self._protocol: SMTPProtocol = client.protocol
        self._seconds = client._seconds(timeout)
        self._sender, *self._recipients = addresses
        self._content = content
        sender, *recipients = mailboxes
        self._commands = [command_line(*envelope_words(b"MAIL FROM:", sender, mail_options, encoding))]
        self._commands += [command_line(*envelope_words(b"RCPT TO:", to, rcpt_options, encoding)) for to in recipients]
        self._commands.append(b"DATA\r\n")
        self._replied = 0
        """Commands that have their replies."""
        self._accepted: SMTPResponse | None = None
        """The reply to MAIL."""
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
        """Send MAIL, RCPT and DATA, and then the content; return the last reply.

        Raises:
            SMTPSenderRefused, SMTPRecipientsRefused: nothing is to be sent.
        """
        responses: list[SMTPResponse] = []
        for start in range(0, len(self._commands), WINDOW):
            group = self._commands[start : start + WINDOW]
            responses = await self._protocol.exchange(group, self._take, self._seconds)
            if len(responses) > len(group):
                return responses[-1]
            if responses[-1].code == CLOSING and self._replied < len(self._commands):
                self._client.close()
                self._check()
                raise SMTPServerDisconnected("Server not connected")
            if self._sender_refused and self._replied < len(self._commands):
                self._check()
        ready = responses[-1].code == SMTPStatus.start_input
        if ready and self._nothing:  # an empty message, which the server must refuse (RFC 2920 §3.1)
            await self._protocol.exchange([END], lambda _: None, self._seconds)
        self._check()
        return await self._protocol.send_content(self._content, self._seconds) if ready else responses[-1]

    def _take(self, responses: list[SMTPResponse]) -> bytes | None:
        """Note the replies to a group; return the content if the last of them allows it."""
        for response in responses:
            if self._replied == 0:
                self._accepted = response
            elif self._replied <= len(self._recipients) and response.code not in ACCEPTED:
                self._refused.append(SMTPRecipientRefused(*response, self._recipients[self._replied - 1]))
            self._replied += 1
        content = self._content
        if self._replied < len(self._commands) or responses[-1].code != SMTPStatus.start_input or self._nothing:
            return None
        if isinstance(content, Content) and len(content.lines) <= PIECE:
            return content.lines + content.end
        return None

    @property
    def _sender_refused(self) -> bool:
        return self._accepted is None or self._accepted.code != SMTPStatus.completed

    @property
    def _nothing(self) -> bool:
        """Whether the sender or all recipients were refused."""
        return self._sender_refused or len(self._refused) == len(self._recipients)

    def _check(self) -> None:
        if self._accepted is not None and self._sender_refused:
            raise SMTPSenderRefused(*self._accepted, self._sender)
        if len(self._refused) == len(self._recipients):
            raise SMTPRecipientsRefused(self._refused)
