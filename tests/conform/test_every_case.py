"""f80: no case is blind. For each case one reply of a right server is changed, until the case no longer passes.

The changed reply is one that the case itself asked for. On the way to where it starts only the text is changed, and the
answer to QUIT only for cases that are about it: most end with QUIT and would notice. For cases about the end of a
stream the server handles it wrongly. Cases that need TLS, or a folder, are for the flaws of test_not_blind.py.
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
from ironpost.conform import TOPICS, Outcome, Profile, Target, Unusable, cases, survey
from ironpost.conform.case import Start
from ironpost.conform.runner import inapplicable, one
from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP, SUBMISSION
from ironpost.protocol.sasl import MECHANISMS
from ironpost.protocol.sasl.scram import credential
from ironpost.protocol.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

scripted = sys.modules["conform_scripted"]

TARGETS = {
    Profile.MX: Target("127.0.0.1", 1, timeout=0.5),
    Profile.LMTP: Target("127.0.0.1", 1, Profile.LMTP, timeout=0.5),
    Profile.SUBMISSION: Target("127.0.0.1", 1, Profile.SUBMISSION, timeout=0.5),
}


def refused_or_taken(lines: list[str]) -> list[str]:
    """Yes where no is right, and no where yes is."""
    return ["250 2.0.0 yes"] if lines[0][0] in "45" else ["550 5.0.0 no"]


def other_class(lines: list[str]) -> list[str]:
    """A temporary refusal for good news, and go on for bad."""
    return ["354 go on"] if lines[0][0] in "45" else ["451 4.0.0 later"]


def same_class(lines: list[str]) -> list[str]:
    """Another code of the same class."""
    return [re.sub(r"^(\d)\d\d", r"\g<1>99", line) for line in lines]


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
    """Keywords and parameters that are none (RFC 5321 §4.1.1.1)."""
    wrong = [f"{line} =?" for line in lines[1:]]
    return [lines[0], *wrong, "250 X_Y? a", "250 XYZ \u00e4"] if len(lines) > 1 else [lines[0] + " \x7f"]


def twice(lines: list[str]) -> list[str]:
    """A reply that nobody asked for behind it."""
    return [*lines[:-1], lines[-1] + "\r\n" + lines[-1]]


CHANGES = (refused_or_taken, other_class, same_class, twice)
TEXTS = (code_in_text, bare, nonsense, more, nameless)
"""Those that leave the code as it is."""


ALWAYS = -2
"""Every greeting and every reply to EHLO is changed, those that the survey reads too."""


def changes(plan: dict[str, Any], number: int, lines: Sequence[str]) -> bool:
    """Whether this reply is the one to change."""
    if plan["at"] == ALWAYS:
        return lines[0].startswith("220") or len(lines) > 1
    return bool(number == plan["at"] and (plan["quit"] or not lines[0].startswith("221")))


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


async def unseen(target: Target, topic: str, plan: dict[str, Any]) -> list[str]:
    """The cases of a topic that pass whatever is changed."""
    left: list[str] = []
    target, found = await survey(target)
    for case in cases():
        if case.topic != topic or inapplicable(case, target, found):
            continue
        plan |= {"said": 0, "at": -1, "quit": "quit" in case.id or case.id.endswith("half-closed"), "end": ""}
        right = await one(case, target, found)
        if right.outcome is not Outcome.PASS:
            continue
        first, last = int(case.start) + (bool(target.user) and case.start >= Start.HELLO), plan["said"]
        tries = [{"change": change, "at": at} for change in CHANGES for at in reversed(range(first, last))]
        tries += [{"change": change, "at": at} for change in TEXTS for at in reversed(range(last))]
        tries += [{"change": change, "at": ALWAYS} for change in TEXTS]
        tries += [{"at": -1, "end": end} for end in ("taken", "dropped", "unheard")]
        for change in tries:
            plan |= {"said": 0, **change}
            seen = found
            if plan["at"] == ALWAYS:
                try:
                    _, seen = await survey(target)
                except Unusable:
                    continue
            if (await one(case, target, seen)).outcome in {Outcome.FAIL, Outcome.WARN}:
                break
        else:
            left.append(case.id)
    return left


def new_plan() -> dict[str, Any]:
    """What is changed, shared by all connections of one server."""
    return {"said": 0, "at": -1, "change": None, "quit": False, "end": ""}


async def unseen_scripted(profile: Profile, topic: str) -> list[str]:
    """Against the scripted server."""
    plan = new_plan()
    options = {"lmtp": profile is Profile.LMTP, "auth": profile is Profile.SUBMISSION}
    server = await asyncio.get_running_loop().create_server(lambda: Changed(plan, **options), "127.0.0.1", 0)
    try:
        return await unseen(replace(TARGETS[profile], port=server.sockets[0].getsockname()[1]), topic, plan)
    finally:
        server.close()


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS])
@pytest.mark.parametrize("profile", list(TARGETS), ids=lambda profile: profile.value)
def test_f80_every_case_fails_when_a_reply_is_wrong(profile: Profile, topic: str) -> None:
    assert asyncio.run(asyncio.wait_for(unseen_scripted(profile, topic), 600)) == []


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


BASE = Settings(max_size=1_000_000, now=time.time, eight_bit="reject")
OURS = {
    "mx": (BASE, Target("127.0.0.1", 1, timeout=1.0)),
    "submission": (
        replace(BASE, dialect=SUBMISSION, authenticator=Accounts(), auth_in_clear=True),
        Target("127.0.0.1", 1, Profile.SUBMISSION, user="user", password="secret", timeout=1.0),
    ),
    "lmtp": (replace(BASE, dialect=LMTP), Target("127.0.0.1", 1, Profile.LMTP, timeout=1.0)),
}
EXTENSIONS = ("auth", "dsn", "handling", "smtputf8", "extensions", "submission", "parameters", "syntax")
"""Topics of which the scripted server knows too little."""


async def unseen_ours(kind: str, topic: str) -> list[str]:
    """Against our own server with every extension, behind a forwarder that changes its replies."""
    settings, target = OURS[kind]
    plan = new_plan()
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
            return await unseen(replace(target, port=front.sockets[0].getsockname()[1]), topic, plan)
        finally:
            front.close()
            await asyncio.gather(*running, return_exceptions=True)


@pytest.mark.parametrize("topic", EXTENSIONS)
@pytest.mark.parametrize("kind", OURS)
def test_f80_every_case_about_an_extension_fails_when_a_reply_is_wrong(kind: str, topic: str) -> None:
    if kind == "submission" and topic in {"extensions", "submission"}:
        return  # an offer that is changed leaves no way to log in: the scripted server needs no login
    assert asyncio.run(asyncio.wait_for(unseen_ours(kind, topic), 600)) == []
