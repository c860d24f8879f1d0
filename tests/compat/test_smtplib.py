"""`ironpost.compat.smtplib`: the results and exceptions of smtplib, in fewer round trips, and with verified TLS."""

from __future__ import annotations

import io
import smtplib as stock
import socket
import ssl
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import issue

from ironpost.compat import aliases, content, smtplib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EXTENSIONS = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8")


class Peer:
    """A scripted server for one connection, which records the pieces that it reads between its replies."""

    def __init__(self, extensions: tuple[str, ...], replies: dict[str, str], *, lmtp: bool = False) -> None:
        self.extensions = extensions
        self.replies = replies
        """By the first words of a command line, in upper case; `content` for the end of the content."""
        self.lmtp = lmtp
        self.lines: list[str] = []
        self.content: list[bytes] = []
        self.groups: list[int] = []
        """How many commands arrived in each read."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._buffer = b""
        self._answers = b""
        self._begun = False
        self._accepted: list[str] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(20)
            self._answers = b"220 mx.example\r\n"
            ended = False
            while not ended:
                self._flush(connection)
                octets = connection.recv(1 << 16)
                if not octets:
                    return
                self._buffer += octets
                before = len(self.lines)
                while b"\r\n" in self._buffer and not ended:
                    line, _, self._buffer = self._buffer.partition(b"\r\n")
                    ended = self._command(connection, line)
                self.groups.append(len(self.lines) - before)
            self._flush(connection)

    def _flush(self, connection: socket.socket) -> None:
        answers, self._answers = self._answers, b""
        connection.sendall(answers)

    def _command(self, connection: socket.socket, octets: bytes) -> bool:
        """React to a command; return whether it was the last one."""
        line = octets.decode()
        self.lines.append(line)
        verb = line[:4].upper()
        answer = next((reply for start, reply in self.replies.items() if line.upper().startswith(start)), None)
        if verb in {"EHLO", "LHLO"}:
            lines = ["mx.example", *self.extensions]
            answer = "\r\n".join([*(f"250-{each}" for each in lines[:-1]), f"250 {lines[-1]}"])
        if verb == "DATA":
            answer = answer or ("354 go" if self._accepted else "503 no recipients")
            if answer.startswith("354"):
                self._answers += f"{answer}\r\n".encode()
                self._flush(connection)
                while not (b"\r\n" + self._buffer).endswith(b"\r\n.\r\n"):
                    self._buffer += connection.recv(1 << 16)
                self.content.append(self._buffer[:-3])
                self._buffer = b""
                answer = self.replies.get("content", "250 taken")
                if self.lmtp:
                    answer = "\r\n".join(self.replies.get(f"content {to}", answer) for to in self._accepted)
        if verb == "RCPT" and not self._begun:
            answer = "503 no sender"
        answer = answer or ("221 bye" if verb == "QUIT" else "250 ok")
        if verb in {"MAIL", "RSET"}:
            self._begun = verb == "MAIL" and answer[0] == "2"
        if verb == "RCPT" and answer[0] == "2":
            self._accepted.append(line.partition("<")[2].partition(">")[0])
        if verb in {"MAIL", "RSET"}:
            self._accepted.clear()
        self._answers += f"{answer}\r\n".encode()
        return answer.startswith(("421", "221"))


@contextmanager
def peer(*extensions: str, lmtp: bool = False, **replies: str) -> Iterator[Peer]:
    names = {name.replace("_", " "): reply for name, reply in replies.items()}
    found = Peer(extensions, names, lmtp=lmtp)
    try:
        yield found
    finally:
        found.listener.close()
        found.thread.join(20)
        assert not found.thread.is_alive()


def outcome(call: Callable[[], Any]) -> Any:
    """The result, or the exception's type and arguments."""
    try:
        return call()
    except stock.SMTPException as error:
        return type(error).__name__, error.args


