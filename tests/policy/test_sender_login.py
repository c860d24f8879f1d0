"""Senders that a mailbox or an alias grants to other logins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.policy import policy_kit

from ironpost.compose.directory import directory as composed
from ironpost.config import ConfigError, parse
from ironpost.model import Address
from ironpost.model.patterns import Domains
from ironpost.policy import Facts, Policy, PolicyDecision, PolicyStage, Ports
from ironpost.protocol.server.transaction import Identity
from ironpost.routing.directory import DirectoryError
from ironpost.routing.mail_directory import MailDirectory
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from ironpost.routing.directory import Directory

COMPANY = composed(
    parse("""
local.domains = ["mail.example"]
[[mailbox]]
address = "ada@mail.example"
senders = ["Assistant"]
[[alias]]
address = "info@mail.example"
targets = ["ada@mail.example"]
senders = ["ada@mail.example", "jo"]
""")
)


class Remote:
    """A source that answers after an iteration of the event loop, or fails."""

    def __init__(self, *senders: str) -> None:
        self.senders = senders

    async def lookup(self, key: str, /) -> Record:
        await asyncio.sleep(0)
        if not self.senders:
            raise DirectoryError("down")
        return Record("remote", senders=self.senders)


def decide(directory: Directory, login: str, sender: str) -> PolicyDecision:
    policy = Policy(policy_kit.checks(Ports(directory=directory), local_domains=["mail.example"]))
    facts = Facts(identity=Identity(login, "PLAIN"), reverse_path=Address.parse(sender))

    async def main() -> PolicyDecision:
        decision = policy.decide(PolicyStage.MAIL, facts)
        return decision if isinstance(decision, PolicyDecision) else await decision

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("login", "sender", "reason"),
    [
        (
            "ASSISTANT",
            "Ada@mail.example",
            "assistant may send as Ada@mail.example: mail.example is local; ada@mail.example: mailbox[1]",
        ),
        (
            "jo",
            "info@mail.example",
            "jo may send as info@mail.example: mail.example is local; info@mail.example: alias[1]",
        ),
        (
            "ada@mail.example",
            "info+x@mail.example",
            "ada@mail.example may send as info+x@mail.example: "
            "mail.example is local; info@mail.example with the detail x: alias[1]",
        ),
    ],
)
def test_a_login_may_use_an_address_that_names_it(login: str, sender: str, reason: str) -> None:
    decision = decide(COMPANY, login, sender)
    assert not decision.verdict.refused
    assert decision.reasons == (f"sender-login: {reason}",)


@pytest.mark.parametrize(
    ("login", "sender"),
    [
        ("jo", "ada@mail.example"),
        ("max", "info@mail.example"),
        ("assistant", "ada@other.example"),
        ("jo", "nobody@mail.example"),
    ],
)
def test_others_may_not(login: str, sender: str) -> None:
    decision = decide(COMPANY, login, sender)
    assert str(decision.verdict) == "reject (553 5.7.1 Sender address rejected: not owned by this login)"


def test_a_source_with_io_is_awaited_and_one_that_fails_defers() -> None:
    domains = Domains(["mail.example"])
    assert not decide(MailDirectory(domains, [Remote("jo")]), "jo", "info@mail.example").verdict.refused
    assert decide(MailDirectory(domains, [Remote("max")]), "jo", "info@mail.example").verdict.refused
    failed = decide(MailDirectory(domains, [Remote()]), "jo", "info@mail.example")
    assert str(failed.verdict) == "defer (451 4.3.0 Sender lookup failed)"
    assert failed.noted
    assert not decide(MailDirectory(domains, [Remote()]), "jo", "jo@mail.example").verdict.refused


@pytest.mark.parametrize("key", ['address = "@localhost"', 'pattern = "x.*@localhost"'])
def test_senders_belong_to_one_address(key: str) -> None:
    with pytest.raises(ConfigError, match=r"use policy\.sender_login"):
        parse(f'[[alias]]\n{key}\ntargets = ["jo@localhost"]\nsenders = ["jo"]')
