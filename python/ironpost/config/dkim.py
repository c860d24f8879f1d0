"""`[[dkim]]`: the keys with which mail is signed (RFC 6376)."""

from __future__ import annotations

import re
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, model_validator

from ironpost.config.values import Hostname, SecretFile, Section
from ironpost.mail_auth.keys import key_name

_SELECTOR: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
"""RFC 6376 §3.1."""


def selector(value: object) -> str:
    """A selector in lower case, or `ValueError`."""
    text = value.lower() if isinstance(value, str) else ""
    if len(text) > 100 or _SELECTOR.fullmatch(text) is None:
        raise ValueError('a selector has letters, digits, dots and inner hyphens, at most 100, like "rsa-2026"')
    return text


class DkimSection(Section):
    """`[[dkim]]`: a key. Several keys of one domain sign each message together."""

    domain: Hostname
    """The signing domain: mail is signed whose author is in this domain, or below it and in no nearer one."""
    selector: Annotated[str, BeforeValidator(selector)]
    """The name of the key: its record is at `SELECTOR._domainkey.DOMAIN`."""
    key: SecretFile
    """File with the private key (PEM, without a passphrase): RSA of 2048 bits, or Ed25519."""

    @model_validator(mode="after")
    def _name(self) -> Self:
        key_name(self.selector, self.domain)  # may be too long together
        return self

    @property
    def name(self) -> str:
        """The name of the TXT record of the key (RFC 6376 §3.6.2.1)."""
        return key_name(self.selector, self.domain)
