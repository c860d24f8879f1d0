"""What a case is: its name, how much it weighs, what it needs, what it says and what must come back.

Promises: a case is data as far as it can be: `Topic.row` takes a dialogue, `Topic.case` a function where a dialogue is
not enough. Its name carries the section that it is about (`rfc5321-4.1.1.4-dot-crlf-only`), and `Case.cites` reads it
from there, so the two cannot disagree. What a reply may be is written as codes in which `x` is any digit; a `~` before
one says: allowed, but not what the section asks for, which makes a warning; `close` says that the server may close the
connection instead.

Refuses: two cases with one name, and a name without a section, when the module is imported.
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
    """How much a case weighs."""

    MUST = "MUST"
    """The standard demands it. Failing makes `fail`."""
    SHOULD = "SHOULD"
    """The standard recommends it. Failing makes `warn`."""
    ROBUST = "robust"
    """No standard says so, but security or experience does: our opinion. Failing makes `warn`."""


class Outcome(Enum):
    """What became of a case."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    WARN = "warn"
    NOT_APPLICABLE = "n.a."
    ERROR = "error"
    """The case did not get as far as its question."""


class Start(IntEnum):
    """How far the dialogue is when a case begins. Each includes those before it."""

    CONNECTED = 0
    """Connected (and in implicit TLS, if the server is reached so); the greeting is not read."""
    GREETED = 1
    HELLO = 2
    """After EHLO (LHLO), STARTTLS and AUTH if they were asked for."""
    MAIL = 3
    RCPT = 4
    DATA = 5
    """354 was read."""


class Profile(Enum):
    """Which kind of server is at the other end."""

    MX = "mx"
    SUBMISSION = "submission"
    LMTP = "lmtp"


MX: Final = frozenset({Profile.MX})
SUBMISSION: Final = frozenset({Profile.SUBMISSION})
LMTP: Final = frozenset({Profile.LMTP})
SMTP: Final = MX | SUBMISSION
ANY: Final = SMTP | LMTP


class Failed(Exception):
    """The server did not do what the case asks for; the text says what it did."""


class NotApplicable(Exception):
    """The case has no question for this server; the text says why."""


class Step(NamedTuple):
    """One thing said and the replies to it."""

    send: tuple[bytes, ...]
    """Pieces, each sent for itself."""
    expect: tuple[str, ...]
    """One specification for each reply; empty: read nothing."""


def say(send: bytes | tuple[bytes, ...], *expect: str) -> Step:
    """A step. `{from}`, `{to}`, `{to2}`, `{rejected}`, `{name}`, `{ehlo}` and `{message}` are filled in."""
    return Step((send,) if isinstance(send, bytes) else send, expect)


class Codes(NamedTuple):
    """What a reply may be."""

    asked: tuple[re.Pattern[str], ...]
    allowed: tuple[re.Pattern[str], ...]
    close: bool


@cache
def codes(specification: str) -> Codes:
    """Reads a specification such as `503 ~5xx close`.

    Raises:
        ValueError: it is none.
    """
    words = specification.split()
    for word in words:
        if not _CODE.fullmatch(word):
            raise ValueError(f"{word!r} is no reply code")
    patterns = {word: re.compile(word.lstrip("~").replace("x", "[0-9]")) for word in words if word != "close"}
    return Codes(
        tuple(pattern for word, pattern in patterns.items() if not word.startswith("~")),
        tuple(pattern for word, pattern in patterns.items() if word.startswith("~")),
        "close" in words,
    )


@dataclass(frozen=True)
class Case:
    """One question to a server."""

    id: str
    level: Level
    does: str
    """What it does and what must happen, in one sentence."""
    topic: str
    run: Run
    start: Start = Start.HELLO
    profiles: frozenset[Profile] = ANY
    needs: tuple[str, ...] = ()
    """EHLO keywords without which it is not applicable; `!KEYWORD` for one with which it is not."""
    wants: tuple[str, ...] = ()
    """What the caller must have told or the survey found: a key of `survey.WANTS`."""

    @property
    def cites(self) -> str:
        """The section that it is about."""
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
        """Makes a case of the function below it."""

        def add(run: Run) -> Run:
            if not _ID.fullmatch(id):
                raise ValueError(f"{id!r} does not name its section")
            if any(other.id == id for other in self.cases):
                raise ValueError(f"{id!r} is there twice")
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
        *steps: Step,
        start: Start = Start.HELLO,
        profiles: frozenset[Profile] | None = None,
        needs: tuple[str, ...] = (),
        wants: tuple[str, ...] = (),
        quits: bool = True,
    ) -> None:
        """A case that is a dialogue. Behind it QUIT must be answered 221: no reply too few, none too many."""
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
