"""The standard library's smtplib, faster and safer: `from ironpost.compat import smtplib`.

**TLS is verified by default.** `starttls()` and `SMTP_SSL` use `ssl.create_default_context()` where smtplib trusts
anyone; for a server with a self-signed certificate give a `context`.

**A login needs TLS**, except at this machine: without it AUTH raises SMTPNotSupportedError, unless `login_without_tls`
is set on the client or the class (SECURITY R13).

Promises: names, arguments, results and exceptions are those of the running Python's smtplib, whose classes these are
subclasses of. `sendmail` and `send_message` send MAIL, RCPT and DATA together where the server offers PIPELINING.
Content may also be a file or an iterable of bytes, of which one piece is in memory; if it cannot be read, the
connection is closed. No bare CR or LF is sent as content: each becomes CRLF (SECURITY R3); commands with either are
refused with ValueError, as in smtplib. `LMTP` reads the reply for each recipient, of which smtplib leaves all but the
first unread. A class that overrides `mail`, `rcpt`, `data`, `getreply`, `putcmd` or `send` has them called one after
the other; `data` of an LMTP client returns the reply for the first recipient, and leaves the others.

BDAT is not used: content that is sent before its envelope is accepted could be executed as commands (SECURITY R5), and
after that it saves nothing.

Standards: RFC 5321 §4.1.1, §4.5.2; RFC 2920 §3.1 (pipelining); RFC 2033 §4.2 (LMTP).
"""

from __future__ import annotations

import inspect
import smtplib as stock
import socket
import ssl
from functools import cache
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
from typing import TYPE_CHECKING, Any, TypeAlias

from ironpost.compat.content import END, PIECE, Content, content_of, encoded_pieces
from ironpost.compat.envelope import WINDOW, is_plain
from ironpost.compat.login import REFUSAL, is_this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ironpost.compat.content import RawMessage

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


def __getattr__(name: str) -> Any:
    """What smtplib has besides the names here, such as its constants."""
    return getattr(stock, name)


def quoteaddr(addrstring: str) -> str:
    """Return an address in angle brackets; see `smtplib.quoteaddr`."""
    return f"<{addrstring}>" if is_plain(addrstring) else stock.quoteaddr(addrstring)


