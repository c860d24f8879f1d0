"""Stock aiosmtpd, smtplib and aiosmtplib do the same with our wire underneath as without it."""

from __future__ import annotations

import asyncio
import smtplib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiosmtplib
import pytest
from aiosmtpd.smtp import SMTP, syntax
from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.compat import backends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def functions() -> dict[str, Any]:
    """What is in place now, by a short name."""
    return {
        "getaddr": SMTP._getaddr,
        "quote": smtplib._quote_periods,
        "ends": smtplib._fix_eols,
        "normalised": aiosmtplib.protocol.normalize_message_line_endings,
        "stuff": aiosmtplib.protocol.PERIOD_REGEX,
    }


STOCK = functions()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    backends.remove(*backends.BACKENDS)


# ---------------------------------------------------------------------------------------------------------------------
# Installing


def test_one_call_installs_and_one_removes() -> None:
    backends.install(*backends.BACKENDS)
    assert backends.installed() == backends.BACKENDS
    assert not {*STOCK.values()} & {*functions().values()}
    backends.install("smtplib")  # again
    backends.remove("aiosmtpd")
    assert backends.installed() == ("smtplib", "aiosmtplib")
    assert SMTP._getaddr is STOCK["getaddr"]
    backends.remove(*backends.BACKENDS)
    assert functions() == STOCK
    assert backends.installed() == ()


@pytest.mark.parametrize("call", [backends.install, backends.remove])
def test_an_unknown_name_is_refused_and_nothing_is_replaced(call: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="'sendmail' has no backend; there are: aiosmtpd, smtplib, aiosmtplib"):
        call("smtplib", "sendmail")
    assert functions() == STOCK


def test_another_version_is_refused_and_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SMTP, "_getaddr")
    with pytest.raises(RuntimeError, match=r"this version of aiosmtpd has no SMTP\._getaddr"):
        backends.install("smtplib", "aiosmtpd")
    assert smtplib._quote_periods is STOCK["quote"]
    assert backends.installed() == ()


# ---------------------------------------------------------------------------------------------------------------------
# Clients

LINES = st.lists(st.sampled_from(["\r\n", "\r", "\n", ".", "..", "a", "é", ".\r\n", ""])).map("".join)


@settings(deadline=None)
@given(LINES)
def test_smtplib_sends_the_same_octets(text: str) -> None:
    backends.install("smtplib")
    octets = text.encode("utf-8")
    assert smtplib._quote_periods(octets) == STOCK["quote"](octets)
    assert smtplib._fix_eols(text) == STOCK["ends"](text)


def test_smtplib_leaves_lone_surrogates_to_the_codec() -> None:
    backends.install("smtplib")
    assert smtplib._fix_eols("a\udcffb\n") == "a\udcffb\r\n"


@settings(deadline=None)
@given(LINES)
def test_aiosmtplib_sends_the_same_octets(text: str) -> None:
    backends.install("aiosmtplib")
    stock = STOCK["normalised"](text.encode())
    for module in (aiosmtplib.protocol, aiosmtplib.smtp):
        assert module.normalize_message_line_endings(text.encode()) == stock
    assert aiosmtplib.protocol.PERIOD_REGEX.sub(b"..", stock) == STOCK["stuff"].sub(b"..", stock)


# ---------------------------------------------------------------------------------------------------------------------
# Server

ATOMS = st.text('abé.-_@<>"\\ ()[]:,=', max_size=12)
PATHS = st.one_of(
    ATOMS.map(lambda text: f"<{text}>"),
    st.tuples(
        st.text("abé.", min_size=1, max_size=70), st.sampled_from(["mx.example", "é.example", "[192.0.2.1]", "x_y"])
    )
    .map("@".join)
    .map("<{}>".format),
    ATOMS,
)


@settings(deadline=None, max_examples=400)
@given(
    PATHS, st.sampled_from(["", " SIZE=10", "SIZE=10", "  BODY=7BIT SIZE=1", " (comment) SIZE=1", ">"]), st.booleans()
)
def test_aiosmtpd_reads_the_same_addresses(path: str, rest: str, limited: bool) -> None:
    backends.install("aiosmtpd")
    server = SimpleNamespace(local_part_limit=5 if limited else 0)
    arg = (path + rest).strip()

    def outcome(read: Callable[..., Any]) -> Any:
        try:
            return read(server, arg)
        except (AttributeError, IndexError) as error:  # of the parser in `email`
            return type(error)

    assert outcome(SMTP._getaddr) == outcome(STOCK["getaddr"])


