"""The ASCII form of an internationalised domain name: A-labels of IDNA2008 (RFC 5891 §4, RFC 6531 §3.2).

Promises: `a_labels` returns ASCII; ASCII labels are unchanged, even if IDNA would refuse them (an underscore, for
example). The package `idna` is used if it is installed (`ironpost[mta]` depends on it). Otherwise Python's own codec is
used, which implements IDNA2003, and only if decoding its result gives the same name: it would map a German sharp s to
another domain.
Refuses: names without A-labels, with ValueError.
"""

from __future__ import annotations

import unicodedata


def a_labels(domain: str) -> str:
    """Return `domain` with A-labels in place of its U-labels.

    Raises:
        ValueError: it is not a valid domain name.
    """
    if domain.isascii():
        return domain
    name = unicodedata.normalize("NFC", domain.lower())
    try:
        import idna
    except ImportError:
        return _by_the_standard_library(name)
    # IDNAError is a ValueError
    return ".".join(label if label.isascii() else idna.encode(label).decode("ascii") for label in name.split("."))


def _by_the_standard_library(name: str) -> str:
    octets = name.encode("idna")  # UnicodeError is a ValueError
    if octets.decode("idna") != name:
        raise ValueError(f"{name}: its A-labels need the package idna")
    return octets.decode("ascii")
