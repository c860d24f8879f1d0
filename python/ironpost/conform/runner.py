"""Run the cases against one server and collect the results.

Promises: a result for every case, in order, whatever the server does. Each case has a deadline. Connections are opened
at a moderate rate. A case that fails before it reaches what it tests is an `error`, not a failure.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from ironpost.conform.case import Case, CaseOutcome, Failed, Level, NotApplicable, Start
from ironpost.conform.connection import MalformedReply, Silence, TlsFailed, UntrustedCertificate
from ironpost.conform.talk import Talk
from ironpost.conform.target import WANTS, lacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ironpost.conform.target import Survey, Target

APART: Final = 0.02
"""Seconds between two cases."""
DEADLINE: Final = 6
"""How long a case may take, as a multiple of the target's timeout."""
RETRIES: Final = 2
"""How often a case is retried if its session cannot be opened."""


@dataclass(frozen=True)
class Result:
    """The result of one case."""

    case: Case
    outcome: CaseOutcome
    why: str = ""
    seconds: float = 0.0
    dialogue: Sequence[str] = field(default=(), repr=False)

    @property
    def wrong(self) -> bool:
        """Whether the exit code must not be 0: a MUST failed or could not be tested."""
        return self.case.level is Level.MUST and self.outcome in {CaseOutcome.FAIL, CaseOutcome.ERROR}

    def json(self, *, dialogue: bool) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        said = {"dialogue": list(self.dialogue)} if dialogue else {}
        return {
            "id": self.case.id, "topic": self.case.topic, "level": self.case.level.value, "cites": self.case.cites,
            "does": self.case.does, "outcome": self.outcome.value, "why": self.why,
            "seconds": round(self.seconds, 3), **said,
        }  # fmt: skip


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """Return the cases that match one of the patterns, or all of them without patterns. The name of a topic selects
    its cases. Anything else is matched against the ids: as a glob if it contains `*`, `?` or `[`, else as a part."""
    topics = {case.topic for case in cases} & set(patterns)
    names = [p if set("*?[") & set(p) else f"*{p}*" for p in patterns if p not in topics]
    return [
        case
        for case in cases
        if not patterns or case.topic in topics or any(fnmatchcase(case.id, name) for name in names)
    ]


def inapplicable(case: Case, target: Target, survey: Survey) -> str:
    """Return why a case does not apply to this server; empty if it does."""
    if target.profile not in case.profiles:
        return f"not for {target.profile.value}"
    offered = survey.unencrypted if "STARTTLS" in case.needs else survey.offers
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
    """Run the cases and call `done` with each result."""
    results: list[Result | None] = [None] * len(cases)
    waiting = iter(enumerate(cases))

    async def work() -> None:
        for index, case in waiting:
            reason = inapplicable(case, target, survey)
            if reason:
                result = Result(case, CaseOutcome.NOT_APPLICABLE, reason)
            else:
                result = await one(case, target, survey)
                await asyncio.sleep(APART)
            results[index] = result
            done(result)

    await asyncio.gather(*(work() for _ in range(max(1, parallel))))
    return [result for result in results if result is not None]


async def one(case: Case, target: Target, survey: Survey) -> Result:
    """Run one case."""
    began = time.monotonic()
    talk = Talk(target, survey, case.id)
    try:
        outcome, why = await _judge(case, talk)
    finally:
        await talk.close()
    return Result(case, outcome, why, time.monotonic() - began, talk.dialogue)


async def _judge(case: Case, talk: Talk) -> tuple[CaseOutcome, str]:
    wrong = CaseOutcome.FAIL if case.level is Level.MUST else CaseOutcome.WARN
    for attempt in range(RETRIES + 1):
        try:
            await talk.begin(case.start)
            break
        except UntrustedCertificate as reason:
            return CaseOutcome.NOT_APPLICABLE, str(reason)
        except (Failed, OSError, TlsFailed) as error:
            await talk.close()
            if attempt == RETRIES or case.start is Start.CONNECTED:
                return CaseOutcome.ERROR, f"could not reach the step under test: {error}"
            await asyncio.sleep(0.5 * (attempt + 1))  # a connection limit, or a restart
    try:
        await asyncio.wait_for(case.run(talk), DEADLINE * talk.target.timeout)
    except (NotApplicable, UntrustedCertificate) as reason:
        return CaseOutcome.NOT_APPLICABLE, str(reason)
    except Failed as reason:
        return wrong, str(reason)
    except TimeoutError:
        return wrong, f"not finished within {DEADLINE * talk.target.timeout:g} s"
    except (OSError, TlsFailed, MalformedReply, Silence) as error:
        return CaseOutcome.ERROR, f"connection lost: {error or type(error).__name__}"
    except Exception as error:  # noqa: BLE001 - no reply may end the run
        return CaseOutcome.ERROR, f"unexpected error in the case: {type(error).__name__}: {error}"
    return (CaseOutcome.WARN, "; ".join(talk.warnings)) if talk.warnings else (CaseOutcome.PASS, "")


def exit_code(results: Iterable[Result]) -> int:
    """Return 0 if every applicable MUST passed, else 1."""
    return int(any(result.wrong for result in results))