class Handler:
    """Records what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.seen.append((envelope.mail_from, envelope.rcpt_tos, envelope.content, envelope.original_content))
        return "250 2.0.0 taken"


class OldHandler:
    """The hook of smtpd."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def process_message(self, peer: Any, mail_from: str, rcpt_tos: list[str], data: Any) -> str | None:
        self.seen.append((mail_from, rcpt_tos, data))
        return None if b"x" in data else "550 no"


async def converse(handler: Any, pieces: Sequence[bytes], server_class: type[SMTP] = SMTP, **options: Any) -> bytes:
    """The replies of a server to these pieces, each written by itself; the last ends with QUIT."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: server_class(handler, hostname="mx.example", **options), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        replies = await reader.read()
        writer.close()
        await writer.wait_closed()
        return replies


def without_and_with(handler_class: Callable[[], Any], pieces: Sequence[bytes], **options: Any) -> list[Any]:
    """The replies and what the handler saw, without the backend and with it."""
    results = []
    for backend in ((), ("aiosmtpd",)):
        backends.install(*backend)
        handler = handler_class()
        results.append((asyncio.run(converse(handler, pieces, **options)), handler.seen))
    return results


START = b"EHLO client.example\r\nMAIL FROM:<ada@mail.example> SIZE=7\r\nRCPT TO:<jo@mx.example>\r\nDATA\r\n"
CONTENTS = [
    b".\r\n",
    b"x\r\n.\r\n",
    b"..\r\n...\r\n.x\r\nx.\r\n.\r\n",
    b"x\n.\nx\r\n.\nx\n.\r\nx\r.\rx\r\n.\r\n",
    b"\r\n.\r\r\n\r\n.\r\n",
    b"\x00\xff\r\n.\r\n",
    b"x" * 999 + b"\r\n.\r\n",
    b"x" * 1000 + b"\r\n.\r\n",
    b"x" * 5000 + b"\r\n.\r\n",
    b"a\r\n" * 700 + b".\r\n",
    b"a\r\n" * 700 + b"x" * 3000 + b"\r\n.\r\n",
    b"x" * 3000 + b"\r\n" + b"a\r\n" * 700 + b".\r\n",
]
OPTIONS: list[dict[str, Any]] = [
    {"data_size_limit": 2000},
    {"data_size_limit": None},
    {"decode_data": True},
    {"decode_data": True, "enable_SMTPUTF8": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: repr(content[:20]))
@pytest.mark.parametrize("size", [1 << 20, 1, 700])
def test_aiosmtpd_gives_its_handler_the_same_mail(content: bytes, options: dict[str, Any], size: int) -> None:
    """Two messages, one after the other without waiting, in pieces of different sizes."""
    stream = START + content + START.replace(b"EHLO client.example\r\n", b"RSET\r\n") + content + b"QUIT\r\n"
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    stock, ours = without_and_with(Handler, pieces, **options)
    assert ours == stock
    assert stock[0].count(b"\r\n354 ") == 2


def test_aiosmtpd_calls_the_old_hook() -> None:
    stream = START + b"x\r\n.\r\n" + START + b"y\r\n.\r\nQUIT\r\n"
    with pytest.warns(DeprecationWarning, match="process_message"):
        stock, ours = without_and_with(OldHandler, [stream])
    assert ours == stock
    assert b"550 no" in stock[0]


@pytest.mark.parametrize(
    "stream",
    [b"DATA\r\nQUIT\r\n", b"EHLO x\r\nDATA\r\nQUIT\r\n", START.replace(b"DATA", b"DATA now") + b"QUIT\r\n",
     b"HELP DATA\r\nQUIT\r\n"],
)  # fmt: skip
def test_aiosmtpd_refuses_data_in_the_same_words(stream: bytes) -> None:
    stock, ours = without_and_with(Handler, [stream])
    assert ours == stock


def test_a_subclass_may_override_commands() -> None:
    class Server(SMTP):
        @syntax("DATA")
        async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 - aiosmtpd's name
            await self.push("454 4.3.0 not now")

    backends.install("aiosmtpd")
    replies = asyncio.run(converse(Handler(), [START + b"QUIT\r\n"], Server))
    assert replies.endswith(b"454 4.3.0 not now\r\n221 Bye\r\n")
