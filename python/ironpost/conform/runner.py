"""Runs the cases against one server and gathers what came of them.

Promises: a result for every case, in their order, whatever the server does; a case ends at its deadline; connections
are opened at a polite rate. A case that does not get as far as its question is an `error`, not a failure.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from ironpost.conform.case import Case, Failed, Level, NotApplicable, Outcome, Start
from ironpost.conform.connection import Malformed, Silence, TlsFailed, Untrusted
from ironpost.conform.talk import Talk
from ironpost.conform.target import WANTS, lacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ironpost.conform.target import Survey, Target

APART: Final = 0.02
"""Seconds between the beginnings of two cases."""
PATIENCE: Final = 6
"""How many time-outs a case may take in all."""
RETRIES: Final = 2
"""How often a case begins again when the server says 421 or refuses the connection."""


@dataclass(frozen=True)
class Result:
    """What became of one case."""

    case: Case
    outcome: Outcome
    why: str = ""
    seconds: float = 0.0
    dialogue: Sequence[str] = field(default=(), repr=False)

    @property
    def wrong(self) -> bool:
        """It keeps the exit code from being 0: a MUST that is not shown to be kept."""
        return self.case.level is Level.MUST and self.outcome in {Outcome.FAIL, Outcome.ERROR}

    def json(self, *, dialogue: bool) -> dict[str, Any]:
        """As `--json` prints it."""
        said = {"dialogue": list(self.dialogue)} if dialogue else {}
        return {
            "id": self.case.id, "topic": self.case.topic, "level": self.case.level.value, "cites": self.case.cites,
            "does": self.case.does, "outcome": self.outcome.value, "why": self.why,
            "seconds": round(self.seconds, 3), **said,
        }  # fmt: skip


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases that one of the patterns means; all without patterns. A topic's name means its cases, anything else
    those whose name it fits, as a file name pattern if it holds a `*`, else as a part of the name."""
    topics = {case.topic for case in cases} & set(patterns)
    names = [p if set("*?[") & set(p) else f"*{p}*" for p in patterns if p not in topics]
    return [
        case
        for case in cases
        if not patterns or case.topic in topics or any(fnmatchcase(case.id, name) for name in names)
    ]


def inapplicable(case: Case, target: Target, survey: Survey) -> str:
    """Why a case has no question for this server; empty if it has."""
    if target.profile not in case.profiles:
        return f"not for {target.profile.value}"
    offered = survey.clear if "STARTTLS" in case.needs else survey.offers
    for keyword in case.needs:
        name = keyword.removeprefix("!")
        if (name in offered) == keyword.startswith("!"):
            return f"{name} is {'offered' if keyword.startswith('!') else 'not offered'}"
    return next((WANTS[want] for want in case.wants if lacks(want, target, survey)), "")


async def run(
    target: Target,
    survey: Survey,
    cases: Sequence[Case],
    *,
    parallel: int = 1,
    done: Callable[[Result], object] = lambda _result: None,
) -> list[Result]:
    """Runs the cases; `done` is called with each result as it comes."""
    results: list[Result | None] = [None] * len(cases)
    waiting = iter(enumerate(cases))

    async def work() -> None:
        for index, case in waiting:
            reason = inapplicable(case, target, survey)
            if reason:
                result = Result(case, Outcome.NOT_APPLICABLE, reason)
            else:
                result = await one(case, target, survey)
                await asyncio.sleep(APART)
            results[index] = result
            done(result)

    await asyncio.gather(*(work() for _ in range(max(1, parallel))))
    return [result for result in results if result is not None]


async def one(case: Case, target: Target, survey: Survey) -> Result:
    """Runs one case."""
    began = time.monotonic()
    talk = Talk(target, survey, case.id)
    try:
        outcome, why = await _judge(case, talk)
    finally:
        await talk.close()
    return Result(case, outcome, why, time.monotonic() - began, talk.dialogue)


async def _judge(case: Case, talk: Talk) -> tuple[Outcome, str]:
    wrong = Outcome.FAIL if case.level is Level.MUST else Outcome.WARN
    for attempt in range(RETRIES + 1):
        try:
            await talk.begin(case.start)
            break
        except Untrusted as reason:
            return Outcome.NOT_APPLICABLE, str(reason)
        except (Failed, OSError, TlsFailed) as error:
            await talk.close()
            if attempt == RETRIES or case.start is Start.CONNECTED:
                return Outcome.ERROR, f"it did not come to the question: {error}"
            await asyncio.sleep(0.5 * (attempt + 1))  # a limit of connections, or a server that starts again
    try:
        await asyncio.wait_for(case.run(talk), PATIENCE * talk.target.timeout)
    except (NotApplicable, Untrusted) as reason:
        return Outcome.NOT_APPLICABLE, str(reason)
    except Failed as reason:
        return wrong, str(reason)
    except TimeoutError:
        return wrong, f"not done within {PATIENCE * talk.target.timeout:g} s"
    except (OSError, TlsFailed, Malformed, Silence) as error:
        return Outcome.ERROR, f"the connection broke: {error or type(error).__name__}"
    except Exception as error:  # noqa: BLE001 - what a server says must not end the run
        return Outcome.ERROR, f"the case did not expect this: {type(error).__name__}: {error}"
    return (Outcome.WARN, "; ".join(talk.warnings)) if talk.warnings else (Outcome.PASS, "")


def exit_code(results: Iterable[Result]) -> int:
    """0 if every MUST that has a question for this server is kept, else 1."""
    return int(any(result.wrong for result in results))
