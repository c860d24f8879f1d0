"""Secrets that a configuration names: passwords and access tokens in files, variables, or printed by a program.

Promises: a secret appears in no log, error or `repr`. A token program runs without a shell, with a fixed environment,
a time limit and an output limit (SECURITY R40), and one at a time for each login; callers that ask meanwhile get the
same result. A token is used until it expires or a host rejects it.
Refuses: empty secrets, and those that the mechanisms cannot send, with `SecretError`.
Standards: RFC 6749 (`access_token`, `expires_in`), RFC 6750 (the characters of a token).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ironpost.delivery import programs
from ironpost.model.text import error_text
from ironpost.routing.profile import SecretSource, TokenCommand

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET_OCTETS: Final = 64 * 1024
"""Maximum octets of a secret, and of the output of a token program."""
RENEW_SECONDS: Final = 60.0
"""Seconds before its expiry from which a token is not used any more; half of its lifetime if that is shorter."""
LEAST_LIFETIME: Final = 1.0
"""Seconds for which a token is used at least, whatever `expires_in` is."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class SecretError(Exception):
    """A secret cannot be obtained. The text names its source and the reason, never the secret."""


def read_secret(source: SecretSource) -> str:
    """Read a secret; a line end after it does not belong to it.

    Raises:
        SecretError: there is none, or it is not text in UTF-8.
    """
    path = source.path
    if path is None:
        text = os.environ.get(source.name, "")
        if not text:
            raise SecretError(f"the environment variable {source.name} is not set, or empty")
        return text
    try:
        with path.open("rb") as file:
            octets = file.read(SECRET_OCTETS + 1)
        text = octets.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise SecretError(f"{path}: {error_text(error)}") from None
    except UnicodeDecodeError:
        raise SecretError(f"{path}: the secret is not UTF-8") from None
    if not text or len(octets) > SECRET_OCTETS:
        raise SecretError(f"{path}: the file is {'empty' if not text else 'too large'}")
    return text


class Token(NamedTuple):
    """An access token."""

    text: str
    new: bool
    """It was obtained for this request."""

    def __repr__(self) -> str:
        return f"Token(new={self.new})"


def read_token(source: SecretSource) -> str:
    """Read an access token from a file or a variable.

    Raises:
        SecretError: there is none.
    """
    return _parsed(read_secret(source), source)[0]


class Tokens:
    """The access tokens of one login."""

    def __init__(self, source: SecretSource | TokenCommand, now: Callable[[], float] = time.monotonic) -> None:
        """`now` returns seconds of a monotonic clock."""
        self._source = source
        self._now = now
        self._known = ""
        self._until = 0.0
        """Time until which `_known` is used."""
        self._renewal: asyncio.Task[str] | None = None

    async def get(self) -> Token:
        """A token that has not expired, as far as is known, and was not rejected.

        Raises:
            SecretError: none can be obtained.
        """
        if self._known and self._now() < self._until:
            return Token(self._known, new=False)
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().create_task(self._renew())
            self._renewal.add_done_callback(self._renewed)
        return Token(await asyncio.shield(self._renewal), new=True)

    def rejected(self, token: str) -> None:
        """A host rejected this token: the next one is obtained again."""
        if token == self._known:
            self._known = ""

    async def close(self) -> None:
        """End a program that is running."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    def _renewed(self, renewal: asyncio.Task[str]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()  # marks it as retrieved, even if all who waited were cancelled

    async def _renew(self) -> str:
        source = self._source
        if isinstance(source, TokenCommand):
            text = await _output(source)
        else:
            text = await asyncio.to_thread(read_secret, source)
        token, lifetime = _parsed(text, source)
        usable = max(lifetime - RENEW_SECONDS, lifetime / 2, LEAST_LIFETIME)
        # A file is read for each login: another program writes new tokens into it.
        self._known, self._until = token, self._now() + (usable if isinstance(source, TokenCommand) else 0.0)
        return token


def _parsed(text: str, source: SecretSource | TokenCommand) -> tuple[str, float]:
    """The token and its lifetime in seconds, from JSON as in RFC 6749, or from the token alone."""
    found: Any = text.strip()
    lifetime = float("inf")
    if found.startswith("{"):
        try:
            values = json.loads(found)
            found, seconds = values.get("access_token"), values.get("expires_in")
            if seconds is not None:
                lifetime = max(0.0, float(seconds))
        except (ValueError, TypeError, OverflowError, RecursionError, AttributeError):
            raise SecretError(f"{source}: expected a token, or JSON with access_token and expires_in") from None
    if not isinstance(found, str) or _TOKEN.fullmatch(found) is None:
        raise SecretError(f"{source}: it contains no access token")
    return found, lifetime


async def _output(command: TokenCommand) -> str:
    """What the program prints."""
    names = ("PATH", *command.environment)
    environment = {name: os.environ[name] for name in names if name in os.environ}
    try:  # standard error may contain secrets
        ended = await programs.run(
            command.argv, environment, timeout=command.timeout, limit=SECRET_OCTETS, kill_at_limit=True
        )
    except TimeoutError:
        raise SecretError(f"{command}: it did not finish within {command.timeout:g} seconds") from None
    except OSError as error:
        raise SecretError(f"{command}: {error_text(error)}") from None
    if ended.too_long:
        raise SecretError(f"{command}: it printed more than {SECRET_OCTETS} octets")
    if ended.code:
        raise SecretError(f"{command}: it exited with {ended.code}")
    try:
        return ended.output.decode()
    except UnicodeDecodeError:
        raise SecretError(f"{command}: its output is not UTF-8") from None
