"""HTTPS URLs: what the configuration accepts is what a request accepts.

Refuses, with ValueError: another scheme, a user name, white space and control characters, ports out of range, and hosts
that are neither a name in DNS nor an address in its canonical form.
Standards: RFC 3986 §3.2 (authority), RFC 9110 §4.2.2 (https).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from ironpost.model.idna import a_labels

HTTPS_PORT: Final = 443
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)


def https_parts(url: str, base: str = "") -> SplitResult:
    """Split an HTTPS URL, with its host in A-labels, without default port and fragment.

    Args:
        url: the URL; it may be relative to `base`.
        base: another URL.

    Raises:
        ValueError: see the module; the text contains nothing of the URL.
    """
    # The texts of the parsers may contain credentials.
    try:
        url = urljoin(base, url)
        parts = urlsplit(url)
        host = a_labels((parts.hostname or "").removesuffix("."))
    except ValueError:
        raise ValueError("it has no valid host name") from None
    try:
        port = HTTPS_PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    if parts.scheme != "https":
        raise ValueError("its scheme is not https")
    if parts.username is not None:
        raise ValueError("it has a user name")
    if port == 0:
        raise ValueError("its port is not a number from 1 to 65535")
    if not url.isprintable() or " " in url:
        raise ValueError("it has a space or a control character")
    if ":" in host or host.replace(".", "").isdigit():
        # `inet_aton` would read 2130706433 and 127.1 as addresses too: only the canonical form is one.
        try:
            address = ip_address(host)
        except ValueError:
            raise ValueError("its host is not an address in canonical form") from None
        host = f"[{address}]" if address.version == 6 else str(address)
    elif not _NAME.fullmatch(host):
        raise ValueError("it has no valid host name")
    return parts._replace(netloc=host if port == HTTPS_PORT else f"{host}:{port}", fragment="")
