"""The standard library's smtplib, faster and safer: `from ironpost.compat import smtplib`.

**TLS is verified by default.** `starttls()` and `SMTP_SSL` use `ssl.create_default_context()` where smtplib trusts
anyone; for a server with a self-signed certificate give a `context`.

Promises: names, arguments, results and exceptions are those of the running Python's smtplib, whose classes these are
subclasses of. `sendmail` and `send_message` send MAIL, RCPT and DATA together where the server offers PIPELINING.
Content may also be a file or an iterable of bytes, of which one piece is in memory. No bare CR or LF is sent as
content: each becomes CRLF (SECURITY R3); commands with either are refused with ValueError, as in smtplib. `LMTP` reads
the reply for each recipient, of which smtplib leaves all but the first unread. A class that overrides `mail`, `rcpt`,
`data` or `getreply` has them called one after the other.

BDAT is not used: content that is sent before its envelope is accepted could be executed as commands (SECURITY R5), and
after that it saves nothing.

Standards: RFC 5321 §4.1.1, §4.5.2; RFC 2920 §3.1 (pipelining); RFC 2033 §4.2 (LMTP).
"""

from __future__ import annotations

import inspect
import smtplib as stock
import socket
import ssl
from smtplib import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    quotedata,
)
from socket import IPPROTO_TCP, TCP_NODELAY  # by themselves: a test may replace `socket`
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ironpost import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Content: TypeAlias = str | bytes | bytearray | memoryview | Iterable[bytes]
    """Text in ASCII, octets, or a file or iterable of octets."""
    Answer: TypeAlias = tuple[int, bytes]
    """Code and text of a reply."""

__all__ = [
    "LMTP",
    "SMTP",
    "SMTP_SSL",
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPNotSupportedError",
    "SMTPRecipientsRefused",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "quoteaddr",
    "quotedata",
]

WINDOW: Final = 100
"""Maximum commands that wait for their replies; all these replies fit into the buffers of a socket (RFC 2920 §3.1)."""
PIECE: Final = 256 * 1024
"""Octets that are read from a file at a time."""


def __getattr__(name: str) -> Any:
    """What smtplib has besides the names here, such as its constants."""
    return getattr(stock, name)


def quoteaddr(addrstring: str) -> str:
    """Return an address in angle brackets; see `smtplib.quoteaddr`."""
    if not {*'"<(,'} & {*addrstring}:
        try:
            wire.parse_mailbox(addrstring)
        except wire.WireFault:
            pass
        else:
            return f"<{addrstring}>"
    return stock.quoteaddr(addrstring)


