"""f80: no case is blind. Each is proven once: by a row of `broken.ROWS` that names it (test_not_blind.py), or here.

Here one reply of a right server is changed, until the case no longer passes: the last one that the case asked for, then
those before it. On the way to where it starts only the text is changed, and the answer to QUIT only for cases that are
about it: most end with QUIT and would notice. For cases about the end of a stream the server handles it wrongly. A case
that looks into a folder must be named in a row: no reply says what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ironpost import BaseHandler, Server
from ironpost.conform import TOPICS, CaseOutcome, Profile, Target, Unusable, cases, survey
from ironpost.conform.case import Level, Start, Topic, say
from ironpost.conform.runner import inapplicable, one
from ironpost.protocol import replies
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.sasl import MECHANISMS
from ironpost.protocol.sasl.scram import credential
from ironpost.protocol.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from ironpost.conform import Case, Survey

scripted, broken = sys.modules["conform_scripted"], sys.modules["conform_broken"]
AT_A_TIME = 4
"""How many cases run at the same time, each with a separate server: some servers never answer."""


def refused_or_taken(lines: list[str]) -> list[str]:
    """Yes where no is right, and no where yes is."""
    return ["250 2.0.0 yes"] if lines[0][0] in "45" else ["550 5.0.0 no"]


def other_class(lines: list[str]) -> list[str]:
    """Turn a positive reply into a temporary refusal, and a refusal into 354."""
    return ["354 go on"] if lines[0][0] in "45" else ["451 4.0.0 later"]


def syntax_error(lines: list[str]) -> list[str]:
    """What is right is not understood."""
    return ["501 5.5.4 syntax error"]


def out_of_order(lines: list[str]) -> list[str]:
    """What is right comes too early."""
    return ["503 5.5.1 bad sequence"]


def unknown(lines: list[str]) -> list[str]:
    """A command that is not implemented."""
    return ["500 5.5.2 unknown command"]


def same_class(lines: list[str]) -> list[str]:
    """A code of the same class that nobody knows."""
    return [re.sub(r"^(\d)\d\d", r"\g<1>59", line) for line in lines]


def code_in_text(lines: list[str]) -> list[str]:
    """An enhanced code where there was none, and none where there was one."""
    changed = [re.sub(r"^(\d{3}.)[245]\.\d+\.\d+ ", r"\1", line) for line in lines]
    return changed if changed != lines else [f"{line[:4]}{line[0]}.0.0 {line[4:]}" for line in lines]


def more(lines: list[str]) -> list[str]:
    """Everything twice, and extensions that are out of place."""
    out_of_place = ["REQUIRETLS", "FUTURERELEASE 100 2030-01-01T00:00:00Z", "BURL imap", "ETRN", "ATRN"]
    return [*lines, *lines[1:], *(lines[0][:4] + keyword for keyword in out_of_place)]


def nameless(lines: list[str]) -> list[str]:
    """Not the name of a host."""
    return [f"{lines[0][:4]}-no_name- program 1.2.3", *lines[1:]]


def bare(lines: list[str]) -> list[str]:
    """The first line alone, which offers nothing, and says too much about the program."""
    return [lines[0].split()[0] + " 1.2.3 program"]


def nonsense(lines: list[str]) -> list[str]:
    """Invalid keywords and parameters (RFC 5321 §4.1.1.1)."""
    wrong = [f"{line} =?" for line in lines[1:]]
    return [lines[0], *wrong, "250 X_Y? a", "250 XYZ \u00e4"] if len(lines) > 1 else [lines[0] + " \x7f"]


def twice(lines: list[str]) -> list[str]:
    """The reply, followed by a surplus one."""
    return [*lines[:-1], lines[-1] + "\r\n" + lines[-1]]


def lengthy(lines: list[str]) -> list[str]:
    """A line longer than 512 octets (RFC 5321 §4.5.3.1.5)."""
    return [*lines[:-1], f"{lines[-1]} {'x' * 520}"]


CHANGES = (refused_or_taken, syntax_error, other_class, out_of_order, unknown, twice, same_class)
TEXTS = (code_in_text, bare, nonsense, more, nameless, lengthy)
"""Those that leave the code as it is."""


UNREADABLE = "malformed reply"
"""Fails every case, whatever it is about."""
ALWAYS = -2
"""Every greeting and every reply to EHLO is changed, those that the survey reads too."""


def changes(plan: dict[str, Any], number: int, lines: Sequence[str]) -> bool:
    """Whether this reply is the one to change."""
    if plan["at"] == ALWAYS:
        return lines[0].startswith("220") or len(lines) > 1
    if lines[0].startswith("221"):
        plan["byes"].add(number)
    return bool(number == plan["at"])


class Changed(scripted.Scripted):
    """Says what is right, but for reply number `at`."""

    def __init__(self, plan, **options):
        super().__init__(**options)
        self.plan = plan

    def say(self, *lines):
        plan = self.plan
        number, plan["said"] = plan["said"], plan["said"] + 1
        if changes(plan, number, lines):
            lines = plan["change"](list(lines))
        super().say(*lines)

    def do_quit(self, argument):
        if self.plan["end"] != "unheard":
            super().do_quit(argument)
        else:
            super().say("221 2.0.0 bye")

    def eof_received(self):
        if self.plan["end"] == "taken":
            super().say("250 2.0.0 taken")
        elif self.plan["end"] == "dropped":
            self.transport.abort()
        super().eof_received()


class Watched:
    """A case as `one` runs it, with what it did: how many replies there had been before it, and whether it looked into
    the folder."""

    def __init__(self, case: Case, plan: dict[str, Any]) -> None:
        self.before = 0
        self.looked = False

        async def watched(talk: Any) -> None:
            delivered = talk.delivered

            async def looks(count: int = 1) -> Any:
                self.looked = True
                return await delivered(count)

            self.before = plan["said"] if case.start is not Start.CONNECTED else 0
            talk.delivered = looks
            await case.run(talk)

        self.case = replace(case, run=watched)


async def proven(case: Case, target: Target, found: Survey, plan: dict[str, Any]) -> bool | str:
    """Whether it passes with this server; if it does, and something is wrong with it, what.

    The server says what the plan says.
    """
    watched = Watched(case, plan)
    plan |= {"said": 0, "byes": set(), "at": -1, "end": ""}
    plan["quit"] = "quit" in case.id or case.id.endswith("half-closed")
    if (await one(watched.case, target, found)).outcome is not CaseOutcome.PASS:
        return False
    if watched.looked:
        return "looks into the folder, and no row names it"
    hasty = replace(target, timeout=broken.IMPATIENT)
    replies = [at for at in reversed(range(plan["said"])) if plan["quit"] or at not in plan["byes"]]
    its_own = [at for at in replies if at >= watched.before]
    tries = [{"change": change, "at": at} for at in its_own[:1] for change in (*CHANGES, *TEXTS)]
    tries += [{"change": change, "at": at} for at in its_own[1:] for change in CHANGES]
    tries += [{"change": change, "at": at} for change in TEXTS for at in replies]
    tries += [{"change": change, "at": ALWAYS} for change in TEXTS]
    tries += [{"at": -1, "end": end} for end in ("taken", "dropped", "unheard")]
    for change in tries:
        plan |= {"said": 0, **change}
        seen = found
        if plan["at"] == ALWAYS:
            try:
                _, seen = await survey(hasty)
            except Unusable:
                continue
        result = await one(case, hasty, seen)
        if result.outcome in {CaseOutcome.FAIL, CaseOutcome.WARN} and not result.why.startswith(UNREADABLE):
            return True
    return "passes whatever is changed"


def new_plan() -> dict[str, Any]:
    """What is changed, shared by all connections of one server."""
    return {"said": 0, "byes": set(), "at": -1, "change": None, "quit": False, "end": ""}


async def unseen(asked: Sequence[Case], serve: Callable[[dict[str, Any]], Any]) -> dict[str, bool | str]:
    """The cases that have a question for a server, with what `proven` says of them."""
    judged: dict[str, bool | str] = {}
    waiting = iter(asked)

    async def work() -> None:
        plan = new_plan()
        async with serve(plan) as (target, found):
            for case in waiting:
                if not inapplicable(case, target, found):
                    judged[case.id] = await proven(case, target, found, plan)

    await asyncio.gather(*(work() for _ in range(min(AT_A_TIME, len(asked)))))
    return {name: why for name, why in judged.items() if why is not False}


class Everything(BaseHandler):
    """Takes what is for localhost, and claims every extension."""

    claims = frozenset({"DSN", "REQUIRETLS", "DELIVERBY", "MT-PRIORITY", "RRVS", "BINARYMIME", "FUTURERELEASE"})

    def recipient(self, session: Any, forward_path: Any, parameters: Any) -> Any:
        here = forward_path.domain.lower() == "localhost" or forward_path.local_part.lower() == "postmaster"
        return None if here else replies.NOT_ACCEPTED_HERE

    def message(self, session: Any, content: Any, facts: Any) -> None:
        content.discard()


class Accounts:
    """One account, by every mechanism."""

    mechanisms = tuple(mechanism.name for mechanism in MECHANISMS)

    def verify_password(self, session: Any, login: str, password: str) -> str | None:
        return login if (login, password) == ("user", "secret") else None

    def scram(self, session: Any, login: str) -> Any:
        return credential("secret", bytes(16), 4096) if login == "user" else None

    def shared_secret(self, session: Any, login: str) -> str | None:
        return "secret" if login == "user" else None

    def verify_token(self, session: Any, login: str, token: str) -> None:
        return None

    def external(self, session: Any, authzid: str) -> None:
        return None

    def may_act_as(self, login: str, authzid: str) -> bool:
        return False


BASE = ServerSettings(max_size=1_000_000, now=time.time, eight_bit="reject", addresses="strict")
OURS = {
    "mx": (BASE, Target("127.0.0.1", 1, timeout=broken.PATIENT)),
    "submission": (
        replace(BASE, dialect=SUBMISSION, authenticator=Accounts(), auth_without_tls=True),
        Target("127.0.0.1", 1, Profile.SUBMISSION, user="user", password="secret", timeout=broken.PATIENT),
    ),
}
"""Our own server with every extension, for what the scripted one does not know."""


@contextlib.asynccontextmanager
async def ours(kind: str, plan: dict[str, Any]) -> AsyncIterator[tuple[Target, Survey]]:
    """Our own server behind a forwarder that changes its replies."""
    settings, target = OURS[kind]
    running: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        task.add_done_callback(running.discard)
        there, back = await asyncio.open_connection("127.0.0.1", server.port)

        async def commands() -> None:
            while octets := await reader.read(65536):
                back.write(octets)
            back.write_eof()

        sending = asyncio.ensure_future(commands())
        lines: list[str] = []
        try:
            while line := (await there.readline()).decode("latin-1").removesuffix("\r\n"):
                lines.append(f"{line[:3]} {line[4:]}")
                if line[3:4] == "-":
                    continue
                number, plan["said"] = plan["said"], plan["said"] + 1
                if changes(plan, number, lines):
                    lines = plan["change"](lines)
                text = [f"{each[:3]}-{each[4:]}\r\n" for each in lines[:-1]] + [lines[-1] + "\r\n"]
                writer.write("".join(text).encode("latin-1"))
                lines = []
        except OSError:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            for stream in (back, writer):
                stream.close()
                with contextlib.suppress(OSError):
                    await stream.wait_closed()

    async with Server(Everything(), "127.0.0.1", settings=settings) as server:
        front = await asyncio.start_server(forward, "127.0.0.1", 0)
        try:
            yield await survey(replace(target, port=front.sockets[0].getsockname()[1]))
        finally:
            front.close()
            await asyncio.gather(*running, return_exceptions=True)


async def judged(asked: Sequence[Case], certificate: Path) -> dict[str, set[bool | str]]:
    """What `proven` says of each case: in each profile with the scripted server, and elsewhere if none of those has
    what it asks for. Empty for a case that passes nowhere."""
    found: dict[str, set[bool | str]] = {case.id: set() for case in asked}
    serving: dict[str, Callable[[dict[str, Any]], Any]] = {
        name: lambda plan, stage=stage: broken.served(stage, certificate, Changed, plan=plan)
        for name, stage in broken.STAGES.items()
    }
    serving |= {f"our own for {kind}": lambda plan, kind=kind: ours(kind, plan) for kind in OURS}
    for name, serve in serving.items():
        left = asked if name in broken.PROFILES else [case for case in asked if not found[case.id]]
        for case, why in (await unseen(left, serve)).items():
            found[case].add(why)
    return found


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_f80_every_case_that_no_row_names_fails_when_a_reply_is_wrong(certificate: Path, topic: Topic) -> None:
    asked = [case for case in topic.cases if case.id not in broken.named()]
    found = asyncio.run(asyncio.wait_for(judged(asked, certificate), 600))
    assert {name: why for name, why in found.items() if why != {True}} == {}


def test_f80_every_case_belongs_to_a_topic() -> None:
    assert [case.id for topic in TOPICS for case in topic.cases] == [case.id for case in cases()]


def test_f80_a_case_that_cannot_fail_is_reported(certificate: Path) -> None:
    topic = Topic("t", "T")
    topic.row("rfc5321-3.1-blind", Level.MUST, "Any answer does.", say(b"NOOP\r\n", "xxx close"), quits=False)
    topic.row("rfc5321-3.1-sees", Level.MUST, "NOOP is answered 250.", say(b"NOOP\r\n", "250"))
    topic.row("rfc5321-3.1-never", Level.MUST, "Nobody is asked.", say(b"NOOP\r\n", "250"), needs=("X-NOBODY",))

    @topic.case("rfc5321-3.1-looks", Level.MUST, "A message arrives.", start=Start.DATA)
    async def _looks(talk: Any) -> None:
        await talk.say(b"{message}.\r\n", "250")
        await talk.delivered()

    found = asyncio.run(asyncio.wait_for(judged(topic.cases, certificate), 600))
    assert found["rfc5321-3.1-sees"] == {True}
    assert found["rfc5321-3.1-blind"] == {"passes whatever is changed"}
    assert found["rfc5321-3.1-never"] == set()
    assert found["rfc5321-3.1-looks"] == {"looks into the folder, and no row names it"}
