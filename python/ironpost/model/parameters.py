"""Parameters of MAIL and RCPT as values: what a client asked of us beyond sending a message to somebody.

Promises: each value is frozen, compares by meaning, and `str()` gives the esmtp-value that parses back to it. Every
`parse` takes one esmtp-value, whatever its case where the standard leaves that open, and returns a value or raises; it
knows no session, so storage uses it as well. What counts from the moment of arrival (HOLDFOR, BY) becomes a moment in
time at once, because a queue must know when, not how long from when.
Refuses: whatever the grammar of the parameter does not have, with ValueError and a sentence.

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
    """A date-time of RFC 3339 §5.6 as whole seconds since 1970-01-01 UTC; a fraction of a second counts as a second.

    Raises:
        ValueError: it is none, or has a fraction and `fraction` is False.
    """
    found = _DATE_TIME.fullmatch(text)
    if found is None or (found[7] and not fraction):
        raise ValueError(f"{text!r:.40} is no date and time such as 2026-11-25T07:10:00Z")
    year, month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5, 6))
    east = int(found[9] or 0) * 60 + int(found[10] or 0)
    if int(found[9] or 0) > 23 or int(found[10] or 0) > 59:
        raise ValueError("the offset from UTC is more than 23:59")
    zone = timezone(timedelta(minutes=-east if found[8] == "-" else east))
    leap = second == 60  # RFC 3339 §5.7: once in a while a day's last minute has 61 seconds
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("no such day or time of day") from None
    if leap and (moment.hour, moment.minute) != (23, 59):
        raise ValueError("second 60 is only at the end of a day in UTC")
    up = bool(found[7] and found[7].strip(".0"))
    seconds = (moment - _EPOCH) // timedelta(seconds=1) + leap + up
    if seconds > _LAST:  # the last second there is, rounded up
        raise ValueError("no such day or time of day")
    return seconds


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST: Final = 253_402_300_799  # 9999-12-31T23:59:59Z


def moment_text(seconds: float) -> str:
    """Seconds since 1970-01-01 UTC as RFC 3339 §5.6 writes them, in UTC, whole seconds.

    Raises:
        ValueError: the year does not have four digits.
    """
    if not _FIRST <= seconds <= _LAST:
        raise ValueError(f"{seconds} seconds since 1970 are no date with a year of four digits")
    moment = _EPOCH + timedelta(seconds=math.floor(seconds))
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}".zfill(20)  # %Y does not fill up on every system


def _upper(text: str) -> str:
    """Keywords are ASCII: a dotless i in upper case is an I, and still no keyword's letter."""
    return text.upper() if text.isascii() else text


# ---------------------------------------------------------------------------------------------------------------------
# Delivery status notifications