RECIPIENTS = ["jo@mx.example", "ann@mx.example"]
CASES: list[tuple[dict[str, str], Any]] = [
    ({}, {}),
    ({"RCPT TO:<JO": "550 unknown"}, {"jo@mx.example": (550, b"unknown")}),
    ({"RCPT TO:<ANN": "251 will forward"}, {}),
    ({"RCPT": "450 later"}, ("SMTPRecipientsRefused", (dict.fromkeys(RECIPIENTS, (450, b"later")),))),
    ({"RCPT TO:<ANN": "421 bye"}, ("SMTPRecipientsRefused", ({"ann@mx.example": (421, b"bye")},))),
    ({"MAIL": "550 no"}, ("SMTPSenderRefused", (550, b"no", "ada@mail.example"))),
    ({"MAIL": "421 bye"}, ("SMTPSenderRefused", (421, b"bye", "ada@mail.example"))),
    ({"DATA": "451 later"}, ("SMTPDataError", (451, b"later"))),
    ({"content": "554 spam"}, ("SMTPDataError", (554, b"spam"))),
    ({"content": "421 bye"}, ("SMTPDataError", (421, b"bye"))),
]


@pytest.mark.parametrize("extensions", [(), EXTENSIONS], ids=["plain", "pipelining"])
@pytest.mark.parametrize(("replies", "expected"), CASES, ids=lambda value: repr(value)[:40])
def test_results_are_those_of_smtplib(extensions: tuple[str, ...], replies: dict[str, str], expected: Any) -> None:
    seen = []
    for module in (stock, smtplib):
        server = Peer(extensions, replies)
        client = module.SMTP("127.0.0.1", server.port, local_hostname="client.example", timeout=20)
        found = outcome(lambda client=client: client.sendmail("ada@mail.example", RECIPIENTS, "Subject: x\n\n.dot\n"))
        after = outcome(lambda client=client: client.noop()[0])
        client.close()
        server.listener.close()
        server.thread.join(20)
        seen.append((found, after, [text.replace(b"\r\n..", b"\r\n.") for text in server.content]))
    assert seen[0] == seen[1]
    assert seen[1][0] == expected


@pytest.mark.parametrize("extensions", [(), EXTENSIONS], ids=["plain", "pipelining"])
def test_one_recipient_refused_twice_is_reported_as_by_smtplib(extensions: tuple[str, ...]) -> None:
    seen = []
    for module in (stock, smtplib):
        with peer(*extensions, RCPT="550 unknown") as server, module.SMTP("127.0.0.1", server.port) as client:
            seen.append(outcome(lambda client=client: client.sendmail("ada@mail.example", RECIPIENTS[:1] * 2, "x\n")))
    assert seen == [("SMTPDataError", (503, b"no recipients"))] * 2


