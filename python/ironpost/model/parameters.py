"""Typed values of ESMTP parameters of MAIL and RCPT.

Promises: each value is immutable, compares by meaning, and `str()` gives the esmtp-value that parses back to it. Every
`parse` takes one esmtp-value, ignoring case where the standard does, and returns a value or raises; it needs no
session, so stores use it too. Intervals that start at arrival (HOLDFOR, BY) are converted to a point in time on
receipt, because a queue needs deadlines.
Refuses: values outside the grammar of the parameter, with ValueError.

Standards: RFC 2852 §4 (BY), RFC 3461 §4 (NOTIFY, ORCPT, RET, ENVID), RFC 3865 §2.2 (SOLICIT), RFC 4865 §3 (HOLDFOR,
HOLDUNTIL), RFC 6533 §3 (ORCPT of type utf-8), RFC 6710 §7 (MT-PRIORITY), RFC 7293 §3.1 (RRVS), RFC 3339 §5.6 (moments).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, Flag
from typing import TYPE_CHECKING, Final

from ironpost import wire

if TYPE_CHECKING:
    from typing import Self

# ---------------------------------------------------------------------------------------------------------------------
# Moments

_DATE_TIME: Final = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2}):(\d{2})(\.\d+)?(?:Z|([+-])(\d{2}):(\d{2}))", re.ASCII | re.IGNORECASE
)


def parse_moment(text: str, *, fraction: bool = True) -> int:
    """Parse a date-time of RFC 3339 §5.6 to seconds since 1970-01-01 UTC; a fraction is rounded up.

    Raises:
        ValueError: `text` is not a date-time, or has a fraction and `fraction` is False.
    """
    found = _DATE_TIME.fullmatch(text)
    if found is None or (found[7] and not fraction):
        raise ValueError(f"{text!r:.40} is not a valid date and time, expected a form such as 2026-11-25T07:10:00Z")
    year, month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5, 6))
    east = int(found[9] or 0) * 60 + int(found[10] or 0)
    if int(found[9] or 0) > 23 or int(found[10] or 0) > 59:
        raise ValueError("the offset from UTC is more than 23:59")
    zone = timezone(timedelta(minutes=-east if found[8] == "-" else east))
    leap = second == 60  # RFC 3339 §5.7: leap seconds
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("not a valid date or time of day") from None
    if leap and (moment.hour, moment.minute) != (23, 59):
        raise ValueError("second 60 is only valid at the end of a day in UTC")
    up = bool(found[7] and found[7].strip(".0"))
    seconds = (moment - _EPOCH) // timedelta(seconds=1) + leap + up
    if seconds > _LAST:  # a fraction of the last second, rounded up
        raise ValueError("not a valid date or time of day")
    return seconds


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST: Final = 253_402_300_799  # 9999-12-31T23:59:59Z


def moment_text(seconds: float) -> str:
    """Format seconds since 1970-01-01 UTC as a date-time of RFC 3339 §5.6 in UTC; fractions are dropped.

    Raises:
        ValueError: the year does not have four digits.
    """
    if not _FIRST <= seconds <= _LAST:
        raise ValueError(f"{seconds} seconds since 1970: the year does not have four digits")
    moment = _EPOCH + timedelta(seconds=math.floor(seconds))
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}".zfill(20)  # %Y is not padded to four digits on every system


def _upper(text: str) -> str:
    """Return ASCII text in upper case, other text unchanged: the upper case of a dotless i would be a keyword's I."""
    return text.upper() if text.isascii() else text


# ---------------------------------------------------------------------------------------------------------------------
# Delivery status notifications


class Notify(Flag):
    """NOTIFY: when to send the sender a DSN about a recipient (RFC 3461 §4.1)."""

    NEVER = 0
    """Never. This value is false, so test for a missing NOTIFY with `is None`."""
    SUCCESS = 1
    FAILURE = 2
    DELAY = 4

    @classmethod
    def parse(cls, text: str) -> Notify:
        """Parse the value of NOTIFY.

        Raises:
            ValueError: neither NEVER alone nor a list of SUCCESS, FAILURE and DELAY.
        """
        words = _upper(text)
        if words == "NEVER":
            return cls.NEVER
        wanted = cls.NEVER
        for word in words.split(","):
            if word not in _CONDITIONS:
                raise ValueError("NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY")
            wanted |= cls[word]
        return wanted

    def __str__(self) -> str:
        return ",".join(word for word in _CONDITIONS if Notify[word] in self) or "NEVER"


_CONDITIONS: Final = ("SUCCESS", "FAILURE", "DELAY")


class Return(Enum):
    """RET: the part of the message that a bounce returns (RFC 3461 §4.3)."""

    FULL = "FULL"
    HDRS = "HDRS"

    @classmethod
    def parse(cls, text: str) -> Return:
        """Parse the value of RET.

        Raises:
            ValueError: neither FULL nor HDRS.
        """
        try:
            return cls(_upper(text))
        except ValueError:
            raise ValueError("RET is FULL or HDRS") from None

    def __str__(self) -> str:
        return self.value