class Notify(Flag):
    """NOTIFY: when the sender wants to hear of a recipient (RFC 3461 §4.1)."""

    NEVER = 0
    """Under no circumstances. It is false, so ask `is None` for "said nothing"."""
    SUCCESS = 1
    FAILURE = 2
    DELAY = 4

    @classmethod
    def parse(cls, text: str) -> Notify:
        """The value of NOTIFY.

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
    """RET: what a report of failure brings back (RFC 3461 §4.3)."""

    FULL = "FULL"
    HDRS = "HDRS"

    @classmethod
    def parse(cls, text: str) -> Return:
        """The value of RET.

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
"""Characters of an envelope identifier as it is sent (RFC 3461 §4.4)."""
ORCPT_LENGTH: Final = 500
"""Characters of an ORCPT parameter with its keyword (RFC 3461 §4.2)."""
_PRINTABLE: Final = re.compile(rb"[\t -~]+")
_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*/?^_`{|}~-]{1,64}")  # RFC 3461 §4.2; without `+` and `=`, as in xtext


@dataclass(frozen=True, slots=True)
class EnvelopeId:
    """ENVID: the sender's own name for this transaction (RFC 3461 §4.4). Carried on exactly as it came (§5.2.1)."""

    encoded: str
    """xtext."""

    def __post_init__(self) -> None:
        if not 0 < len(self.encoded) <= ENVID_LENGTH:
            raise ValueError(f"ENVID has 1 to {ENVID_LENGTH} characters")
        _decoded(self.encoded)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value of ENVID.

        Raises:
            ValueError: too long, no xtext, or what it stands for is not printable ASCII.
        """
        return cls(text)

    @classmethod
    def of(cls, text: str) -> Self:
        """The identifier `text`, encoded.

        Raises:
            ValueError: see `parse`.
        """
        return cls(wire.xtext_encode(text))

    @property
    def text(self) -> str:
        """What it stands for."""
        return _decoded(self.encoded)

    def __str__(self) -> str:
        return self.encoded


@dataclass(frozen=True, slots=True)
class OriginalRecipient:
    """ORCPT: the address that the sender wrote, before anybody forwarded it (RFC 3461 §4.2, RFC 6533 §3).

    Carried on exactly as it came (RFC 3461 §5.2.1), but for the form in which UTF-8 is written.
    """

    kind: str
    """The address type, `rfc822` or `utf-8` as a rule."""
    encoded: str
    """xtext; of type utf-8 the forms of RFC 6533 §3, which may hold UTF-8."""

    def __post_init__(self) -> None:
        if _ATOM.fullmatch(self.kind) is None:
            raise ValueError("ORCPT is an address type, a semicolon and an address")
        if not self.encoded or len(f"ORCPT={self}") > ORCPT_LENGTH:
            raise ValueError(f"ORCPT has an address, and {ORCPT_LENGTH} characters at most")
        _ = self.address

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value of ORCPT.

        Raises:
            ValueError: not `type;address`, too long, or the address is not encoded as its type demands.
        """
        kind, _, encoded = text.partition(";")
        return cls(kind, encoded)

    @classmethod
    def of(cls, address: str) -> Self:
        """The address of a recipient, encoded as RFC 3461 §4 has it, or RFC 6533 §3 where it needs UTF-8.

        Raises:
            ValueError: too long, or it holds what the encoding cannot.
        """
        if address.isascii():
            return cls("rfc822", wire.xtext_encode(address))
        return cls("utf-8", wire.utf8_addr_xtext_encode(address))

    @property
    def address(self) -> str:
        """What it stands for."""
        if self.kind.lower() == "utf-8":
            try:
                return wire.utf8_addr_xtext_decode(self.encoded)
            except ValueError:
                if "\\" in self.encoded:
                    raise
        return _decoded(self.encoded)  # also for senders that know utf-8, but not its own encoding

    def seven_bit(self) -> Self:
        """The form for a peer without SMTPUTF8 (RFC 6533 §3): itself if it holds no UTF-8.

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
        raise ValueError("what is encoded must be printable ASCII")
    return octets.decode("ascii")


# ---------------------------------------------------------------------------------------------------------------------
# Time and urgency

LONGEST: Final = 999_999_999
"""Seconds that by-time (RFC 2852 §4) and future-release-interval (RFC 4865 §3) can say, more than 31 years."""
_BY: Final = re.compile(r"([+-]?\d{1,9});([NR])(T?)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """BY: by when a message is to be delivered, and what to do if it is not (RFC 2852 §4).

    On the wire it counts seconds from now: `parse_seconds` and `seconds_text`. It is kept as a moment in time, and
    `str()` and `parse` write it so: `2026-11-25T07:10:00Z;RT`.
    """

    deadline: int
    """Seconds since 1970."""
    returned: bool
    """Mode R: give up and report. Else mode N: report the delay, and go on."""
    trace: bool = False
    """T: report each relaying, too."""

    @classmethod
    def parse_seconds(cls, text: str, now: float) -> Self:
        """The value of BY as it comes in at `now` (seconds since 1970).

        Raises:
            ValueError: not `seconds;mode` with an optional T, or no time at all in mode R (RFC 2852 §4).
        """
        found = _BY.fullmatch(text)
        if found is None:
            raise ValueError("BY is a number of seconds, a semicolon, N or R, and perhaps T")
        seconds, returned = int(found[1]), found[2] in "Rr"
        if returned and seconds <= 0:
            raise ValueError("BY in mode R needs a time in the future")
        return cls(math.ceil(now) + seconds, returned, bool(found[3]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` gave.

        Raises:
            ValueError: it did not.
        """
        moment, _, mode = text.partition(";")
        if mode not in {"N", "R", "NT", "RT"}:
            raise ValueError("a deliver-by time is a moment, a semicolon, N or R, and perhaps T")
        return cls(parse_moment(moment, fraction=False), mode[0] == "R", mode[1:] == "T")

    def remaining(self, now: float) -> int:
        """Whole seconds that are left at `now`; below zero they are over (RFC 2852 §4.1.4)."""
        return math.floor(self.deadline - now)

    def seconds_text(self, now: float) -> str:
        """The value of BY as it goes out at `now`."""
        return f"{max(-LONGEST, min(LONGEST, self.remaining(now)))};{self._mode}"

    @property
    def _mode(self) -> str:
        return ("R" if self.returned else "N") + ("T" if self.trace else "")

    def __str__(self) -> str:
        return f"{moment_text(self.deadline)};{self._mode}"


_INTERVAL: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)


def parse_hold_for(text: str) -> int:
    """HOLDFOR: seconds (RFC 4865 §3).

    Raises:
        ValueError: not a number from 1 to 999999999.
    """
    if _INTERVAL.fullmatch(text) is None:
        raise ValueError("HOLDFOR is a number of seconds from 1 to 999999999")
    return int(text)


@dataclass(frozen=True, slots=True)
class HoldUntil:
    """HOLDUNTIL: when a message is released (RFC 4865 §3)."""

    at: int
    """Seconds since 1970."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value of HOLDUNTIL.

        Raises:
            ValueError: no date-time, or not in UTC (RFC 4865 §3: "normalized to UTC").
        """
        if text[-1:] not in {"Z", "z"}:
            raise ValueError("HOLDUNTIL is a moment in UTC")
        return cls(parse_moment(text))

    def __str__(self) -> str:
        return moment_text(self.at)


_PRIORITY: Final = re.compile(r"-?[1-9]|0", re.ASCII)


def parse_priority(text: str) -> int:
    """MT-PRIORITY: the higher, the more urgent (RFC 6710 §7).

    Raises:
        ValueError: not a number from -9 to 9.
    """
    if _PRIORITY.fullmatch(text) is None:
        raise ValueError("MT-PRIORITY is a number from -9 to 9")
    return int(text)


# ---------------------------------------------------------------------------------------------------------------------
# Who and what


@dataclass(frozen=True, slots=True)
class ValidSince:
    """RRVS: the mailbox must have been the same person's since then (RFC 7293 §3.1)."""

    since: int
    """Seconds since 1970."""
    action: str = ""
    """What a next hop without RRVS means: `C` goes on, `R` refuses; empty if the client did not say, which is `R`."""

    def __post_init__(self) -> None:
        if self.action not in {"", "C", "R"}:
            raise ValueError("the no-support action of RRVS is C or R")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value of RRVS.

        Raises:
            ValueError: no date-time of whole seconds, or another action than C and R.
        """
        moment, semicolon, action = text.partition(";")
        if semicolon and not action:
            raise ValueError("the no-support action of RRVS is C or R")
        return cls(parse_moment(moment, fraction=False), _upper(action))

    @property
    def goes_on(self) -> bool:
        """A next hop without RRVS may have the message all the same."""
        return self.action == "C"

    def __str__(self) -> str:
        return moment_text(self.since) + (f";{self.action}" if self.action else "")


SOLICIT_LENGTH: Final = 1000
"""Characters of a list of solicitation classes (RFC 3865 §2.2)."""
_CLASS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._:-]*")


@dataclass(frozen=True, slots=True)
class Solicitation:
    """SOLICIT: the classes of solicitation that the message says it belongs to (RFC 3865 §2.2)."""

    classes: tuple[str, ...]
    """At least one, such as `net.example:ADV`."""

    def __post_init__(self) -> None:
        if not self.classes or any(_CLASS.fullmatch(each) is None for each in self.classes):
            raise ValueError("a solicitation class is a letter, then letters, digits, dots, hyphens, _ and colons")
        if len(str(self)) > SOLICIT_LENGTH:
            raise ValueError(f"a list of solicitation classes has at most {SOLICIT_LENGTH} characters")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value of SOLICIT, or the parameter of the keyword NO-SOLICITING.

        Raises:
            ValueError: not a list of classes, or too long.
        """
        return cls(tuple(text.split(",")))

    def __str__(self) -> str:
        return ",".join(self.classes)
