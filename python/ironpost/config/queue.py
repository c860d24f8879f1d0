"""`[queue]`: where mail is queued, and when it is attempted again.

Standards: RFC 5321 §4.5.4.1 (retries and expiry).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ironpost.config.quantities import duration
from ironpost.config.values import Duration, DurationOrNever, Pattern, Percentage, Section, Size, known_backend, least
from ironpost.model.options import not_empty
from ironpost.queue.retry import GREYLIST_WAIT, HOUR, JITTER, WARN_AFTER
from ironpost.queue.store import SUBMISSION_SECONDS
from ironpost.storage.reserve import RESERVE


class RetrySection(Section):
    """`[[queue.retry]]`: one line of the retry schedule."""

    age: Annotated[Duration, least(duration, "1s")]
    """Age of a message up to which this line applies, counted from when it could first be delivered; the last line
    applies at any age."""
    wait: Annotated[Duration, least(duration, "1s")]
    """The time until the next attempt."""


def _rising(lines: tuple[RetrySection, ...]) -> tuple[RetrySection, ...]:
    ages = [line.age for line in lines]
    if ages != sorted(set(ages)):
        raise ValueError("each age must be above the one before")
    return lines


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"invalid regular expression: {error}") from None
    return text


class ReplySection(Section):
    """`[[queue.reply]]`: treatment of some replies. The first matching rule decides."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(not_empty)]
    """Domains of recipients: `mail.example` itself, `*.mail.example` for all below it, `*`."""
    text: Annotated[str, Field(min_length=1), AfterValidator(_expression)]
    """A regular expression that is found in the reply, without regard to case."""
    action: Literal["wait", "fail"]
    """`wait` defers the recipient, also if the reply is permanent; `fail` makes a deferral a failure."""
    wait: Annotated[Duration, least(duration, "1s")] = HOUR
    """Time until the next attempt, for `wait`."""

    @model_validator(mode="after")
    def _waits(self) -> Self:
        if self.action == "fail" and "wait" in self.model_fields_set:
            raise ValueError('wait has no effect with action = "fail"')
        return self


class QueueSection(Section):
    """`[queue]`: the queue and its store."""

    backend: Annotated[str, AfterValidator(known_backend)] = "sqlite"
    """Storage backend: `sqlite`, or `memory`, which loses mail when the server stops (for tests)."""
    expire: Annotated[Duration, least(duration, "60s")] = 5 * 86400.0
    """Age at which undelivered mail is returned to the sender (RFC 5321 §4.5.4.1)."""
    warn_after: DurationOrNever = WARN_AFTER
    """When the sender is warned that delivery is delayed (RFC 3461 §4.1); `never` for no warnings."""
    retry: Annotated[tuple[RetrySection, ...], AfterValidator(_rising)] = ()
    """The retry schedule; `queue.retry.WAITS` if it is empty."""
    jitter: Percentage = JITTER
    """Maximum random variation of a wait."""
    greylist_wait: Annotated[Duration, least(duration, "1s")] = GREYLIST_WAIT
    """Time until the next attempt after a remote host greylisted a recipient."""
    reply: tuple[ReplySection, ...] = ()
    """Rules for some replies."""
    concurrency: Annotated[int, Field(strict=True, ge=1, le=1000)] = 100
    """Maximum number of concurrent deliveries."""
    reserve: Size = RESERVE
    """Free disk space below which new mail is answered 452 4.3.1."""
    memory: Size = 64 << 20
    """Memory of each worker for incoming messages above 64 KiB; beyond it they are written to files."""
    history: Duration = 7 * 86400.0
    """Time for which attempts and events of finished mail are kept for SQL queries."""
    history_size: Size = 1 << 30
    """Approximate maximum size of them in each shard."""
    idempotency: Duration = SUBMISSION_SECONDS
    """Time for which the key of a submission (Idempotency-Key) is kept; `0s` leaves the field alone."""