@pytest.mark.parametrize("extensions", [(), ("SIZE 1000000",), EXTENSIONS], ids=["plain", "size", "pipelining"])
def test_content_is_encoded_once(extensions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    class Watched(content.Content):
        def __init__(self, octets: bytes) -> None:
            encoded.append(octets)
            super().__init__(octets)

    monkeypatch.setattr(content, "Content", Watched)
    with peer(*extensions) as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        assert client.sendmail("ada@mail.example", RECIPIENTS, b".dot\r\n") == {}
    assert server.content == [b"..dot\r\n"]
    assert encoded == [b".dot\r\n"]


@pytest.mark.parametrize("message", ["Subject: x\n\nlast", b"Subject: x\r\n\r\n.last", b".\r\n"], ids=repr)
def test_the_size_is_that_of_smtplib(message: str | bytes) -> None:
    sizes = []
    for module in (stock, smtplib):
        with peer(*EXTENSIONS) as server, module.SMTP("127.0.0.1", server.port) as client:
            client.sendmail("ada@mail.example", RECIPIENTS, message)
        sizes.append(next(line.rpartition(" ")[2] for line in server.lines if line.startswith("mail")))
    assert sizes[0].startswith("size=")
    assert sizes[1] == sizes[0]


def test_paths_follow_keywords_in_lower_case() -> None:
    """As in Python 3.13, whose tests compare them; older versions do not."""
    with peer(*EXTENSIONS) as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        client.sendmail("ada@mail.example", RECIPIENTS[0], b"x\r\n")
    assert server.lines[1:3] == ["mail from:<ada@mail.example> size=3", "rcpt to:<jo@mx.example>"]


def test_an_envelope_takes_one_round_trip_for_each_hundred_commands() -> None:
    with peer(*EXTENSIONS) as server, smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
        client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n")
        assert server.groups[-1] == 4  # the content is not counted
        many = [f"u{number}@mx.example" for number in range(250)]
        server.groups.clear()
        client.sendmail("ada@mail.example", many, b"y" * 100_000 + b"\r\n")
        assert sum(server.groups) == 252
        assert server.content == [b"x\r\n", b"y" * 100_000 + b"\r\n"]


def test_r5_no_content_is_sent_before_its_envelope_is_accepted() -> None:
    """A server may offer CHUNKING, and read the octets of a chunk that it refused as commands."""
    with peer(*EXTENSIONS, "CHUNKING", RCPT="550 no") as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        with pytest.raises(stock.SMTPRecipientsRefused):
            client.sendmail("ada@mail.example", RECIPIENTS, b"RSET\r\nMAIL FROM:<evil@mail.example>\r\n")
        assert [line[:4].upper() for line in server.lines] == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "RSET"]


def test_a_server_that_continues_without_recipients_gets_an_empty_message() -> None:
    with peer(*EXTENSIONS, RCPT="550 no", DATA="354 go", content="554 no recipients") as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            with pytest.raises(stock.SMTPRecipientsRefused):
                client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n")
            assert client.noop()[0] == 250
        assert server.content == [b""]


KINDS: dict[str, Callable[[], Any]] = {
    "file": lambda: io.BytesIO(b"one\n.two\r\nthree"),
    "iterator": lambda: iter([b"one", b"\n.tw", b"o\r", b"\nthree"]),
    "bytes": lambda: b"one\n.two\rthree",
    "bytearray": lambda: bytearray(b"one\n.two\nthree\n"),
    "text": lambda: "one\n.two\r\nthree",
}
"""The same content in every form that the clients take."""
ENCODED = b"one\r\n..two\r\nthree\r\n"


@pytest.mark.parametrize("extensions", [(), EXTENSIONS])
@pytest.mark.parametrize("kind", KINDS)
def test_r3_content_of_every_kind_is_sent_with_crlf(kind: str, extensions: tuple[str, ...]) -> None:
    with peer(*extensions) as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        assert client.sendmail("ada@mail.example", RECIPIENTS[0], KINDS[kind]()) == {}
    assert server.content == [ENCODED]


FIRST = b"Subject: half\r\n\r\n"


