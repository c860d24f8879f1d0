"""Dates as header fields hold them (RFC 5322 §3.3), read back by the standard library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, parsedate_to_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.message.dates import date_time

YEAR_1900 = datetime(1900, 1, 1, tzinfo=UTC).timestamp()
YEAR_9999 = datetime(9999, 12, 30, tzinfo=UTC).timestamp()


def test_the_example_of_rfc_5322_appendix_a_1_1() -> None:
    # RFC 5322 §A.1.1 has "Fri, 21 Nov 1997 09:55:06 -0600"
    assert date_time(880127706, -360) == "Fri, 21 Nov 1997 09:55:06 -0600"


@settings(deadline=None)
@given(
    st.floats(YEAR_1900 + 86400, YEAR_9999 - 86400),
    st.integers(-12 * 60, 14 * 60),
)
def test_the_standard_library_reads_the_same_second(now: float, offset: int) -> None:
    when = datetime.fromtimestamp(now // 1, timezone(timedelta(minutes=offset)))
    text = date_time(now, offset)
    assert parsedate_to_datetime(text) == when
    if offset:
        assert text == format_datetime(when)


@pytest.mark.parametrize("now", [YEAR_1900 - 86400, 1e13, -1e13])
def test_a_moment_that_no_header_field_can_hold_is_refused(now: float) -> None:
    with pytest.raises(ValueError, match=r"1900|out of the range"):
        date_time(now)
