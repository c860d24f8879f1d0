"""aiosmtpd's ready-made handlers: they print, forward, discard, parse or store messages.

Promises: output, headers and class methods for the command line are aiosmtpd's.
"""

from __future__ import annotations

import logging
import mailbox
import re
import smtplib
import sys
from abc import ABCMeta, abstractmethod
from email.parser import BytesParser, Parser
from typing import TYPE_CHECKING, Any, TextIO

from ironpost.compat.aiosmtpd import _get_or_new_eventloop

if TYPE_CHECKING:
    import asyncio
    import os
    from argparse import ArgumentParser
    from email.message import Message as EmailMessage
    from typing import Self

    from ironpost.compat.aiosmtpd.smtp import SMTP
    from ironpost.compat.aiosmtpd.values import Envelope, Session

NLCRE = re.compile(rb"\r\n|\r|\n")
log = logging.getLogger("mail.debug")


def _format_peer(peer: Any) -> str:
    return f"X-Peer: {peer!r}"


class Debugging:
    """Print every message."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Return a handler from the arguments of the command."""
        streams = {(): None, ("stdout",): sys.stdout, ("stderr",): sys.stderr}
        if args not in streams:
            parser.error("Debugging usage: [stdout|stderr]")
        return cls(streams[args])

    def _print_message_content(self, peer: Any, data: str | bytes) -> None:
        in_header = True
        for line in data.splitlines():
            if in_header and not line:
                print(_format_peer(peer), file=self.stream)
                in_header = False
            print(line.decode("utf-8", "replace") if isinstance(line, bytes) else line, file=self.stream)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002
        """Print a message."""
        print("---------- MESSAGE FOLLOWS ----------", file=self.stream)
        if envelope.mail_options:
            print("mail options:", envelope.mail_options, file=self.stream)
        if any(envelope.rcpt_options):
            print("rcpt options:", envelope.rcpt_options, file=self.stream)
        if envelope.mail_options or any(envelope.rcpt_options):
            print(file=self.stream)
        assert envelope.content is not None
        self._print_message_content(session.peer, envelope.content)
        print("------------ END MESSAGE ------------", file=self.stream)
        return "250 OK"


class Proxy:
    """Forward every message to another server."""

    def __init__(self, remote_hostname: str, remote_port: int) -> None:
        self._hostname = remote_hostname
        self._port = remote_port

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002
        """Forward a message, with the client's address in X-Peer."""
        content = envelope.original_content if isinstance(envelope.content, str) else envelope.content
        assert content is not None
        lines = content.splitlines(keepends=True)
        position, ending = 0, b"\r\n"
        for position, line in enumerate(lines):  # noqa: B007 - used below
            if NLCRE.match(line):
                ending = line
                break
        lines.insert(position, b"X-Peer: " + session.peer[0].encode("ascii") + ending)
        assert envelope.mail_from is not None
        refused = self._deliver(envelope.mail_from, envelope.rcpt_tos, b"".join(lines))
        log.info("we got some refusals: %s", refused)
        return "250 OK"

    def _deliver(self, mail_from: str, rcpt_tos: list[str], data: str | bytes) -> dict[str, Any]:
        """Send a message; return the refused recipients with their reply."""
        refused: dict[str, Any] = {}
        try:
            client = smtplib.SMTP()
            client.connect(self._hostname, self._port)
            try:
                refused = client.sendmail(mail_from, rcpt_tos, data)
            finally:
                client.quit()
        except smtplib.SMTPRecipientsRefused as error:
            log.info("got SMTPRecipientsRefused")
            refused = error.recipients
        except (OSError, smtplib.SMTPException) as error:
            log.exception("got %s", error.__class__)
            reply = getattr(error, "smtp_code", -1), getattr(error, "smtp_error", b"ignore")
            refused.update(dict.fromkeys(rcpt_tos, reply))
        return refused


class Sink:
    """Discard every message."""

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Return a handler from the arguments of the command."""
        if args:
            parser.error("Sink handler does not accept arguments")
        return cls()


class MessageBase(metaclass=ABCMeta):
    """Parse every message."""

    def __init__(self, message_class: type[EmailMessage] | None = None) -> None:
        self.message_class = message_class

    def prepare_message(self, session: Session, envelope: Envelope) -> EmailMessage:
        """Return the message, with the envelope in X- fields.

        Raises:
            TypeError: the content is neither text nor bytes.
        """
        data = envelope.content
        message: EmailMessage
        if isinstance(data, bytes | bytearray):
            message = BytesParser(self.message_class).parsebytes(data)
        elif isinstance(data, str):
            message = Parser(self.message_class).parsestr(data)
        else:
            raise TypeError(f"Expected str or bytes, got {type(data)}")
        message["X-Peer"] = str(session.peer)
        message["X-MailFrom"] = envelope.mail_from or ""
        message["X-RcptTo"] = ", ".join(envelope.rcpt_tos)
        return message

    @abstractmethod
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Handle a message."""


class Message(MessageBase, metaclass=ABCMeta):
    """Pass every message to `handle_message`."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002
        """Handle a message."""
        self.handle_message(self.prepare_message(session, envelope))
        return "250 OK"

    @abstractmethod
    def handle_message(self, message: EmailMessage) -> None:
        """Handle a message."""


class AsyncMessage(MessageBase, metaclass=ABCMeta):
    """Await `handle_message` with every message."""

    def __init__(
        self, message_class: type[EmailMessage] | None = None, *, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(message_class)
        self.loop = loop or _get_or_new_eventloop()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002
        """Handle a message."""
        await self.handle_message(self.prepare_message(session, envelope))
        return "250 OK"

    @abstractmethod
    async def handle_message(self, message: EmailMessage) -> None:
        """Handle a message."""


class Mailbox(Message):
    """Store every message in a Maildir."""

    def __init__(self, mail_dir: str | os.PathLike[str], message_class: type[EmailMessage] | None = None) -> None:
        self.mailbox = mailbox.Maildir(mail_dir)
        self.mail_dir = mail_dir
        super().__init__(message_class)

    def handle_message(self, message: EmailMessage) -> None:
        """Store a message."""
        self.mailbox.add(message)

    def reset(self) -> None:
        """Delete all messages."""
        self.mailbox.clear()

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Return a handler from the arguments of the command."""
        if not args:
            parser.error("The directory for the maildir is required")
        if len(args) > 1:
            parser.error("Too many arguments for Mailbox handler")
        return cls(args[0])