def failing() -> Iterator[bytes]:
    """Content whose source fails after two pieces, of which the first has been sent."""
    yield FIRST
    yield b"."
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize("extension", ["HELP", "PIPELINING"])
def test_content_that_cannot_be_read_ends_the_connection(extension: str) -> None:
    replies = {b"ehlo": f"250-mx.example\r\n250 {extension}\r\n".encode(), b"data": b"354 go\r\n"}
    content: list[bytes] = []

    def serve() -> None:
        with listener.accept()[0] as connection, connection.makefile("rwb", buffering=0) as stream:
            stream.write(b"220 mx.example\r\n")
            line = b""
            while line != b"data\r\n":
                line = stream.readline()
                stream.write(replies.get(line[:4], b"250 ok\r\n"))
            content.append(stream.readall())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with smtplib.SMTP("127.0.0.1", listener.getsockname()[1], timeout=20) as client:
            with pytest.raises(RuntimeError, match="the disk is gone"):
                client.sendmail("ada@mail.example", RECIPIENTS[0], failing())
            with pytest.raises(stock.SMTPServerDisconnected):
                client.noop()
        server.join(20)
    assert content == [FIRST]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.sendmail("ada@mail.example\r\nRSET", RECIPIENTS, b"x\r\n"),
        lambda client: client.sendmail("ada@mail.example", ["jo@mx.example\nRSET"], b"x\r\n"),
        lambda client: client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n", mail_options=["SIZE=1\r\nRSET"]),
        lambda client: client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n", rcpt_options=["NOTIFY=NEVER\nRSET"]),
        lambda client: client.ehlo("client\r\nRSET"),
        lambda client: client.docmd("NOOP", "x\nRSET"),
        lambda client: client.verify("jo\rRSET"),
    ],
)
@pytest.mark.parametrize("extensions", [(), EXTENSIONS])
def test_r17_no_argument_starts_another_line(call: Callable[[Any], Any], extensions: tuple[str, ...]) -> None:
    with peer(*extensions) as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        with suppress(ValueError):  # smtplib leaves them out of addresses
            call(client)
        client.noop()
        assert not [line for line in server.lines if line.startswith("RSET")]


def test_addresses_outside_ascii_need_smtputf8() -> None:
    with peer("PIPELINING") as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        with pytest.raises(stock.SMTPNotSupportedError):
            client.sendmail("ada@mail.example", ["jö@mx.example"], b"x\r\n", mail_options=["SMTPUTF8"])
        with pytest.raises(UnicodeEncodeError):
            client.sendmail("ada@mail.example", ["jö@mx.example"], b"x\r\n")
    with peer(*EXTENSIONS) as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        client.sendmail("ada@mail.example", ["jö@mx.example"], b"x\r\n", mail_options=["SMTPUTF8"])
        assert "rcpt to:<jö@mx.example>" in server.lines


class Subclassed(smtplib.SMTP):
    """Notes which of its commands are called, and what `data` is given."""

    called: list[str]
    given: Any

    def mail(self, sender: str, options: Any = ()) -> Any:
        self.called = ["mail"]
        return super().mail(sender, options)

    def rcpt(self, recip: str, options: Any = ()) -> Any:
        self.called.append(recip)
        return super().rcpt(recip, options)

    def data(self, msg: Any) -> Any:
        self.called.append("data")
        self.given = msg
        return super().data(msg)


@pytest.mark.parametrize("kind", KINDS)
def test_commands_of_a_subclass_are_called(kind: str) -> None:
    with peer(*EXTENSIONS) as server, Subclassed("127.0.0.1", server.port) as client:
        message = KINDS[kind]()
        assert client.sendmail("ada@mail.example", RECIPIENTS, message) == {}
        assert client.called == ["mail", *RECIPIENTS, "data"]
        assert client.given is message or client.given == b"one\r\n.two\r\nthree\r\n"
    assert server.content == [ENCODED]


@pytest.mark.parametrize(("replies", "expected"), CASES, ids=lambda value: repr(value)[:40])
def test_results_of_a_subclass_are_those_of_smtplib(replies: dict[str, str], expected: Any) -> None:
    server = Peer(EXTENSIONS, replies)
    client = Subclassed("127.0.0.1", server.port, local_hostname="client.example", timeout=20)
    assert outcome(lambda: client.sendmail("ada@mail.example", RECIPIENTS, io.BytesIO(b"x\r\n"))) == expected
    closed = "421" in repr(expected)
    assert outcome(client.noop) == (
        ("SMTPServerDisconnected", ("please run connect() first",)) if closed else (250, b"ok")
    )
    client.close()
    server.listener.close()
    server.thread.join(20)


def test_commands_of_a_subclass_of_lmtp_are_called() -> None:
    class Client(Subclassed, smtplib.LMTP):
        pass

    with peer(lmtp=True, **{"content_jo@mx.example": "452 full"}) as server, Client("127.0.0.1", server.port) as client:
        assert client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n") == {"jo@mx.example": (452, b"full")}
        assert client.called == ["mail", *RECIPIENTS, "data"]
        assert client.noop() == (250, b"ok")


