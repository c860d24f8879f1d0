"""Recognises greylisting: a host defers the first attempt, and accepts a later one.

Promises: only a transient reply counts, by its text: words for greylisting, or 450 or 451 with 4.7.1 and an invitation
to try again, as rspamd sends.
Limitations: RFC 6647 §5 recommends neither a reply code nor a text, so other texts are treated as any deferral.
Standards: RFC 6647 (greylisting).
"""

from __future__ import annotations

import re
from typing import Final

_GREYLISTED: Final = re.compile(
    r"4[0-9]{2} .*(?:gr[ae]y[- ]?list|postgrey)|45[01] 4\.7\.1 .*\b(?:try again|retry)\b", re.IGNORECASE | re.DOTALL
)


def greylisted(reply: str) -> bool:
    """Return whether a reply, in the form of `str(Reply)`, is greylisting."""
    return _GREYLISTED.match(reply) is not None
