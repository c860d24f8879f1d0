"""What the reply to EHLO offers (RFC 5321 §4.1.1.1)."""

from __future__ import annotations

__all__ = ("parse_esmtp_extensions",)


def parse_esmtp_extensions(message: str) -> tuple[dict[str, str], list[str]]:
    """Return the extensions with their parameters, and the AUTH mechanisms, all names in lower case.

    The form `AUTH=LOGIN` from before RFC 2554 offers mechanisms too.
    """
    extensions: dict[str, str] = {}
    mechanisms: list[str] = []
    for line in map(str.strip, message.split("\n")[1:]):
        old = line.lower().startswith("auth=")
        keyword, _, parameters = line.partition("=" if old else " ")
        if keyword:
            extensions[keyword.lower()] = parameters
        if keyword.lower() == "auth":
            mechanisms += parameters.lower().split()
    return extensions, mechanisms