def test_lmtp_reads_the_reply_of_each_recipient() -> None:
    replies = {"content_jo@mx.example": "452 full", "content_ann@mx.example": "250 taken"}
    with peer("PIPELINING", lmtp=True, **replies) as server, smtplib.LMTP("127.0.0.1", server.port) as client:
        refused = client.sendmail("ada@mail.example", [*RECIPIENTS, "ann@mx.example"], b"x\r\n")
        assert refused == {"jo@mx.example": (452, b"full")}
        assert client.noop() == (250, b"ok")


def test_lmtp_without_a_recipient_that_took_the_mail_raises() -> None:
    with peer(lmtp=True, content="452 full") as server, smtplib.LMTP("127.0.0.1", server.port) as client:
        with pytest.raises(stock.SMTPDataError) as caught:
            client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n")
        assert caught.value.smtp_code == 452
        assert client.noop()[0] == 250


def test_lmtp_over_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "lmtp"))
        listener.listen()

        def greet() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"220 mx.example\r\n")

        server = threading.Thread(target=greet)
        server.start()
        client = smtplib.LMTP(str(tmp_path / "lmtp"))
        server.join()
        client.close()
    with pytest.raises(FileNotFoundError):
        smtplib.LMTP(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="Non-blocking"):
        smtplib.LMTP(str(tmp_path / "none"), timeout=0)


# ---------------------------------------------------------------------------------------------------------------------
# TLS


@contextmanager
def tls_server(context: ssl.SSLContext, *, implicit: bool) -> Iterator[int]:
    """A server that does one handshake and then answers everything with 250."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                if not implicit:
                    connection.sendall(b"220 mx.example\r\n")
                    connection.recv(1000)
                    connection.sendall(b"250-mx.example\r\n250 STARTTLS\r\n")
                    connection.recv(1000)
                    connection.sendall(b"220 go\r\n")
                with context.wrap_socket(connection, server_side=True) as secured:
                    if implicit:
                        secured.sendall(b"220 mx.example\r\n")
                    while line := secured.recv(1000):
                        secured.sendall(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")
            except OSError:
                pass  # the client went away

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(20)


@pytest.mark.parametrize("implicit", [False, True])
def test_r13_tls_is_verified_unless_a_context_is_given(
    implicit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = issue(authority=True, common_name="root")
    issue("127.0.0.1", by=root).write(tmp_path / "chain.pem", tmp_path / "key.pem", alone=True)
    (tmp_path / "root.pem").write_bytes(root.pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")

    def connect(port: int, **options: Any) -> None:
        if implicit:
            with smtplib.SMTP_SSL("127.0.0.1", port, timeout=20, **options) as client:
                assert client.noop()[0] == 250
        else:
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                client.starttls(**options)
                assert client.noop()[0] == 250

    with tls_server(server, implicit=implicit) as port, pytest.raises(ssl.SSLCertVerificationError):
        connect(port)
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    with tls_server(server, implicit=implicit) as port:
        connect(port, context=anyone)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    with tls_server(server, implicit=implicit) as port:
        connect(port)


# ---------------------------------------------------------------------------------------------------------------------
# The alias


def test_programs_that_cannot_be_edited_get_it_under_its_name() -> None:
    aliases.install("smtplib")
    try:
        import smtplib as aliased

        assert aliased is smtplib
        assert aliased.SMTP_PORT == 25
        assert issubclass(aliased.SMTP, stock.SMTP)
    finally:
        aliases.remove("smtplib")
    assert sys.modules["smtplib"] is stock


def test_an_unknown_alias_is_refused() -> None:
    with pytest.raises(ValueError, match="'email' has no replacement; there are: smtplib"):
        aliases.install("smtplib", "email")
    assert sys.modules["smtplib"] is stock
