"""Domain names of messages and of DNS records, as they are compared and queried.

Promises: a name for which `is_name` is true can be sent to any resolver. Names are compared without regard to case.
Standards: RFC 1035 §2.3.4 (lengths); RFC 5890 §2.3.1 (A-labels).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ironpost.model.idna import a_labels

NAME_LIMIT: Final = 253
"""Characters of a domain name without its trailing dot."""
TEXT_LIMIT: Final = 4 * NAME_LIMIT
"""Characters of a name that is converted to A-labels: a letter may be written as up to four characters (NFD)."""

# Any printable ASCII may occur, as a macro of SPF can produce it; a backslash would be an escape in the text of a name.
_NAME: Final = re.compile(r"[ -\-/-\[\]^-~]{1,63}(?:\.[ -\-/-\[\]^-~]{1,63})*")


def is_name(text: str) -> bool:
    """Whether text, without a trailing dot, can be a name in DNS."""
    return len(text) <= NAME_LIMIT and _NAME.fullmatch(text) is not None


@lru_cache(1024)  # called several times for each domain of a message
def normalised(domain: str) -> str:
    """A domain in A-labels and lower case, without its trailing dot.

    Raises:
        ValueError: it is not a domain name; the text is ASCII.
    """
    try:
        name = a_labels(domain).lower().removesuffix(".") if len(domain) <= TEXT_LIMIT else ""
    except ValueError:
        name = ""
    if not is_name(name):
        raise ValueError(f"{domain[:NAME_LIMIT]!a} is not a domain name")
    return name


def last_labels(name: str) -> str:
    """The last two labels of a name. The owner of a domain can make any number of names below it, so limits count them
    as one; those below `co.uk` count as one too."""
    return ".".join(name.split(".")[-2:])


def is_within(name: str, domain: str) -> bool:
    """Whether a name is the domain or below it."""
    return f".{name}".lower().endswith(f".{domain}".lower())
