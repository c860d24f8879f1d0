"""The keys with which this server signs: a new one, and whether DNS has those of the configuration (RFC 6376 §3.6).

Promises: a new private key is written once, with 0600, and never over another file. `show` asks DNS now, as a receiver
would, and changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ironpost.config.dkim import selector
from ironpost.config.values import hostname
from ironpost.mail_auth.keys import (
    ALGORITHMS,
    RSA_BITS_RECOMMENDED,
    Key,
    KeyFault,
    parse_key_record,
    require_cryptography,
)
from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.model.text import counted, error_text
from ironpost.operations.explain import given_domain
from ironpost.operations.operation import EmptyRequest, Operation, OperationError, Reason, Scope
from ironpost.storage.files import make_directory
from ironpost.storage.ownership import acting_for, open_private

if TYPE_CHECKING:
    from ironpost.operations.context import DataDirectory

STRING_OCTETS: Final = 255
"""Octets of one character string of a TXT record, at most (RFC 1035 §3.3)."""
_DIGEST: Final = sha256(b"").digest()
"""What a key signs to be compared with a published one."""


@dataclass(frozen=True, slots=True)
class NewKeyRequest:
    """A key to make."""

    domain: str
    selector: str
    algorithm: str
    """`rsa` or `ed25519`."""
    directory: str
    """Where the file is created; the directory too, if it does not exist."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made."""

    domain: str
    """In A-labels."""
    selector: str
    file: str
    """The path of the private key."""
    record: str
    """The TXT record to publish, as a line of a zone file."""


class KeyState(Enum):
    """What DNS has for a key."""

    PUBLISHED = "published"
    ABSENT = "not published"
    OTHER = "another record is published"
    UNKNOWN = "unknown"
    """DNS does not answer now."""


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """A key of the configuration."""

    name: str
    """Of its record."""
    algorithm: str
    record: str
    """The TXT record to publish, as a line of a zone file."""
    state: KeyState
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ConfiguredKeys:
    """The keys of the configuration, in its order."""

    keys: list[ConfiguredKey]


def record_line(key: Key) -> str:
    """The record of a key as a line of a zone file, in strings of at most 255 octets (RFC 1035 §5.1)."""
    text = key.record
    strings = (text[at : at + STRING_OCTETS] for at in range(0, len(text), STRING_OCTETS))
    return " ".join((f"{key.name}.", "IN", "TXT", *(f'"{string}"' for string in strings)))


async def _new(_data: DataDirectory, request: NewKeyRequest) -> NewKey:
    return _made(request)


def _made(request: NewKeyRequest) -> NewKey:
    try:
        domain, name = hostname(given_domain(request.domain)), selector(request.selector)
        pem = _private_key(request.algorithm)
        key = Key.load(domain, name, pem)
    except ValueError as error:
        raise OperationError(Reason.INVALID, str(error)) from None
    folder = Path(request.directory).absolute()
    file = folder / f"{key.domain}.{key.selector}.pem"
    try:
        make_directory(folder)
        with acting_for(folder) as descriptor:
            _create(file.name, pem, descriptor)
    except FileExistsError:
        sentence = f"{file} exists, and a key is never replaced: choose another name with --selector"
        raise OperationError(Reason.NOT_WRITABLE, sentence) from None
    except OSError as error:
        raise OperationError(Reason.NOT_WRITABLE, f"{file}: {error_text(error)}") from None
    return NewKey(key.domain, key.selector, str(file), record_line(key))


def _private_key(algorithm: str) -> bytes:
    """A new private key in PEM; `ValueError` if there is no such algorithm."""
    require_cryptography()
    if algorithm not in ALGORITHMS:
        raise ValueError(f"the algorithm {algorithm!a} is not {' or '.join(ALGORITHMS)}")
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = (
        ed25519.Ed25519PrivateKey.generate()
        if algorithm == "ed25519"
        else rsa.generate_private_key(65537, RSA_BITS_RECOMMENDED)
    )
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _create(name: str, content: bytes, folder: int) -> None:
    file = open_private(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(file)
    except BaseException:
        os.unlink(name, dir_fd=folder)
        raise
    os.fsync(folder)


async def _show(data: DataDirectory, _request: EmptyRequest) -> ConfiguredKeys:
    resolver = data.resolver()
    keys = []
    for key in data.dkim_keys():
        try:
            state, problem = _compared(key, (await dns.txt(resolver, key.name)).data)
        except ResolverError as error:
            state, problem = KeyState.UNKNOWN, f"DNS lookup failed: {error}"
        keys.append(ConfiguredKey(key.name, key.algorithm, record_line(key), state, problem))
    return ConfiguredKeys(keys)


def _compared(key: Key, records: tuple[bytes, ...]) -> tuple[KeyState, str]:
    """Compare what is published with a key; also return what is wrong with it."""
    if not records:
        return KeyState.ABSENT, ""
    if len(records) > 1:
        return KeyState.OTHER, f"{counted(len(records), 'TXT record')} at this name; there must be one"
    try:
        published = parse_key_record(records[0])
        if not published.public:
            return KeyState.OTHER, "the record revokes the key"
        if published.algorithm != key.algorithm or not published.matches(key.sign(_DIGEST), _DIGEST):
            return KeyState.OTHER, "the record has another key"
    except KeyFault as error:
        return KeyState.OTHER, str(error)
    return KeyState.PUBLISHED, "it says that the domain is testing (t=y)" if published.testing else ""


NEW: Final = Operation("dkim.new", NewKeyRequest, NewKey, Scope.LOCAL, _new)
SHOW: Final = Operation("dkim.show", EmptyRequest, ConfiguredKeys, Scope.LOCAL, _show)