class SMTP(stock.SMTP):
    """A connection to an SMTP server; see `smtplib.SMTP`."""

    login_without_tls: bool = False
    """Allow a login at another machine without TLS; an eavesdropper can then read what the mechanism sends."""

    _connected_to: str = ""
    """The host that `connect` was given; smtplib keeps only that of the constructor, in `_host`."""

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> Answer:
        """Connect to a server; return its greeting."""
        self._connected_to = host
        return super().connect(host, port, source_address)

    def _get_socket(self, host: str, port: int, timeout: float | None) -> Any:
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        if self.debuglevel > 0:
            self._print_debug("connect: to", (host, port), self.source_address)  # type: ignore[attr-defined]
        connection = socket.create_connection((host, port), timeout, self.source_address)
        connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        return connection

    def starttls(self, *args: Any, **kwargs: Any) -> Answer:
        """Put the connection into TLS mode, with a verified certificate unless `context` says otherwise."""
        return super().starttls(**_verifying(stock.SMTP.starttls, self, args, kwargs))

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Send a command.

        Raises:
            SMTPNotSupportedError: it is AUTH, which would be sent unencrypted to another machine.
        """
        if f"{cmd} {args}".lstrip()[:4].upper() == "AUTH" and not self._may_log_in():
            raise SMTPNotSupportedError(REFUSAL)
        super().putcmd(cmd, args)

    def _may_log_in(self) -> bool:
        if self.login_without_tls or self.sock is None or isinstance(self.sock, ssl.SSLSocket):
            return True
        host = self._connected_to or self._host  # type: ignore[attr-defined]
        if host.startswith("/"):
            return True  # a Unix socket
        if host.count(":") == 1:
            host = host.partition(":")[0]  # without the port
        try:
            return is_this_machine(host, self.sock.getpeername())
        except OSError:
            return True  # the connection is lost, which sending reports

    def data(self, msg: Content | RawMessage) -> Answer:  # type: ignore[override]
        """Send DATA and the content; return the reply to it.

        Raises:
            SMTPDataError: the server does not want the content.
        """
        content = content_of(msg)
        self.putcmd("data")
        answer = self.getreply()
        if answer[0] != 354:
            raise SMTPDataError(*answer)
        self._send_content(content)
        return self.getreply()

    def sendmail(  # type: ignore[override]
        self,
        from_addr: str,
        to_addrs: str | Sequence[str],
        msg: RawMessage,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, Answer]:
        """Send a message; return the replies to the recipients that were refused. See `smtplib.SMTP.sendmail`.

        Raises:
            SMTPSenderRefused, SMTPDataError: the server refused the sender or the content.
            SMTPRecipientsRefused: it refused all recipients.
        """
        self.ehlo_or_helo_if_needed()
        content = content_of(msg)
        recipients = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        message = _Message(self, from_addr, recipients, content, mail_options, rcpt_options)
        cls: Any = type(self)  # mypy takes it for unhashable
        if _overrides(cls):
            return message.send_by_methods()
        return message.send(WINDOW if self.does_esmtp and self.has_extn("pipelining") else 1)

    def _send_content(self, content: Content | Iterable[bytes]) -> None:
        """Send content with CRLF, doubled dots and the final dot (RFC 5321 §4.5.2)."""
        if isinstance(content, Content):
            if len(content.lines) > PIECE:
                self.send(content.lines)
                self.send(content.end)
            else:
                self.send(content.lines + content.end)
            return
        try:
            for piece in encoded_pieces(content):
                self.send(piece)
        except BaseException:
            self.close()  # a later command would become part of the content
            raise


@cache
def _overrides(cls: type[SMTP]) -> bool:
    """Whether a class overrides a command, or how it is sent."""
    names = ("mail", "rcpt", "data", "getreply", "putcmd", "send")
    return any(getattr(cls, name) is not getattr(SMTP, name) for name in names)


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
        self._connected_to = host
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
        content: Content | Iterable[bytes],
        mail_options: Sequence[str],
        rcpt_options: Sequence[str],
    ) -> None:
        self._client = client
        self._sender = sender
        self._recipients = recipients
        self._content = content
        esmtp = client.does_esmtp
        options = []
        if esmtp and client.has_extn("size") and isinstance(content, Content):
            options.append(f"size={content.given_size}")
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
        if final[0] != 354:
            raise SMTPDataError(*final)
        self._client._send_content(self._content)
        return self._finish(self._client.getreply())

    def send_by_methods(self) -> dict[str, Answer]:
        """The same by the client's `mail`, `rcpt` and `data`, which its class may override."""
        client, content = self._client, self._content
        answer = sender = client.mail(self._sender, self._mail_options)
        for recipient in self._recipients if sender[0] == 250 else ():
            answer = client.rcpt(recipient, self._rcpt_options)
            self._take(recipient, answer)
            if answer[0] == 421:
                break
        if answer[0] == 421 or sender[0] != 250 or len(self._refused) == len(self._recipients):
            self._abandon(answer)
            raise self._refusal(sender)
        if isinstance(content, Content) and type(client).data is not SMTP.data:
            return self._finish(client.data(content.normalised))
        return self._finish(client.data(content))

    def _envelope(self, window: int) -> Answer:
        """Send MAIL, RCPT and DATA; return the reply to DATA.

        Raises:
            SMTPSenderRefused, SMTPRecipientsRefused: nothing is to be sent; the transaction has been reset.
        """
        client, recipients = self._client, self._recipients
        commands = self._commands()
        sender: Answer = (-1, b"")
        answer = sender
        for start in range(0, len(commands), window):
            if start and (sender[0] != 250 or start > len(recipients) == len(self._refused)):
                break
            group = commands[start : start + window]
            client.send(b"".join(group))
            for number in range(start, start + len(group)):
                answer = client.getreply()
                if number == 0:
                    sender = answer
                elif number > len(recipients):
                    break
                else:
                    self._take(recipients[number - 1], answer)
                if answer[0] == 421:
                    client.close()
                    raise self._refusal(sender)
        if sender[0] != 250 or len(self._refused) == len(recipients):
            if answer[0] == 354:  # an empty message, which the server must refuse (RFC 2920 §3.1)
                client.send(END)
                client.getreply()
            client._rset()  # type: ignore[attr-defined]
            raise self._refusal(sender)
        return answer

    def _commands(self) -> list[bytes]:
        """MAIL, RCPT and DATA.

        Raises:
            ValueError: an address or an option contains CR or LF.
        """
        mail = " ".join(["", *self._mail_options])
        rcpt = " ".join(["", *self._rcpt_options])
        commands = [f"mail from:{quoteaddr(self._sender)}{mail}"]
        commands += [f"rcpt to:{quoteaddr(to)}{rcpt}" for to in self._recipients]
        for each in commands:
            if "\r" in each or "\n" in each:
                text = each.replace("\n", "\\n").replace("\r", "\\r")
                raise ValueError(f"command and arguments contain prohibited newline characters: {text}")
        return [f"{each}\r\n".encode(self._client.command_encoding) for each in (*commands, "data")]

    def _take(self, recipient: str, answer: Answer) -> None:
        """Note the reply to a recipient."""
        if answer[0] in (250, 251):
            self._accepted.append(recipient)
        else:
            self._refused[recipient] = answer

    def _abandon(self, answer: Answer) -> None:
        """End the transaction after the reply that refused it."""
        if answer[0] == 421:
            self._client.close()
        else:
            self._client._rset()  # type: ignore[attr-defined]

    def _refusal(self, sender: Answer) -> SMTPException:
        if sender[0] != 250:
            return SMTPSenderRefused(*sender, self._sender)
        return SMTPRecipientsRefused(self._refused)

    def _finish(self, final: Answer) -> dict[str, Answer]:
        """Check the reply to the content; LMTP has one for each recipient that was accepted (RFC 2033 §4.2)."""
        client, accepted = self._client, final[0] == 250
        if isinstance(client, LMTP):
            answers = [final, *(client.getreply() for _ in self._accepted[1:])]
            accepted = any(code == 250 for code, _ in answers)
            self._refused |= {to: each for to, each in zip(self._accepted, answers, strict=False) if each[0] != 250}
        if accepted:
            return self._refused
        self._abandon(final)
        raise SMTPDataError(*final)


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
