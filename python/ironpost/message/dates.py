"""Dates in header fields.

Promises: `date_time` gives the date-time of RFC 5322 §3.3 with a four-digit year and a numeric offset, in English
whatever the locale.
Refuses: times outside the years 1900 to 9999, with ValueError.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date_time(now: float, offset_minutes: int = 0) -> str:
    """Format `now` (seconds since 1970-01-01 UTC) as a date-time of RFC 5322 §3.3.

    `offset_minutes` is the offset of local time from UTC, east positive (RFC 5321 §4.4 prefers local time where it
    is known).

    Raises:
        ValueError: the year is before 1900 (RFC 5322 §3.3) or has more than four digits, or the offset is not
            less than a day.
    """
    return _of_second(int(now // 1), offset_minutes)


@lru_cache(maxsize=16)  # a busy server formats the same second thousands of times
def _of_second(second: int, offset_minutes: int) -> str:
    try:
        when = datetime.fromtimestamp(second, timezone(timedelta(minutes=offset_minutes)))
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{second} seconds since 1970: out of the range of dates in header fields") from error
    if when.year < 1900:
        raise ValueError(f"the year {when.year} is before 1900 (RFC 5322 §3.3)")
    sign = "-" if offset_minutes < 0 else "+"
    hours, minutes = divmod(abs(offset_minutes), 60)
    return (
        f"{_DAYS[when.weekday()]}, {when.day:02d} {_MONTHS[when.month - 1]} {when.year:04d} "
        f"{when.hour:02d}:{when.minute:02d}:{when.second:02d} {sign}{hours:02d}{minutes:02d}"
    )
