"""Mailboxes and aliases in an LDAP directory, found by a filter of the operator.

    (|(mail={key})(mailAlternateAddress={key}))
    (&(objectClass=inetOrgPerson)(uid={local}))

Promises: what an address contributes to a filter is escaped, so it is always a value and never syntax (SECURITY R42).
Searches run in a few processes (`accounts.ldap_search`) with one connection each; one that takes too long is killed.
A search whose process has died is repeated in another.
The server's certificate is verified. A server that cannot be reached, or refuses, is a `DirectoryError`: nothing is
taken as unknown. Several entries are one record with several targets. Referrals are not followed.
Refuses: a filter with other placeholders or invalid syntax; a password over a connection that anyone can read
(SECURITY R13); to be opened without the package bonsai.
Standards: RFC 4511 (LDAPv3, StartTLS), RFC 4515 (filters), RFC 4516 (URLs).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import weakref
from collections.abc import Mapping  # noqa: TC003 - `config.declared` reads annotations
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast
from urllib.parse import unquote, urlsplit

from ironpost.accounts.records_fields import FIELDS, MERGED, record_of
from ironpost.delivery.secrets import SecretError, read_secret
from ironpost.model.network import is_loopback
from ironpost.model.text import error_text, escape
from ironpost.routing.directory import MAX_TARGETS, DirectoryError
from ironpost.routing.profile import SecretSource  # noqa: TC001 - `config.declared` reads annotations

if TYPE_CHECKING:
    from ironpost.accounts.record_sources import SourceContext
    from ironpost.routing.records import Record

PROGRAM: Final = Path(__file__).with_name("ldap_search.py")
PROCESSES: Final = 4
"""Number of searches that run at a time; further ones wait."""
ANSWER_OCTETS: Final = 1 << 20
"""Most octets of an answer."""
NO_ATTRIBUTES: Final = "1.1"
"""The attribute with which a search asks for none (RFC 4511)."""
SCHEMES: Final = ("ldap", "ldaps", "ldapi")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_PLACEHOLDERS: Final = frozenset({"key", "local", "domain"})
_ITEM: Final = re.compile(r"\([A-Za-z0-9.;:-]+[~<>]?=[^()]*\)")
"""A filter without others in it."""
_SET: Final = re.compile(r"\((?:[&|]\0+|!\0)\)")
"""A filter of others, each of which has been replaced by NUL."""
_SYNTAX: Final = re.compile(r"[\\*()\0]")
"""The characters that are escaped in a value (RFC 4515)."""


def _server_url(text: str) -> str:
    expected = 'not the URL of a server: expected one like "ldaps://ldap.mail.example" or "ldapi://%2Frun%2Fldapi"'
    try:
        parts = urlsplit(text)
        _ = parts.port  # ValueError if it is not a number
    except ValueError:  # its text may contain a password
        raise ValueError(expected) from None
    if parts.scheme not in SCHEMES or not parts.netloc or "@" in parts.netloc or parts.path.strip("/") or parts.query:
        raise ValueError(expected)
    return text


def _filter(text: str) -> str:
    names = set(_PLACEHOLDER.findall(text))
    if not names or not names <= _PLACEHOLDERS or "\0" in text:
        raise ValueError(f'the filter "{text}" needs {{key}}, {{local}} or {{domain}}, and has no other placeholders')
    rest, before = text, ""
    while rest != before:
        before, rest = rest, _SET.sub("\0", _ITEM.sub("\0", rest))
    if rest != "\0":
        raise ValueError(f'the filter "{text}" is not valid: expected one like "(mail={{key}})"')
    return text


def _attributes(names: Mapping[str, str]) -> Mapping[str, str]:
    for name in names:
        if name not in FIELDS:
            raise ValueError(f"unknown field {name}; expected fields are {', '.join(FIELDS)}")
    return names


@dataclass(frozen=True, slots=True)
class LdapOptions:
    """`[[directory.ldap]]`: mailboxes and aliases in an LDAP directory."""

    url: Annotated[str, _server_url]
    """In `[[directory.ldap]]` ([Directory sources](#directory-sources)): the server, `ldaps://HOST`, `ldap://HOST` or
    `ldapi://%2FPATH%2FOF%2FSOCKET`."""
    base: str
    """The name of the entry below which is searched."""
    filter: Annotated[str, _filter]
    """The filter of a search. `{key}` is replaced by the address, `{local}` and `{domain}` by its parts."""
    attributes: Annotated[Mapping[str, str], _attributes] = field(default_factory=dict)
    """The attributes of an entry that have the fields of a record, such as `{ targets = "mailForwardingAddress" }`.
    Without any, an entry that is found is a mailbox."""
    bind_dn: str | None = None
    """The name to log in with; default: no login."""
    password: SecretSource | None = None
    """Its password, `file:PATH` or `env:NAME`."""
    starttls: bool = False
    """Require StartTLS with an `ldap` URL. A password is sent without TLS only to this machine."""
    ca: Path | None = None
    """File with the authorities that sign the server's certificate (PEM); default: those of ldap.conf(5)."""

    def open(self, context: SourceContext, /) -> LdapRecords:  # noqa: ARG002 - the port's
        """See `accounts.record_sources.SourceOptions`; the server is not contacted."""
        try:
            import bonsai
        except ImportError as error:
            raise ValueError(f"LDAP needs the package bonsai, from pip install 'ironpost[ldap]' ({error})") from None
        try:
            bonsai.LDAPURL(self.url)
            bonsai.LDAPDN(self.base)
        except (ValueError, bonsai.InvalidDN) as error:
            raise ValueError(f"url and base: {error}") from None
        self._refuse_contradictions()
        if self.ca is not None:
            try:
                ssl.create_default_context(cafile=self.ca)
            except OSError as error:
                raise ValueError(f"ca: {self.ca}: {error_text(error)}") from None
        try:
            return LdapRecords(self, None if self.password is None else read_secret(self.password))
        except SecretError as error:
            raise ValueError(f"password: {error}") from None

    def _refuse_contradictions(self) -> None:
        url = urlsplit(self.url)
        if (self.bind_dn is None) != (self.password is None):
            raise ValueError("bind_dn and password are needed together")
        if self.starttls and url.scheme != "ldap":
            raise ValueError(f"starttls is for ldap URLs; {self.url} needs none")
        host = url.hostname or ""
        if self.password is not None and url.scheme == "ldap" and not self.starttls and not is_loopback(host):
            raise ValueError(f"the password would be sent unencrypted to {host}: use ldaps, or starttls = true")

    def __str__(self) -> str:
        return self.url


class LdapRecords:
    """Implements `routing.records.RecordSource`."""

    def __init__(self, options: LdapOptions, password: str | None) -> None:
        """Describe the source; the first search starts a process, which connects.

        Args:
            options: its options.
            password: the password that they name.
        """
        self._options = options
        self._where = str(options)
        settings = {
            "url": _for_bonsai(options.url),
            "starttls": options.starttls,
            "ca": None if options.ca is None else str(options.ca),
            "bind_dn": options.bind_dn,
            "password": password,
            "base": options.base,
            "attributes": list(options.attributes.values()) or [NO_ATTRIBUTES],
            "most": MAX_TARGETS,
        }
        self._settings = _line(settings)
        self._turns = asyncio.Semaphore(PROCESSES)
        self._idle: list[_SearchProcess] = []

    async def lookup(self, key: str, /) -> Record | None:
        """See `RecordSource.lookup`."""
        wanted = filter_for(self._options.filter, key)
        if wanted is None:
            return None
        async with self._turns:
            answer = await self._search(wanted)
        if "error" in answer:
            raise DirectoryError(f"{self._where}: {escape(answer['error'])}")
        return record_of([self._fields(entry) for entry in answer["entries"]], self._where)

    async def _search(self, wanted: str) -> dict[str, Any]:
        """Search in an idle process, or in a new one if none is idle or it has died."""
        try:
            if self._idle:
                with contextlib.suppress(ConnectionError):
                    return await self._asked(self._idle.pop(), wanted)
            return await self._asked(await asyncio.to_thread(_SearchProcess, self._settings), wanted)
        except OSError as error:
            raise DirectoryError(f"{self._where}: the search process failed: {error_text(error)}") from error

    async def _asked(self, process: _SearchProcess, wanted: str) -> dict[str, Any]:
        """The answer of a process, which is kept for the next search unless this one fails or is cancelled."""
        try:
            answer = await process.ask(wanted)
        except BaseException:
            process.kill()
            raise
        self._idle.append(process)
        return answer

    def _fields(self, entry: Mapping[str, list[object]]) -> dict[str, object]:
        """The fields of an entry; those that have one value are given without the list."""
        fields: dict[str, object] = {}
        for name, attribute in self._options.attributes.items():
            values = entry[attribute]
            if values:
                fields[name] = values if name in MERGED or len(values) > 1 else values[0]
        return fields


class _SearchProcess:
    """A process of `accounts.ldap_search`; it is killed when this object is not used any more, and at the end."""

    def __init__(self, settings: bytes) -> None:
        """Start it with a line of settings. Blocks.

        Raises:
            OSError: it cannot be started.
        """
        self._socket, its = socket.socketpair()
        with its:
            # -P: the working directory does not decide what is imported.
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-P", PROGRAM], stdin=its.fileno(), stdout=its.fileno(), stderr=subprocess.PIPE
            )
        assert process.stderr is not None
        self._errors = process.stderr
        os.set_blocking(self._errors.fileno(), False)
        self.kill = weakref.finalize(self, _kill, process, self._socket)
        self._socket.sendall(settings)
        self._socket.setblocking(False)

    async def ask(self, wanted: str) -> dict[str, Any]:
        """Return the answer to a filter.

        Raises:
            ConnectionError: it has ended.
            OSError: its answer is too long.
        """
        loop, answer = asyncio.get_running_loop(), bytearray()
        try:
            await loop.sock_sendall(self._socket, _line(wanted))
            while not answer.endswith(b"\n"):
                piece = await loop.sock_recv(self._socket, 65_536)
                answer += piece
                if not piece:
                    raise ConnectionResetError
                if len(answer) > ANSWER_OCTETS:
                    raise OSError(f"its answer has more than {ANSWER_OCTETS} octets")
        except ConnectionError:
            raise ConnectionResetError(f"it has ended{self._last_error()}") from None
        return cast("dict[str, Any]", json.loads(answer))

    def _last_error(self) -> str:
        """A colon and the last line of its standard error; empty if it wrote none."""
        lines = (self._errors.read() or b"").decode("utf-8", "backslashreplace").splitlines()
        return f": {escape(lines[-1])}" if lines else ""


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _kill(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


def filter_for(template: str, key: str) -> str | None:
    """Return the filter for a key; None if the key lacks a part that the filter uses, as a catch-all has no local part.

    An empty value could turn `(uid={local}*)` into a filter that matches everything.
    """
    local, _, domain = key.rpartition("@")
    parts = {"key": key, "local": local, "domain": domain}
    if not all(parts[name] for name in _PLACEHOLDER.findall(template)):
        return None
    return _PLACEHOLDER.sub(lambda name: escape_value(parts[name[1]]), template)


def escape_value(text: str) -> str:
    """Escape a value of a filter (RFC 4515). bonsai's function writes NUL as one digit, which would take the next."""
    return _SYNTAX.sub(lambda found: f"\\{ord(found[0]):02x}", text)


def _for_bonsai(url: str) -> str:
    """The URL for bonsai, which changes the host of a URL to lower case, and so the path of a socket."""
    parts = urlsplit(url)
    if parts.scheme != "ldapi":
        return url
    return "ldapi://" + "".join(f"%{octet:02x}" for octet in unquote(parts.netloc).encode())
