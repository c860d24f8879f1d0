"""The Received field (RFC 5321 §4.4, RFC 6531 §3.7.3): from, by, with, id, for, a priority that is not 0 (RFC 6710
§4.1), and with TLS the cipher suite (RFC 8314 §4.3).

Promises: the field follows Time-stamp-line of RFC 5321 §4.4; nothing that a client sends can end it, open or close a
comment in it, or add a clause to it (SECURITY R43, R48). An invalid HELO name appears in a comment, escaped.
Refuses: a `by` name that is neither a domain nor an address literal, with HeaderError.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ironpost.message import header
from ironpost.message.dates import date_time
from ironpost.model.network import address_literal

if TYPE_CHECKING:
    from ironpost.model import Address, Origin

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")  # RFC 5321 §4.1.2 Domain
_U_LABEL: Final = r"[^\W_](?:[\w-]*[^\W_])?"
_U_DOMAIN: Final = re.compile(rf"{_U_LABEL}(?:\.{_U_LABEL})*")  # RFC 6531 §3.3 sub-domain =/ U-label
_LITERAL: Final = re.compile(r"\[(?:[0-9.]+|[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+)\]")  # RFC 5321 §4.1.3
_CIPHER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")  # RFC 8314 §4.3 tls-cipher-name
_REGISTERED: Final = {
    "ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305": "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES256-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384",
    "ECDHE-RSA-AES256-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384",
    "ECDHE-ECDSA-AES128-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "ECDHE-RSA-AES128-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "DHE-RSA-AES256-GCM-SHA384": "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384",
    "DHE-RSA-AES128-GCM-SHA256": "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256",
    "DHE-RSA-AES256-SHA256": "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256",
    "DHE-RSA-AES128-SHA256": "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256",
}
"""OpenSSL's names of the TLS 1.2 suites in Python's default cipher list, to registered names."""
_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]+")


def received(
    origin: Origin,
    *,
    by: str,
    id: str,  # noqa: A002 - the clause's name
    now: float,
    recipient: Address | None = None,
    priority: int = 0,
    utf8: bool = False,
) -> bytes:
    """The Received field for one message, with its last CRLF.

    Args:
        origin: the client; an `ip` that is not an IP address is left out.
        by: our own name, a domain or an address literal.
        id: the queue id.
        now: seconds since 1970-01-01 UTC.
        recipient: the forward-path, if there is only one (RFC 5321 §7.2: several would reveal them to each
            other); left out if it is not ASCII and `utf8` is false, and if it is `<postmaster>`, which is not a Path.
        priority: `Envelope.priority`.
        utf8: MAIL carried SMTPUTF8, so U-labels and UTF-8 addresses are allowed (RFC 6531 §3.7.3).

    Raises:
        HeaderError: `by` or `id` is invalid.
    """
    if _ATOM.fullmatch(id) is None:
        raise header.HeaderError(f"{id!r} is not a valid queue id")
    start = _start(origin, by, utf8)
    date = date_time(now)
    rest = f" id {id}"
    if recipient is not None and recipient.domain and (utf8 or not recipient.needs_smtputf8):
        rest += f" for {header.path(recipient)}"
    if priority:
        rest += f"\r\n PRIORITY {priority}"
    if origin.cipher:
        rest += f"\r\n tls {checked_cipher(origin.cipher)}"
    return b"%b\r\n%b;\r\n %b\r\n" % (start, rest.encode(), date.encode())


@lru_cache(maxsize=1024)  # a client sends many messages
def _start(origin: Origin, by: str, utf8: bool) -> bytes:
    """The field up to its `with` clause, without CRLF."""
    if _ATOM.fullmatch(origin.protocol) is None:
        raise header.HeaderError(f"{origin.protocol!r} is not a valid protocol keyword")
    tokens = [*_from(origin.ip, origin.helo, utf8), "by", checked_name(by), "with", origin.protocol]
    return header.field("Received", tokens, utf8=utf8).removesuffix(b"\r\n")


@lru_cache(maxsize=64)
def checked_name(name: str) -> str:
    """Return `name` if it is a domain or an address literal in ASCII.

    Raises:
        HeaderError: it is neither.
    """
    if _DOMAIN.fullmatch(name) is None and _LITERAL.fullmatch(name) is None:
        raise header.HeaderError(f"{name!r} is neither a domain nor an address literal")
    return name


def checked_cipher(name: str) -> str:
    """Return `name` if it is valid in the `tls` clause.

    Raises:
        HeaderError: it is not.
    """
    if _CIPHER.fullmatch(name) is None:
        raise header.HeaderError(f"{name!r} is not a valid cipher suite name")
    return name


def cipher(name: str) -> str:
    """The registered name of the cipher suite that OpenSSL or a proxy calls `name`; empty if not known."""
    if name.startswith("TLS_") and _CIPHER.fullmatch(name) is not None:
        return name  # TLS 1.3, where OpenSSL uses the registered names
    return _REGISTERED.get(name, "")


def _from(ip: str, helo: str, utf8: bool) -> tuple[str, ...]:
    """The from clause: the HELO name, and in parentheses the address of the client."""
    address = address_literal(ip)
    seen = () if not address else (f"({address})",)
    name = _U_DOMAIN if utf8 else _DOMAIN
    if name.fullmatch(helo) is not None or _LITERAL.fullmatch(helo) is not None:
        return ("from", helo, *seen)
    if not address:
        return () if not helo else ("from", "unknown", header.comment(f"helo={helo}"))
    if not helo:
        return ("from", address, *seen)
    return ("from", address, *seen, header.comment(f"helo={helo}"))
