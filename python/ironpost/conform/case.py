"""What a case is: its id, level and requirements, what it sends and which replies it accepts.

Promises: cases are data where possible: `Topic.row` takes a dialogue, `Topic.case` a function where a dialogue is not
enough. The id contains the section (`rfc5321-4.1.1.4-dot-crlf-only`) and `Case.cites` reads it from there, so the two
cannot disagree. Accepted replies are written as codes in which `x` is any digit. `~` before a code means that it is
allowed but is not the code that the section asks for: a warning. `close` means that the server may close the
connection instead.

Refuses: a duplicate id, and an id without a section, when the module is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ironpost.conform.talk import Talk

    Run: TypeAlias = Callable[[Talk], Awaitable[None]]

_ID = re.compile(r"rfc(\d+)-(\d+(?:\.\d+)*|[A-G](?:\.\d+)*)-([a-z0-9][a-z0-9.-]*)")
_CODE = re.compile(r"~?[2-5x][0-9x][0-9x]|close")


class Level(Enum):
    """How strongly the standard requires what a case tests."""

    MUST = "MUST"
    """The standard requires it. A failure is reported as `fail`."""
    SHOULD = "SHOULD"
    """The standard recommends it. A failure is reported as `warn`."""
    ROBUST = "robust"
    """Good practice for security or interoperability, in our opinion. A failure is reported as `warn`."""


class CaseOutcome(Enum):
    """The result of a case."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    WARN = "warn"
    NOT_APPLICABLE = "n.a."
    ERROR = "error"
    """The case failed before it reached what it tests."""


class Start(IntEnum):
    """How far the dialogue has got when a case begins. Each stage includes the earlier ones."""

    CONNECTED = 0
    """Connected (with implicit TLS if the target uses it); the greeting has not been read."""
    GREETED = 1
    HELLO = 2
    """After EHLO (LHLO), and after STARTTLS and AUTH if the target asks for them."""
    MAIL = 3
    RCPT = 4
    DATA = 5
    """The 354 reply has been read."""


class Profile(Enum):
    """The kind of server under test."""

    MX = "mx"
    SUBMISSION = "submission"
    LMTP = "lmtp"


MX: Final = frozenset({Profile.MX})
SUBMISSION: Final = frozenset({Profile.SUBMISSION})
LMTP: Final = frozenset({Profile.LMTP})
SMTP: Final = MX | SUBMISSION
ANY: Final = SMTP | LMTP


class Failed(Exception):
    """The server did not do what the case requires. The text says what it did instead."""


class NotApplicable(Exception):
    """The case does not apply to this server. The text says why."""


class CaseStep(NamedTuple):
    """What is sent, and the replies expected to it."""

    send: tuple[bytes, ...]
    """Pieces, each sent in its own write."""
    expect: tuple[str, ...]
    """One specification for each reply; empty: read nothing."""


def say(send: bytes | tuple[bytes, ...], *expect: str) -> CaseStep:
    """Make a step. `{from}`, `{to}`, `{to2}`, `{rejected}`, `{name}`, `{ehlo}` and `{message}` are placeholders."""
    return CaseStep((send,) if isinstance(send, bytes) else send, expect)


class Codes(NamedTuple):
    """The replies that a specification accepts."""

    asked: tuple[re.Pattern[str], ...]
    allowed: tuple[re.Pattern[str], ...]
    close: bool


@cache
def codes(specification: str) -> Codes:
    """Parse a specification such as `503 ~5xx close`.

    Raises:
        ValueError: the specification contains an invalid code.
    """
    words = specification.split()
    for word in words:
        if not _CODE.fullmatch(word):
            raise ValueError(f"{word!r} is not a valid reply code pattern: expected, for example, 250, ~5xx or close")
    patterns = {word: re.compile(word.lstrip("~").replace("x", "[0-9]")) for word in words if word != "close"}
    return Codes(
        tuple(pattern for word, pattern in patterns.items() if not word.startswith("~")),
        tuple(pattern for word, pattern in patterns.items() if word.startswith("~")),
        "close" in words,
    )


@dataclass(frozen=True)
class Case:
    """One test of a server."""

    id: str
    level: Level
    does: str
    """What the case does and what must happen, in one sentence."""
    topic: str
    run: Run
    start: Start = Start.HELLO
    profiles: frozenset[Profile] = ANY
    needs: tuple[str, ...] = ()
    """EHLO keywords that must be offered for the case to apply; `!KEYWORD` must not be offered."""
    wants: tuple[str, ...] = ()
    """What the caller must have given or the survey must have found: keys of `target.WANTS`."""

    @property
    def cites(self) -> str:
        """The section under test, for example `RFC 5321 §4.1.1.4`."""
        match = _ID.fullmatch(self.id)
        assert match is not None
        kind = "appendix " if match[2][0].isalpha() else "§"
        return f"RFC {match[1]} {kind}{match[2]}"


@dataclass
class Topic:
    """The cases of one file, in order."""

    name: str
    title: str
    profiles: frozenset[Profile] = ANY
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    cases: list[Case] = field(default_factory=list)

    def case(
        self,
        id: str,  # noqa: A002 - its name
        level: Level,
        does: str,
        *,
        start: Start = Start.HELLO,
        profiles: frozenset[Profile] | None = None,
        needs: tuple[str, ...] = (),
        wants: tuple[str, ...] = (),
    ) -> Callable[[Run], Run]:
        """Register the decorated function as a case.

        Raises:
            ValueError: the id names no section, or is already used in this topic.
        """

        def add(run: Run) -> Run:
            if not _ID.fullmatch(id):
                raise ValueError(
                    f"invalid case id {id!r}: expected a name with its section, such as rfc5321-4.2-grammar"
                )
            if any(other.id == id for other in self.cases):
                raise ValueError(f"duplicate case id {id!r}")
            self.cases.append(
                Case(
                    id, level, does, self.name, run, start,
                    self.profiles if profiles is None else profiles, self.needs + needs, self.wants + wants,
                )
            )  # fmt: skip
            return run

        return add

    def row(
        self,
        id: str,  # noqa: A002 - its name
        level: Level,
        does: str,
        *steps: CaseStep,
        start: Start = Start.HELLO,
        profiles: frozenset[Profile] | None = None,
        needs: tuple[str, ...] = (),
        wants: tuple[str, ...] = (),
        quits: bool = True,
    ) -> None:
        """Add a case that consists of a dialogue. Unless `quits` is false, QUIT must then be answered 221, which shows
        that no reply was missing or surplus."""
        for step in steps:
            for specification in step.expect:
                codes(specification)

        async def run(talk: Talk) -> None:
            for step in steps:
                await talk.send(*step.send)
                for specification in step.expect:
                    if await talk.expect(specification) is None:
                        return
            if quits:
                await talk.in_step()

        self.case(id, level, does, start=start, profiles=profiles, needs=needs, wants=wants)(run)