class SMTP(stock.SMTP):
    """A connection to an SMTP server; see `smtplib.SMTP`."""

    _together: list[bytes] | None = None
    """The commands that are to be sent with one call, while they are collected."""

    def _get_socket(self, host: str, port: int, timeout: float | None) -> Any:
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        if self.debuglevel > 0:
            self._print_debug("connect: to", (host, port), self.source_address)  # type: ignore[attr-defined]
        connection = socket.create_connection((host, port), timeout, self.source_address)
        connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        return connection

    def send(self, s: Any) -> None:
        """Send text or octets; while commands are collected, keep them."""
        if self._together is None:
            super().send(s)
            return
        if self.debuglevel > 0:
            self._print_debug("send:", repr(s))  # type: ignore[attr-defined]
        self._together.append(s.encode(self.command_encoding) if isinstance(s, str) else s)

    def starttls(self, *args: Any, **kwargs: Any) -> Answer:
        """Put the connection into TLS mode, with a verified certificate unless `context` says otherwise."""
        return super().starttls(**_verifying(stock.SMTP.starttls, self, args, kwargs))

    def data(self, msg: Content) -> Answer:  # type: ignore[override]
        """Send DATA and the content; return the reply to it.

        Raises:
            SMTPDataError: the server does not want the content.
        """
        self.putcmd("data")
        answer = self.getreply()
        if answer[0] != 354:
            raise SMTPDataError(*answer)
        self._send_content(msg)
        return self.getreply()

    def sendmail(  # type: ignore[override]
        self,
        from_addr: str,
        to_addrs: str | Sequence[str],
        msg: Content,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, Answer]:
        """Send a message; return the replies to the recipients that were refused. See `smtplib.SMTP.sendmail`.

        Raises:
            SMTPSenderRefused, SMTPDataError: the server refused the sender or the content.
            SMTPRecipientsRefused: it refused all recipients.
        """
        self.ehlo_or_helo_if_needed()
        if isinstance(msg, str):
            msg = msg.encode("ascii")
        content = _normalised(bytes(msg)) if isinstance(msg, bytes | bytearray | memoryview) else msg
        pipelines = self.does_esmtp and self.has_extn("pipelining") and not self._overridden()
        if not pipelines and isinstance(content, bytes) and not isinstance(self, LMTP):
            return super().sendmail(from_addr, to_addrs, content, mail_options, rcpt_options)
        recipients = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        message = _Message(self, from_addr, recipients, content, mail_options, rcpt_options)
        return message.send(WINDOW if pipelines else 1)

    def _overridden(self) -> bool:
        """Whether a subclass overrides a command."""
        kind = type(self)
        return (kind.mail, kind.rcpt, kind.data, kind.getreply) != (SMTP.mail, SMTP.rcpt, SMTP.data, SMTP.getreply)

    def _send_content(self, content: Content) -> None:
        """Send content with CRLF, doubled dots and the final dot (RFC 5321 §4.5.2)."""
        encoder = wire.DataEncoder("normalise")
        waiting = b""  # so that content in one piece is sent with its final dot
        for piece in _pieces(content):
            if waiting:
                self.send(waiting)
            waiting = encoder.feed(piece)
        self.send(waiting + encoder.finish())


class SMTP_SSL(stock.SMTP_SSL, SMTP):  # noqa: N801 - smtplib's name
    """A connection that is encrypted from its start; see `smtplib.SMTP_SSL`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create it, with a verified certificate unless `context` says otherwise."""
        super().__init__(**_verifying(stock.SMTP_SSL.__init__, self, args, kwargs))


class LMTP(stock.LMTP, SMTP):
    """A connection to an LMTP server; see `smtplib.LMTP`."""

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> Answer:
        """Connect to a server at an absolute path or at an address; return its greeting."""
        if host[0] != "/":
            return SMTP.connect(self, host, port, source_address)
        if self.timeout is not None and not self.timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        self.file: Any = None
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self.timeout is not stock.socket._GLOBAL_DEFAULT_TIMEOUT:  # type: ignore[attr-defined]
                self.sock.settimeout(self.timeout)
            self.sock.connect(host)
        except OSError:
            self.sock.close()
            self.sock = None
            raise
        return self.getreply()


