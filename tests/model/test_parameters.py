"""What a client may ask in MAIL and RCPT: each value is strict, and its text parses back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.model.parameters import (
    DeliverBy,
    EnvelopeId,
    HoldUntil,
    Notify,
    OriginalRecipient,
    Return,
    Solicitation,
    ValidSince,
    moment_text,
    parse_hold_for,
    parse_moment,
    parse_priority,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_764_054_600.0  # 2025-11-25T07:10:00Z


def once(text: str) -> DeliverBy:
    return DeliverBy.parse_seconds(text, NOW)


GOOD: list[tuple[Callable[[str], object], str, object]] = [
    (Notify.parse, "never", Notify.NEVER),
    (Notify.parse, "Success", Notify.SUCCESS),
    (Notify.parse, "delay,FAILURE", Notify.FAILURE | Notify.DELAY),
    (Notify.parse, "SUCCESS,FAILURE,DELAY,SUCCESS", Notify.SUCCESS | Notify.FAILURE | Notify.DELAY),
    (Return.parse, "hdrs", Return.HDRS),
    (Return.parse, "FULL", Return.FULL),
    (EnvelopeId.parse, "QQ314159", EnvelopeId("QQ314159")),
    (EnvelopeId.parse, "a" * 100, EnvelopeId("a" * 100)),
    (OriginalRecipient.parse, "rfc822;Bob@Example.org", OriginalRecipient("rfc822", "Bob@Example.org")),
    (OriginalRecipient.parse, "X400;/C=US".replace("=", "+3D"), OriginalRecipient("X400", "/C+3DUS")),
    (OriginalRecipient.parse, "rfc822;a;b", OriginalRecipient("rfc822", "a;b")),
    (OriginalRecipient.parse, "utf-8;j\u00f6rg@example.org", OriginalRecipient("utf-8", "j\u00f6rg@example.org")),
    (OriginalRecipient.parse, "utf-8;j\\x{F6}rg@x.example", OriginalRecipient("utf-8", "j\\x{F6}rg@x.example")),
    (OriginalRecipient.parse, "UTF-8;a+2Bb@x.example", OriginalRecipient("UTF-8", "a+2Bb@x.example")),
    (OriginalRecipient.parse, "rfc822;" + "a" * 487, OriginalRecipient("rfc822", "a" * 487)),
    (once, "120;R", DeliverBy(1_764_054_720, returned=True)),
    (once, "+1;rt", DeliverBy(1_764_054_601, returned=True, trace=True)),
    (once, "-999999999;n", DeliverBy(764_054_601, returned=False)),
    (once, "0;NT", DeliverBy(1_764_054_600, returned=False, trace=True)),
    (DeliverBy.parse, "2025-11-25T07:12:00Z;R", once("120;R")),
    (DeliverBy.parse, "2025-11-25T07:10:01Z;NT", once("1;NT")),
    (parse_hold_for, "1", 1),
    (parse_hold_for, "999999999", 999_999_999),
    (HoldUntil.parse, "2025-11-25T07:10:00Z", HoldUntil(1_764_054_600)),
    (HoldUntil.parse, "2025-11-25t07:10:00.00z", HoldUntil(1_764_054_600)),
    (HoldUntil.parse, "2025-11-25T07:10:00.01Z", HoldUntil(1_764_054_601)),
    (parse_priority, "0", 0),
    (parse_priority, "9", 9),
    (parse_priority, "-9", -9),
    (ValidSince.parse, "2014-04-03T23:01:00Z", ValidSince(1_396_566_060)),
    (ValidSince.parse, "2014-04-03T16:01:00-07:00;c", ValidSince(1_396_566_060, "C")),
    (ValidSince.parse, "2014-04-03T23:01:00-00:00;R", ValidSince(1_396_566_060, "R")),
    (Solicitation.parse, "net.example:ADV", Solicitation(("net.example:ADV",))),
    (Solicitation.parse, "a,b_c-d", Solicitation(("a", "b_c-d"))),
    (Solicitation.parse, "a" * 1000, Solicitation(("a" * 1000,))),
]

BAD: list[tuple[Callable[[str], object], str]] = [
    # RFC 3461 §4.1: NEVER stands alone; the list has no empty element
    *(
        (Notify.parse, text)
        for text in ("", "ALWAYS", "NEVER,FAILURE", "FAILURE,NEVER", "SUCCESS,", ",DELAY", "NEVER,")
    ),
    *((Notify.parse, text) for text in ("SUCCESS FAILURE", "SUCCESS;DELAY", "FA\u0131LURE", "\u017fUCCESS")),
    *((Return.parse, text) for text in ("", "HEADERS", "FULL,HDRS", "FULL ", "HDR\u017f")),
    # RFC 3461 §4.4: at most 100 characters; what is hidden in xtext is printable ASCII, so no CR and LF (R43)
    *((EnvelopeId.parse, text) for text in ("", "a" * 101, "a+", "a+2b", "a=b", "a b", "+0D+0AX:", "+00", "+80")),
    (EnvelopeId.parse, "\u00f6"),
    *((OriginalRecipient.parse, text) for text in ("", "rfc822", "rfc822;", ";a@b.example", "rfc822;a+", "rfc 822;a")),
    *(
        (OriginalRecipient.parse, text)
        for text in ("rfc822;+0D+0ABcc:", "rfc822;j\u00f6rg@x.example", "a+b;c", "\u00f6;c")
    ),
    *(
        (OriginalRecipient.parse, text)
        for text in ("utf-8;\\x{0A}", "utf-8;\\x{D800}", "utf-8;a\\b+", "utf-8;\u00f6+2B")
    ),
    (OriginalRecipient.parse, "rfc822;" + "a" * 488),
    # RFC 2852 §4: R needs a time in the future; nine digits; a mode, then an optional T
    *((once, text) for text in ("", "120", "120;", ";R", "120;T", "120;TR", "120;RN", "0;R", "-1;R", "1000000000;N")),
    *((once, text) for text in ("1.5;R", "120;R ", "120,R", "--1;N", "+-1;N", "\u0661;N")),
    *((DeliverBy.parse, text) for text in ("120;R", "2025-11-25T07:12:00Z", "2025-11-25T07:12:00Z;r", "x;R")),
    *((parse_hold_for, text) for text in ("", "0", "01", "-1", "+1", "1000000000", "1.0", "\u0661")),
    # RFC 4865 §3: normalised to UTC
    *((HoldUntil.parse, text) for text in ("2025-11-25T07:10:00+01:00", "2025-11-25T07:10:00", "2025-11-25 07:10:00Z")),
    *((HoldUntil.parse, text) for text in ("", "Z", "1764054600", "2025-11-25", "2025-11-25T07:10Z")),
    *((parse_priority, text) for text in ("", "10", "-10", "+3", "-0", "03", "3.0", "high", "\u0663")),
    # RFC 7293 §3.1: no fraction of a second; C or R
    *(
        (ValidSince.parse, text)
        for text in ("2014-04-03T23:01:00.5Z", "2014-04-03T23:01:00Z;", "2014-04-03T23:01:00Z;X")
    ),
    *((ValidSince.parse, text) for text in ("2014-04-03T23:01:00Z;CR", ";C", "2014-04-03T23:01:00")),
    *((Solicitation.parse, text) for text in ("", ",", "a,", "1a", ":ADV", "a b", "a=b", "\u00e4", "a" * 1001)),
    (Solicitation.parse, "a," * 500 + "b"),
]


@pytest.mark.parametrize(("parse", "text", "value"), GOOD)
def test_a_value_is_read_as_it_is_meant(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text", "value"), GOOD)
def test_what_a_value_says_of_itself_is_the_value_again(
    parse: Callable[[str], object], text: str, value: object
) -> None:
    del text
    again = DeliverBy.parse if parse is once else parse
    assert again(str(value)) == value
    assert not set(str(value)) & set("= \r\n\0")
    assert hash(value) == hash(again(str(value)))


@pytest.mark.parametrize(("parse", "text"), BAD)
def test_anything_else_is_refused_with_a_reason(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", -1),
        ("1985-04-12T23:20:50.52Z", 482_196_051),  # RFC 3339 §5.8, its fraction counted as a second
        ("1996-12-19T16:39:57-08:00", 851_042_397),
        ("1990-12-31T23:59:60Z", 662_688_000),
        ("1990-12-31T15:59:60-08:00", 662_688_000),
        ("1937-01-01T12:00:27.87+00:20", -1_041_337_172),
        ("2024-02-29T00:00:00Z", 1_709_164_800),
        ("2025-11-25T07:10:00.000Z", 1_764_054_600),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
    ],
)
def test_moments(text: str, seconds: int) -> None:
    assert parse_moment(text) == seconds
    assert parse_moment(moment_text(seconds)) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "2025-02-29T00:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-11-25T24:00:00Z",
        "2025-11-25T07:60:00Z",
        "2025-11-25T07:10:60Z",
        "2025-11-25T07:10:00+24:00",
        "2025-11-25T07:10:00+01:60",
        "2025-11-25T07:10:00.Z",
        "2025-11-25T07:10:00+0100",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "25-11-25T07:10:00Z",
        "2025-11-25T07:10:00Z\n",
        "\u0662025-11-25T07:10:00Z",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59.5Z",
    ],
)
def test_no_moments(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_moment(text)


def test_a_year_before_1000_has_four_digits_too() -> None:
    assert moment_text(parse_moment("0099-01-01T00:00:00Z")) == "0099-01-01T00:00:00Z"
    with pytest.raises(ValueError, match="four digits"):
        moment_text(1e15)


def test_a_deliver_by_time_goes_out_as_the_seconds_that_are_left() -> None:
    by = DeliverBy.parse_seconds("120;RT", NOW)
    assert by.seconds_text(NOW + 22) == "98;RT"
    assert by.seconds_text(NOW + 22.5) == "97;RT"  # never longer than it is
    assert by.remaining(NOW + 130) == -10
    assert DeliverBy.parse_seconds("-5;N", NOW).seconds_text(NOW + 10**10) == "-999999999;N"


def test_an_original_recipient_shows_its_address_and_a_form_in_seven_bits() -> None:
    plain = OriginalRecipient.of("a+b@x.example")
    assert (str(plain), plain.address, plain.seven_bit()) == ("rfc822;a+2Bb@x.example", "a+b@x.example", plain)
    foreign = OriginalRecipient.parse("utf-8;j\u00f6rg@x.example")
    assert foreign.address == "j\u00f6rg@x.example"
    assert str(foreign.seven_bit()) == "utf-8;j\\x{F6}rg@x.example"
    assert foreign.seven_bit().address == foreign.address
    assert OriginalRecipient.of("j\u00f6rg@x.example") == foreign.seven_bit()


def test_an_envelope_identifier_shows_what_it_stands_for() -> None:
    assert EnvelopeId.of("a = b").encoded == "a+20+3D+20b"
    assert EnvelopeId.parse("a+20+3D+20b").text == "a = b"


def test_rrvs_refuses_a_next_hop_without_it_unless_told_to_go_on() -> None:
    assert not ValidSince.parse("2014-04-03T23:01:00Z").continues
    assert not ValidSince.parse("2014-04-03T23:01:00Z;R").continues
    assert ValidSince.parse("2014-04-03T23:01:00Z;C").continues


PARSERS = tuple({parse for parse, _, _ in GOOD if parse is not once} | {DeliverBy.parse})
PIECES = st.one_of(st.sampled_from([text for _, text, _ in GOOD]), st.sampled_from(",;:=+-.TZ0+0D\\x{0A}"), st.text())


@given(parse=st.sampled_from(PARSERS), pieces=st.lists(PIECES, max_size=4))
def test_whatever_is_sent_is_refused_or_goes_out_as_it_can(parse: Callable[[str], object], pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        value = parse(text)
    except ValueError:
        return
    wire = str(value)
    assert parse(wire) == value
    assert wire
    assert all(c > " " and c not in "=\x7f" for c in wire)  # RFC 5321 §4.1.2: an esmtp-value
    assert wire.isascii() or isinstance(value, OriginalRecipient)


@given(seconds=st.integers(1, 999_999_999), now=st.floats(0, 4e9))
def test_seconds_become_a_moment_and_seconds_again(seconds: int, now: float) -> None:
    by = DeliverBy.parse_seconds(f"{seconds};R", now)
    assert by.remaining(now) in {seconds, seconds + 1}  # a whole second more at most
    assert DeliverBy.parse(str(by)) == by
