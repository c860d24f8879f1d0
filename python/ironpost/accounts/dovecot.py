"""Checks passwords by Dovecot's authentication socket, so that IMAP and submission have the same accounts.

    service auth { unix_listener auth-client { mode = 0600  user = ironpost } }        in dovecot.conf

Promises: a login is one connection and one request, within `TIMEOUT`; names and passwords are sent as base64 and never
as a part of a line. The account's name is the one that Dovecot returns. The password itself is needed, so PLAIN and
LOGIN can be offered, and no other mechanism.
Refuses: a server of another major version, and a reply longer than `LINE`; the client then gets 454, not 535.
Standards: RFC 4616 (PLAIN, the mechanism used towards Dovecot); Dovecot Authentication Protocol, version 1.
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ironpost.model.text import error_text

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.protocol.server.session import ServerSession

TIMEOUT: Final = 30.0
"""Seconds for a login. Dovecot delays the reply to a wrong password by some seconds."""
LINE: Final = 8192
"""Longest line of the protocol, in octets."""
VERSION: Final = "1"
"""Major version of the protocol."""


class DovecotError(Exception):
    """Dovecot cannot answer now; the text gives the reason."""


class DovecotAuth:
    """One of the methods of `protocol.sasl.Authenticator`."""

    def __init__(self, socket: Path) -> None:
        """Use the listener at `socket`; it is connected to at each login."""
        self._socket = socket

    async def verify_password(self, session: ServerSession, login: str, password: str) -> str | None:
        """Return the name of the account, or None if name or password are wrong.

        Raises:
            DovecotError: there is no answer, or not a valid one.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._ask(session, login, password)
        except TimeoutError:
            raise DovecotError(f"{self._socket}: no answer within {TIMEOUT:.0f} seconds") from None
        except (OSError, EOFError) as error:
            raise DovecotError(f"{self._socket}: {_reason(error)}") from error
        except ValueError:  # a line that is too long, or is not UTF-8
            raise DovecotError(f"{self._socket}: the answer is not valid") from None

    async def _ask(self, session: ServerSession, login: str, password: str) -> str | None:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=LINE)
        try:
            writer.write(f"VERSION\t{VERSION}\t1\nCPID\t{os.getpid()}\n".encode())
            while (words := await _line(reader))[0] != "DONE":
                if words[0] == "VERSION" and words[1:2] != [VERSION]:
                    raise DovecotError(f"{self._socket}: not version {VERSION} of Dovecot's protocol")
            response = b64encode(b"\0".join((b"", login.encode(), password.encode()))).decode()
            peer = session.peer
            facts = [f"rip={peer.ip}"] if peer.ip else []
            facts += [f"lip={peer.local_ip}"] if peer.local_ip else []
            facts += ["secured"] if session.secure else []
            writer.write("\t".join(("AUTH", "1", "PLAIN", "service=smtp", *facts, f"resp={response}\n")).encode())
            while True:
                verdict, *fields = await _line(reader)
                if verdict == "OK":
                    return next((each[5:] for each in fields if each.startswith("user=")), login)
                if verdict == "FAIL":
                    if "temp" in fields:
                        raise DovecotError(f"{self._socket}: Dovecot cannot check passwords now; see its log")
                    return None
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _line(reader: asyncio.StreamReader) -> list[str]:
    """The words of the next line.

    Raises:
        EOFError: the connection has ended.
        ValueError: the line is too long, or not UTF-8.
    """
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line.decode().rstrip("\n").split("\t")


def _reason(error: OSError | EOFError) -> str:
    if isinstance(error, EOFError | ConnectionResetError | BrokenPipeError):
        return "Dovecot closed the connection without an answer"
    return error_text(error)
