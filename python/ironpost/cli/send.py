"""`send`: one message to one server, with a progress bar on large files."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import typer

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.client import Client, ClientError, ConnectFailed, Insecure, LoginRefused, SendResult
from ironpost.client.client import SUBMISSIONS
from ironpost.client.connection import verifying
from ironpost.model import Address
from ironpost.model.body import PIECE
from ironpost.protocol.sasl import Credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ironpost.client.client import TlsUse

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


class Access(NamedTuple):
    """How the server is reached."""

    host: str
    port: int
    tls: TlsUse | None
    """None: never on this machine itself, but for port 465, else as the client decides."""
    user: str
    """Whom to log in as; empty for nobody."""
    password: Path | None
    """A file whose first line is the password; asked for if None."""
    authorities: Path | None
    """A PEM file of those that may vouch for the server; the system's if None."""


def send(name: str, to: list[str], sender: str, access: Access) -> None:
    """Sends the file `name` (`-` is standard input) and prints the server's reply.

    Raises:
        Stop: nobody took it, or somebody did not.
    """
    client = _client(access, from_input=name == "-")
    recipients = [_address(text) for text in to]
    reverse_path = _address(sender) if sender else Address("", "")
    with ExitStack() as stack:
        file, size = _open(name, stack)
        advance = _bar(size, stack)
        try:
            result = asyncio.run(_send(client, reverse_path, recipients, _Source(file, size, advance)))
        except ConnectFailed as error:
            words = " ".join(error.reply.text)
            raise Stop(exits.UNAVAILABLE, f"{error.remote}: {words}\nis a server running there? {START}") from None
        except Insecure as error:
            raise Stop(
                exits.NO_PERMISSION, f"{error}\nnothing was sent; --ca names who vouches for the server"
            ) from None
        except LoginRefused as error:
            raise Stop(exits.TEMPORARY if error.reply.transient else exits.NO_PERMISSION, str(error)) from None
        except ClientError as error:
            code = exits.TEMPORARY if error.reply.transient else exits.REFUSED
            raise Stop(code, str(error)) from None
        except OSError as error:  # of the file: those of the network are all ClientError
            raise Stop(exits.NO_INPUT, f"{name}: {error.strerror}") from None
    typer.echo(str(result.reply))
    if result.refused:
        worst = exits.REFUSED if any(reply.permanent for reply in result.refused.values()) else exits.TEMPORARY
        raise Stop(worst, "\n".join(f"{address}: {reply}" for address, reply in result.refused.items()))


def _client(access: Access, *, from_input: bool) -> Client:
    tls = access.tls
    if tls is None and not access.user and _is_here(access.host) and access.port != SUBMISSIONS:
        tls = "never"
    if tls == "never" and access.user:
        raise Stop(exits.USAGE, "--user needs TLS, so that nobody reads the password: leave out --tls never")
    credentials = None
    try:
        context = None if access.authorities is None else verifying(str(access.authorities))
        if access.user:
            password = _password(access.password, access.user, from_input=from_input)
            credentials = Credentials(access.user, password, host=access.host, port=access.port)
        return Client(access.host, access.port, tls=tls, credentials=credentials, context=context)
    except OSError as error:  # ssl.SSLError is one
        raise Stop(exits.NO_INPUT, f"{access.authorities}: {error.strerror or 'this is no PEM file'}") from None
    except ValueError as error:
        raise Stop(exits.USAGE, str(error)) from None


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _password(file: Path | None, user: str, *, from_input: bool) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").partition("\n")[0]
        except OSError as error:
            raise Stop(exits.NO_INPUT, f"{file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Stop(exits.NO_INPUT, f"{file}: this is not UTF-8") from None
    if from_input or not sys.stdin.isatty():
        raise Stop(exits.USAGE, "nobody is there to be asked for the password; --password-file names a file with it")
    return str(typer.prompt(f"Password of {user}", hide_input=True, err=True))


async def _send(client: Client, sender: Address, recipients: list[Address], source: _Source) -> SendResult:
    async with client:
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