class _Message:
    """One message, sent with up to a window of commands at a time."""

    def __init__(
        self,
        client: SMTP,
        sender: str,
        recipients: list[str],
        content: Content,
        mail_options: Sequence[str],
        rcpt_options: Sequence[str],
    ) -> None:
        self._client = client
        self._sender = sender
        self._recipients = recipients
        self._content = content
        esmtp = client.does_esmtp
        options = [f"size={len(content)}"] if esmtp and client.has_extn("size") and isinstance(content, bytes) else []
        self._mail_options = [*options, *mail_options] if esmtp else []
        self._rcpt_options = [*rcpt_options] if esmtp else []
        if any(option.lower() == "smtputf8" for option in self._mail_options):
            if not client.has_extn("smtputf8"):
                raise SMTPNotSupportedError("SMTPUTF8 not supported by server")
            client.command_encoding = "utf-8"
        self._accepted: list[str] = []
        self._refused: dict[str, Answer] = {}

    def send(self, window: int) -> dict[str, Answer]:
        """Send it; return the recipients that were refused, with the replies."""
        final = self._envelope(window)
        if final is None:  # the commands were sent one at a time
            self._client.putcmd("data")
            final = self._client.getreply()
        if final[0] != 354:
            raise SMTPDataError(*final)
        self._client._send_content(self._content)
        return self._finish(self._client.getreply())

    def _envelope(self, window: int) -> Answer | None:
        """Send MAIL and RCPT, and with the last of them DATA if a window allows it; return the reply to that.

        Raises:
            SMTPSenderRefused, SMTPRecipientsRefused: nothing is to be sent; the transaction has been reset.
        """
        client = self._client
        mail = "".join(f" {option}" for option in self._mail_options)
        rcpt = "".join(f" {option}" for option in self._rcpt_options)
        commands = [("mail", f"FROM:{quoteaddr(self._sender)}{mail}")]
        commands += [("rcpt", f"TO:{quoteaddr(to)}{rcpt}") for to in self._recipients]
        sender: Answer | None = None
        final: Answer | None = None
        for start in range(0, len(commands), window):
            group = commands[start : start + window]
            last = window > 1 and start + window >= len(commands)
            client._together = []
            try:
                for command in group:
                    client.putcmd(*command)
                if last:
                    client.putcmd("data")
            finally:
                together, client._together = client._together, None
            client.send(b"".join(together))
            for number in range(start, start + len(group)):
                answer = client.getreply()
                if number == 0:
                    sender = answer
                elif answer[0] in (250, 251):
                    self._accepted.append(self._recipients[number - 1])
                else:
                    self._refused[self._recipients[number - 1]] = answer
                if answer[0] == 421:
                    client.close()
                    assert sender is not None
                    raise self._refusal(sender)
            if last:
                final = client.getreply()
            assert sender is not None
            if sender[0] != 250:
                break
        assert sender is not None
        if sender[0] != 250 or len(self._refused) == len(self._recipients):
            if final is not None and final[0] == 354:  # an empty message, which the server must refuse (RFC 2920 §3.1)
                client.send(b".\r\n")
                client.getreply()
            client._rset()  # type: ignore[attr-defined]
            raise self._refusal(sender)
        return final

    def _refusal(self, sender: Answer) -> SMTPException:
        if sender[0] != 250:
            return SMTPSenderRefused(*sender, self._sender)
        return SMTPRecipientsRefused(self._refused)

    def _finish(self, final: Answer) -> dict[str, Answer]:
        """Check the reply to the content; LMTP has one for each recipient that was accepted (RFC 2033 §4.2)."""
        answers = [final]
        if isinstance(self._client, LMTP):
            answers += [self._client.getreply() for _ in self._accepted[1:]]
        if all(code != 250 for code, _ in answers):
            if final[0] == 421:
                self._client.close()
            else:
                self._client._rset()  # type: ignore[attr-defined]
            raise SMTPDataError(*final)
        self._refused |= {to: answer for to, answer in zip(self._accepted, answers, strict=False) if answer[0] != 250}
        return self._refused


def _pieces(content: Content) -> Iterator[bytes]:
    """The content in pieces of octets."""
    if isinstance(content, str):
        yield content.encode("ascii")
    elif isinstance(content, bytes | bytearray | memoryview):
        yield bytes(content)
    elif (read := getattr(content, "read", None)) is not None:
        while piece := read(PIECE):
            yield piece
    else:
        yield from content


def _normalised(octets: bytes) -> bytes:
    """Octets with CRLF for each line end, and one at the end."""
    try:
        wire.DataEncoder("reject").feed(octets)
    except wire.WireFault:
        pass
    else:
        if octets.endswith(b"\r\n"):
            return octets
    encoder = wire.DataEncoder("normalise")
    return wire.dot_unstuff((encoder.feed(octets) + encoder.finish()).removesuffix(b".\r\n"))


def _verifying(
    function: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call, by name, with a context that verifies the server unless one was given."""
    arguments = inspect.signature(function).bind(client, *args, **kwargs).arguments
    del arguments["self"]
    if arguments.get("context") is None:
        certificate = arguments.pop("certfile", None)
        key = arguments.pop("keyfile", None)  # both only before Python 3.12
        arguments["context"] = context = ssl.create_default_context()
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    return arguments
