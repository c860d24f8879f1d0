"""Composes DKIM signing: reads the keys of `[[dkim]]`.

Promises: a key is read whole before it is used, at start and at a reload; one that cannot be used changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.delivery.access import AccessError
from ironpost.delivery.secrets import SecretError, read_secret
from ironpost.mail_auth.keys import RSA_BITS_RECOMMENDED, Key
from ironpost.model.packages import PackageMissing
from ironpost.routing.profile import SecretSource
from ironpost.server.tls import exposed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ironpost.config import Configuration

SLOW: Final = "0.8 ms with 3072 bits, 1.5 ms with 4096"
"""How long a signature blocks the worker; with 2048 bits it is 0.27 ms."""


def dkim_keys(configuration: Configuration) -> Iterator[Key | AccessError]:
    """Read the keys in the order of the file; yield each key, or the error, which names the entry and the file."""
    for number, section in enumerate(configuration.dkim, 1):
        try:
            pem = read_secret(SecretSource("file", str(section.key)))
            yield Key.load(section.domain, section.selector, pem.encode())
        except SecretError as error:
            yield AccessError(f"dkim[{number}].key: {error}")
        except (ValueError, PackageMissing) as error:
            yield AccessError(f"dkim[{number}].key: {section.key}: {error}")


def usable_keys(configuration: Configuration) -> list[Key]:
    """Return the keys.

    Raises:
        AccessError: one cannot be used.
    """
    keys = []
    for found in dkim_keys(configuration):
        if isinstance(found, AccessError):
            raise found
        keys.append(found)
    return keys


def key_warnings(configuration: Configuration, keys: Iterable[Key | AccessError]) -> Iterator[str]:
    """Find keys that are exposed or slow; each warning names the entry and a remedy.

    Args:
        configuration: the configuration.
        keys: the result of `dkim_keys` or `usable_keys`.
    """
    for number, (section, key) in enumerate(zip(configuration.dkim, keys, strict=True), 1):
        name, file = f"dkim[{number}].key", section.key
        if (mode := exposed(file)) is not None:
            yield f"{name}: other users may read or change {file} ({mode:04o}); run: chmod 600 {file}"
        if isinstance(key, AccessError) or key.key_type != "rsa":
            continue
        if key.bits > RSA_BITS_RECOMMENDED:
            yield f"{name}: {file} has {key.bits} bits, which blocks the server for each message ({SLOW}); use 2048"