ENVID_LENGTH: Final = 100
"""Maximum characters of an encoded envelope identifier (RFC 3461 §4.4)."""
ORCPT_LENGTH: Final = 500
"""Maximum characters of an ORCPT parameter with its keyword (RFC 3461 §4.2)."""
_PRINTABLE: Final = re.compile(rb"[\t -~]+")
_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*/?^_`{|}~-]{1,64}")  # RFC 3461 §4.2; without `+` and `=`, as in xtext


@dataclass(frozen=True, slots=True)
class EnvelopeId:
    """ENVID: the sender's identifier of this transaction (RFC 3461 §4.4), which is passed on unchanged (§5.2.1)."""

    encoded: str
    """The identifier in xtext."""

    def __post_init__(self) -> None:
        if not 0 < len(self.encoded) <= ENVID_LENGTH:
            raise ValueError(f"ENVID has 1 to {ENVID_LENGTH} characters")
        _decoded(self.encoded)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the value of ENVID.

        Raises:
            ValueError: too long, not valid xtext, or its decoded form is not printable ASCII.
        """
        return cls(text)

    @classmethod
    def of(cls, text: str) -> Self:
        """Encode an identifier.

        Raises:
            ValueError: see `parse`.
        """
        return cls(wire.xtext_encode(text))

    @property
    def text(self) -> str:
        """The decoded value."""
        return _decoded(self.encoded)

    def __str__(self) -> str:
        return self.encoded


@dataclass(frozen=True, slots=True)
class OriginalRecipient:
    """ORCPT: the recipient's address as the sender specified it, before any forwarding (RFC 3461 §4.2, RFC 6533 §3).

    It is passed on unchanged (RFC 3461 §5.2.1), except for the encoding of UTF-8.
    """

    kind: str
    """The address type, usually `rfc822` or `utf-8`."""
    encoded: str
    """The address in xtext; for the type utf-8 in one of the encodings of RFC 6533 §3, of which one contains UTF-8."""

    def __post_init__(self) -> None:
        if _ATOM.fullmatch(self.kind) is None:
            raise ValueError("ORCPT must be an address type, a semicolon and an address")
        if not self.encoded or len(f"ORCPT={self}") > ORCPT_LENGTH:
            raise ValueError(f"ORCPT must have an address and at most {ORCPT_LENGTH} characters")
        _ = self.address

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the value of ORCPT.

        Raises:
            ValueError: not `type;address`, too long, or the address is not encoded as its type demands.
        """
        kind, _, encoded = text.partition(";")
        return cls(kind, encoded)

    @classmethod
    def of(cls, address: str) -> Self:
        """Encode the address of a recipient: as in RFC 3461 §4 if it is ASCII, else as in RFC 6533 §3.

        Raises:
            ValueError: too long, or it contains a character that cannot be encoded.
        """
        if address.isascii():
            return cls("rfc822", wire.xtext_encode(address))
        return cls("utf-8", wire.utf8_addr_xtext_encode(address))

    @property
    def address(self) -> str:
        """The decoded value."""
        if self.kind.lower() == "utf-8":
            try:
                return wire.utf8_addr_xtext_decode(self.encoded)
            except ValueError:
                if "\\" in self.encoded:
                    raise
        return _decoded(self.encoded)  # also for senders that use xtext with the type utf-8

    def seven_bit(self) -> Self:
        """Return the form for a peer without SMTPUTF8 (RFC 6533 §3), which is unchanged if it contains no UTF-8.

        Raises:
            ValueError: this form is too long for a parameter.
        """
        if self.encoded.isascii():
            return self
        return type(self)(self.kind, wire.utf8_addr_xtext_encode(self.address))

    def __str__(self) -> str:
        return f"{self.kind};{self.encoded}"


def _decoded(xtext: str) -> str:
    octets = wire.xtext_decode(xtext)
    if _PRINTABLE.fullmatch(octets) is None:
        raise ValueError("the encoded text must be printable ASCII")
    return octets.decode("ascii")


# ---------------------------------------------------------------------------------------------------------------------
# Times and priorities

LONGEST: Final = 999_999_999
"""The longest by-time (RFC 2852 §4) and future-release-interval (RFC 4865 §3) in seconds, more than 31 years."""
_BY: Final = re.compile(r"([+-]?\d{1,9});([NR])(T?)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """BY: the deadline for delivery of a message, and what to do after it (RFC 2852 §4).

    The form on the wire is a number of seconds from now: `parse_seconds` and `seconds_text`. The value is stored as a
    point in time, which is the form of `str()` and `parse`: `2026-11-25T07:10:00Z;RT`.
    """

    deadline: int
    """The deadline, in seconds since 1970."""
    returned: bool
    """Mode R: return the message at the deadline. Otherwise mode N: report the delay, and keep trying."""
    trace: bool = False
    """T: also report each relaying of the message."""

    @classmethod
    def parse_seconds(cls, text: str, now: float) -> Self:
        """Parse the value of BY in a command received at `now` (seconds since 1970).

        Raises:
            ValueError: not `seconds;mode` with an optional T, or mode R without a time in the future (RFC 2852 §4).
        """
        found = _BY.fullmatch(text)
        if found is None:
            raise ValueError("BY must be a number of seconds, a semicolon, N or R, and optionally T")
        seconds, returned = int(found[1]), found[2] in "Rr"
        if returned and seconds <= 0:
            raise ValueError("BY in mode R needs a time in the future")
        return cls(math.ceil(now) + seconds, returned, bool(found[3]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the form of `str`.

        Raises:
            ValueError: any other form.
        """
        moment, _, mode = text.partition(";")
        if mode not in {"N", "R", "NT", "RT"}:
            raise ValueError("a deliver-by time must be a date-time, a semicolon, N or R, and optionally T")
        return cls(parse_moment(moment, fraction=False), mode[0] == "R", mode[1:] == "T")

    def remaining(self, now: float) -> int:
        """Return the whole seconds left at `now`; negative after the deadline (RFC 2852 §4.1.4)."""
        return math.floor(self.deadline - now)

    def seconds_text(self, now: float) -> str:
        """Return the value of BY for a command sent at `now`."""
        return f"{max(-LONGEST, min(LONGEST, self.remaining(now)))};{self._mode}"

    @property
    def _mode(self) -> str:
        return ("R" if self.returned else "N") + ("T" if self.trace else "")

    def __str__(self) -> str:
        return f"{moment_text(self.deadline)};{self._mode}"


_INTERVAL: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)


def parse_hold_for(text: str) -> int:
    """Parse the value of HOLDFOR, in seconds (RFC 4865 §3).

    Raises:
        ValueError: not a number from 1 to 999999999.
    """
    if _INTERVAL.fullmatch(text) is None:
        raise ValueError("HOLDFOR must be a number of seconds from 1 to 999999999")
    return int(text)


@dataclass(frozen=True, slots=True)
class HoldUntil:
    """HOLDUNTIL: the time before which a message must not be delivered (RFC 4865 §3)."""

    at: int
    """The time, in seconds since 1970."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the value of HOLDUNTIL.

        Raises:
            ValueError: not a date-time, or not in UTC (RFC 4865 §3: "normalized to UTC").
        """
        if text[-1:] not in {"Z", "z"}:
            raise ValueError("HOLDUNTIL must be a date-time in UTC")
        return cls(parse_moment(text))

    def __str__(self) -> str:
        return moment_text(self.at)


_PRIORITY: Final = re.compile(r"-?[1-9]|0", re.ASCII)


def parse_priority(text: str) -> int:
    """Parse the value of MT-PRIORITY; higher is more urgent (RFC 6710 §7).

    Raises:
        ValueError: not a number from -9 to 9.
    """
    if _PRIORITY.fullmatch(text) is None:
        raise ValueError("MT-PRIORITY must be a number from -9 to 9")
    return int(text)


# ---------------------------------------------------------------------------------------------------------------------
# Owners and solicitation


@dataclass(frozen=True, slots=True)
class ValidSince:
    """RRVS: the mailbox must have had the same owner since a given time (RFC 7293 §3.1)."""

    since: int
    """The time, in seconds since 1970."""
    action: str = ""
    """What to do if the next hop does not support RRVS: `C` continues without it, `R` refuses; empty if the client did
    not specify it, which means `R`."""

    def __post_init__(self) -> None:
        if self.action not in {"", "C", "R"}:
            raise ValueError("the no-support action of RRVS must be C or R")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the value of RRVS.

        Raises:
            ValueError: not a date-time of whole seconds, or an action other than C and R.
        """
        moment, semicolon, action = text.partition(";")
        if semicolon and not action:
            raise ValueError("the no-support action of RRVS must be C or R")
        return cls(parse_moment(moment, fraction=False), _upper(action))

    @property
    def continues(self) -> bool:
        """Whether a next hop without RRVS may get the message."""
        return self.action == "C"

    def __str__(self) -> str:
        return moment_text(self.since) + (f";{self.action}" if self.action else "")


SOLICIT_LENGTH: Final = 1000
"""Maximum characters of a list of solicitation classes (RFC 3865 §2.2)."""
_CLASS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._:-]*")


@dataclass(frozen=True, slots=True)
class Solicitation:
    """SOLICIT: the classes of solicitation that the sender declares for a message (RFC 3865 §2.2)."""

    classes: tuple[str, ...]
    """At least one class, such as `net.example:ADV`."""

    def __post_init__(self) -> None:
        if not self.classes or any(_CLASS.fullmatch(each) is None for each in self.classes):
            raise ValueError("a solicitation class must be a letter, then letters, digits, dots, hyphens, _ or colons")
        if len(str(self)) > SOLICIT_LENGTH:
            raise ValueError(f"a list of solicitation classes must have at most {SOLICIT_LENGTH} characters")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the value of SOLICIT, or the parameter of the keyword NO-SOLICITING.

        Raises:
            ValueError: not a list of classes, or too long.
        """
        return cls(tuple(text.split(",")))

    def __str__(self) -> str:
        return ",".join(self.classes)
