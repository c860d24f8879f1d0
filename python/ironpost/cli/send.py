"""`send`: one message to one server, with a progress bar on large files."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.client import Client, ClientError, ConnectFailed, SendResult
from ironpost.model import Address
from ironpost.model.body import PIECE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

START = "one starts here with: ironpost serve; --host and --port name another"
SHOWN = 1 << 20
"""Octets from which a terminal gets a progress bar."""


class _Source:
    """An open file, as content that the client streams."""

    def __init__(self, file: IO[bytes], size: int | None, advance: Callable[[int], object]) -> None:
        self._file = file
        self._advance = advance
        if size is not None:
            self.size = size

    async def pieces(self) -> AsyncIterator[bytes]:
        while piece := await asyncio.to_thread(self._file.read, PIECE):
            yield piece
            self._advance(len(piece))


def send(name: str, to: list[str], sender: str, host: str, port: int) -> None:
    """Sends the file `name` (`-` is standard input) and prints the server's reply.

    Raises:
        Stop: nobody took it, or somebody did not.
    """
    recipients = [_address(text) for text in to]
    reverse_path = _address(sender) if sender else Address("", "")
    with ExitStack() as stack:
        file, size = _open(name, stack)
        advance = _bar(size, stack)
        try:
            result = asyncio.run(_send(host, port, reverse_path, recipients, _Source(file, size, advance)))
        except ConnectFailed as error:
            words = " ".join(error.reply.text)
            raise Stop(exits.UNAVAILABLE, f"{error.remote}: {words}\nis a server running there? {START}") from None
        except ClientError as error:
            code = exits.TEMPORARY if error.reply.transient else exits.REFUSED
            raise Stop(code, str(error)) from None
    typer.echo(str(result.reply))
    if result.refused:
        worst = exits.REFUSED if any(reply.permanent for reply in result.refused.values()) else exits.TEMPORARY
        raise Stop(worst, "\n".join(f"{address}: {reply}" for address, reply in result.refused.items()))


async def _send(host: str, port: int, sender: Address, recipients: list[Address], source: _Source) -> SendResult:
    async with Client(host, port) as client:
        return await client.send(sender, recipients, source)


def _address(text: str) -> Address:
    try:
        address = Address.parse(text)
    except ValueError as fault:
        raise Stop(exits.USAGE, f"{text}: this is no address: {fault}") from None
    if address.is_null:
        raise Stop(exits.USAGE, "an empty address is nobody's")
    return address


def _open(name: str, stack: ExitStack) -> tuple[IO[bytes], int | None]:
    if name == "-":
        return sys.stdin.buffer, None
    try:
        file: IO[bytes] = Path(name).open("rb")  # noqa: SIM115 - the stack closes it
    except OSError as error:
        raise Stop(exits.NO_INPUT, f"{name}: {error.strerror}") from None
    stack.enter_context(file)
    status = os.fstat(file.fileno())
    return file, status.st_size if stat.S_ISREG(status.st_mode) else None


def _bar(size: int | None, stack: ExitStack) -> Callable[[int], object]:
    if size is None or size < SHOWN or not sys.stderr.isatty():
        return lambda _octets: None
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
    task = progress.add_task("send", total=size)
    return lambda octets: progress.advance(task, octets)
