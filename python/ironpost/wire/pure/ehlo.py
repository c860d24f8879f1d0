"""Parsing of the reply to EHLO: the server's domain and its list of extensions.

Promises: a malformed line is skipped and the other lines are kept.
Refuses: a reply that is not 250.
Standards: RFC 5321 §4.1.1.1.
"""

from __future__ import annotations

import re
from typing import Final

from ironpost.wire.interface import Ehlo, Reply, WireFault

EHLO_LINE: Final = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)((?: +[!-~]+)*) *")


def parse_ehlo(reply: Reply) -> Ehlo:
    """Parse the reply to EHLO: the server's domain and its extensions (RFC 5321 §4.1.1.1).

    Raises:
        WireFault: `ehlo-refused`, if the reply is not 250.
    """
    if not isinstance(reply, Reply):
        raise TypeError(f"expected a Reply, not {type(reply).__name__}")
    if reply.code != 250:
        raise WireFault("ehlo-refused", 0)
    extensions: dict[str, str] = {}
    for line in reply.lines[1:]:
        if found := EHLO_LINE.fullmatch(line):
            extensions[found[1].decode().upper()] = b" ".join(found[2].split()).decode()
    greeting = reply.lines[0] if reply.lines else b""
    return Ehlo(greeting.split(b" ")[0].decode(errors="replace"), extensions)
