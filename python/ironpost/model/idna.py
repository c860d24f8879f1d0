"""The ASCII form of an internationalised domain name: A-labels as IDNA2008 has them (RFC 5891 §4, RFC 6531 §3.2).

Promises: what `a_labels` returns is ASCII; an ASCII domain comes back as it is. The package `idna` is used where it is
installed (`ironpost[mta]` brings it). Without it Python's own codec serves, which knows IDNA2003 alone, and only where
its answer leads back to the same name: it would take another domain for one with a German sharp s.
Refuses: names that have no such form, with ValueError.
"""

from __future__ import annotations

import unicodedata


def a_labels(domain: str) -> str:
    """`domain` with A-labels in place of its U-labels.

    Raises:
        ValueError: it is no name that DNS can hold.
    """
    if domain.isascii():
        return domain
    name = unicodedata.normalize("NFC", domain.lower())
    try:
        import idna
    except ImportError:
        return _by_the_standard_library(name)
    return idna.encode(name).decode("ascii")  # IDNAError is a ValueError


def _by_the_standard_library(name: str) -> str:
    octets = name.encode("idna")  # UnicodeError is a ValueError
    if octets.decode("idna") != name:
        raise ValueError(f"{name}: its A-labels need the package idna")
    return octets.decode("ascii")
