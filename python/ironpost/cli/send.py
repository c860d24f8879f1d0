"""`send`: one message to one server, with a progress bar on large files."""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import typer

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.client import Client, ClientError, ConnectFailed, Insecure, LoginRefused, SendResult
from ironpost.client.tls import verifying
from ironpost.message.mbox import SeparatorLines
from ironpost.model import Address
from ironpost.model.body import PIECE
from ironpost.model.network import SUBMISSIONS, is_loopback
from ironpost.model.text import complaint, error_text
from ironpost.protocol.sasl import Credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ironpost.client.client import TlsUse

START = "start one here with: ironpost serve, or name another with --host and --port"
PATIENCE = 5.0
"""Seconds without a greeting after which the user is informed of the wait."""
SHOWN = 1 << 20
"""Bytes from which a progress bar is shown on a terminal."""


class _Source:
    """An open file, as content that the client streams."""

    def __init__(self, file: IO[bytes], size: int | None, advance: Callable[[int], object]) -> None:
        self._file = file
        self._advance = advance
        if size is not None:
            self.size = size

    async def pieces(self) -> AsyncIterator[bytes]:
        separators = SeparatorLines(bare_lf=True)  # the file may be a message from an mbox
        while piece := await asyncio.to_thread(self._file.read, PIECE):
            if ready := separators.feed(piece):
                yield ready
            self._advance(len(piece))
        if rest := separators.finish():
            yield rest


class SendOptions(NamedTuple):
    """Server, TLS and login for sending."""

    host: str
    port: int
    tls: TlsUse | None
    """Use of TLS. None: never on this machine, implicit on port 465, otherwise as the client decides."""
    user: str
    """The user name; empty: no login."""
    password: Path | None
    """A file with the password in its first line; None: prompt."""
    authorities: Path | None
    """A CA bundle in PEM form; the system's if None."""


def send(name: str, to: list[str], sender: str, access: SendOptions) -> None:
    """Send the file `name` (`-` is standard input), and print the server's reply.

    Raises:
        CommandError: the message was not accepted for every recipient.
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
            raise CommandError(
                exits.UNAVAILABLE, f"{error.remote}: {words}\nis a server running there? {START}"
            ) from None
        except Insecure as error:
            raise CommandError(exits.NO_PERMISSION, f"{error}\nnothing was sent; {_remedy(error, access)}") from None
        except LoginRefused as error:
            raise CommandError(exits.TEMPORARY if error.reply.transient else exits.NO_PERMISSION, str(error)) from None
        except ClientError as error:
            code = exits.TEMPORARY if error.reply.transient else exits.REFUSED
            raise CommandError(code, str(error).replace('tls="implicit"', "--tls implicit")) from None
        except OSError as error:  # of the file: those of the network are all ClientError
            raise CommandError(exits.NO_INPUT, f"{name}: {error_text(error)}") from None
    typer.echo(str(result.reply))
    if result.refused:
        worst = exits.REFUSED if any(reply.permanent for reply in result.refused.values()) else exits.TEMPORARY
        raise CommandError(worst, "\n".join(f"{address}: {reply}" for address, reply in result.refused.items()))


def _client(access: SendOptions, *, from_input: bool) -> Client:
    tls = access.tls
    if tls is None and not access.user and is_loopback(access.host) and access.port != SUBMISSIONS:
        tls = "never"
    if tls == "never" and access.user:
        raise CommandError(exits.USAGE, "--user needs TLS, to protect the password: leave out --tls never")
    credentials = None
    try:
        context = None if access.authorities is None else verifying(str(access.authorities))
        if access.user:
            password = _password(access.password, access.user, from_input=from_input)
            credentials = Credentials(access.user, password, host=access.host, port=access.port)
        return Client(access.host, access.port, tls=tls, credentials=credentials, context=context)
    except ssl.SSLError:
        raise CommandError(exits.NO_INPUT, f"{access.authorities}: no PEM certificate found in this file") from None
    except OSError as error:
        raise CommandError(exits.NO_INPUT, f"{access.authorities}: {error_text(error)}") from None
    except ValueError as error:
        raise CommandError(exits.USAGE, str(error)) from None


def _password(file: Path | None, user: str, *, from_input: bool) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").partition("\n")[0]
        except OSError as error:
            raise CommandError(exits.NO_INPUT, f"{file}: {error_text(error)}") from None
        except UnicodeDecodeError:
            raise CommandError(exits.NO_INPUT, f"{file}: not valid UTF-8") from None
    if from_input or not sys.stdin.isatty():
        raise CommandError(exits.USAGE, "no terminal to prompt for the password: give a file with --password-file")
    return str(typer.prompt(f"Password of {user}", hide_input=True, err=True))


async def _send(client: Client, sender: Address, recipients: list[Address], source: _Source) -> SendResult:
    patience = asyncio.get_running_loop().call_later(PATIENCE, _still_waiting, client)
    try:
        await client.connect()
    finally:
        patience.cancel()
    try:
        return await client.send(sender, recipients, source)
    finally:
        await client.close()


def _still_waiting(client: Client) -> None:
    """Report the wait: a server that expects TLS first waits too, up to 5 minutes (RFC 5321 §4.5.3.2.1)."""
    text = f"no greeting from {client.host}:{client.port} for {PATIENCE:g} s, still waiting"
    typer.echo(f"ironpost: {text}; for implicit TLS, use --tls implicit", err=True)


def _remedy(error: Insecure, access: SendOptions) -> str:
    """Return the remedy for a connection that is not secure."""
    detail = error.reply.detail
    if "mismatch" in detail:
        return f"its certificate is not valid for {access.host}: use one of its names with --host"
    if "wrong version number" in detail or "record layer failure" in detail:
        return "the port does not use implicit TLS: leave out --tls implicit, or choose another --port"
    return "give the CA of the server with --ca"


def _address(text: str) -> Address:
    try:
        address = Address.parse(text)
    except ValueError as fault:
        raise CommandError(exits.USAGE, f"invalid address {text}: {complaint(text, fault)}") from None
    if address.is_null:
        raise CommandError(exits.USAGE, "the recipient is empty")
    return address


def _open(name: str, stack: ExitStack) -> tuple[IO[bytes], int | None]:
    if name == "-":
        return sys.stdin.buffer, None
    try:
        file: IO[bytes] = Path(name).open("rb")  # noqa: SIM115 - the stack closes it
    except OSError as error:
        raise CommandError(exits.NO_INPUT, f"{name}: {error_text(error)}") from None
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
