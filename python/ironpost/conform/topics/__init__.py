"""The topics of the suite, one file each, in the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.conform.topics import (
    auth,
    bdat,
    dsn,
    eight_bit_mime,
    extensions,
    framing,
    handling,
    limits,
    lmtp,
    parameters,
    pipelining,
    replies,
    robustness,
    sequence,
    session,
    size,
    smtputf8,
    starttls,
    submission,
    syntax,
    transparency,
)

if TYPE_CHECKING:
    from ironpost.conform.case import Case, Topic

TOPICS: Final[tuple[Topic, ...]] = tuple(
    module.TOPIC
    for module in (
        session, framing, syntax, sequence, parameters, replies, extensions, pipelining, transparency, bdat, size,
        eight_bit_mime, smtputf8, dsn, starttls, auth, lmtp, submission, handling, limits, robustness,
    )
)  # fmt: skip


def cases() -> list[Case]:
    """Return every case, in order.

    Raises:
        ValueError: two cases have the same id.
    """
    found = [case for topic in TOPICS for case in topic.cases]
    names = [case.id for case in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"duplicate case ids: {', '.join(sorted(twice))}")
    return found
