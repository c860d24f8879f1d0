"""f80: no case is blind. For each case one reply of a right server is changed, until the case no longer passes.

The changed reply is one that the case itself asked for. On the way to where it starts only the text is changed, and the
answer to QUIT only for cases that are about it: most end with QUIT and would notice. For cases about the end of a
stream the server handles it wrongly. Cases that need TLS, or a folder, are for the flaws of test_not_blind.py.
"""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import replace

import pytest

from ironpost.conform import TOPICS, Outcome, Profile, Target, cases, survey
from ironpost.conform.runner import inapplicable, one

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


class Changed(scripted.Scripted):
    """Says what is right, but for reply number `at`."""

    def __init__(self, plan, **options):
        super().__init__(**options)
        self.plan = plan

    def say(self, *lines):
        plan = self.plan
        number, plan["said"] = plan["said"], plan["said"] + 1
        if (number == plan["at"] and (plan["quit"] or not lines[0].startswith("221"))) or (
            plan["at"] == ALWAYS and (lines[0].startswith("220") or len(lines) > 1)
        ):
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


async def unseen(profile: Profile, topic: str) -> list[str]:
    """The cases of a topic that pass whatever is changed."""
    plan = {"said": 0, "at": -1, "change": None, "quit": False, "end": ""}
    options = {"lmtp": profile is Profile.LMTP, "auth": profile is Profile.SUBMISSION}
    server = await asyncio.get_running_loop().create_server(lambda: Changed(plan, **options), "127.0.0.1", 0)
    left: list[str] = []
    try:
        target, found = await survey(replace(TARGETS[profile], port=server.sockets[0].getsockname()[1]))
        for case in cases():
            if case.topic != topic or inapplicable(case, target, found):
                continue
            plan |= {"said": 0, "at": -1, "quit": "quit" in case.id or case.id.endswith("half-closed"), "end": ""}
            right = await one(case, target, found)
            if right.outcome is not Outcome.PASS:
                continue
            first, last = int(case.start), plan["said"]
            tries = [{"change": change, "at": at} for change in CHANGES for at in reversed(range(first, last))]
            tries += [{"change": change, "at": at} for change in TEXTS for at in reversed(range(last))]
            tries += [{"change": change, "at": ALWAYS} for change in TEXTS]
            tries += [{"at": -1, "end": end} for end in ("taken", "dropped", "unheard")]
            for change in tries:
                plan |= {"said": 0, **change}
                seen = found
                if plan["at"] == ALWAYS:
                    _, seen = await survey(target)
                if (await one(case, target, seen)).outcome in {Outcome.FAIL, Outcome.WARN}:
                    break
            else:
                left.append(case.id)
    finally:
        server.close()
    return left


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS])
@pytest.mark.parametrize("profile", list(TARGETS), ids=lambda profile: profile.value)
def test_f80_every_case_fails_when_a_reply_is_wrong(profile: Profile, topic: str) -> None:
    left = asyncio.run(asyncio.wait_for(unseen(profile, topic), 600))
    assert left == []
