"""The state table: docs/states.md is generated from it, and the session behaves as each entry says.

`python -m tests.protocol.test_states` writes docs/states.md.
"""

from __future__ import annotations

import ast
import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from tests.protocol.test_server_session import Open, codes, say

from ironpost.model import Address, Recipient
from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION
from ironpost.protocol.extensions import EXTENSIONS
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.states import DIALOGUE, CommandTable, ServerState, out_of_sequence
from ironpost.protocol.server.transaction import Transaction

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "states.md"
HEAD = """# States of a server session

Generated from the verbs' declarations by `python -m tests.protocol.test_states`; do not edit.

A server has these verbs, as far as its dialect and its extensions offer them. A verb is legal in the states marked
**yes**, if its conditions hold; elsewhere the reply is the one shown, and nothing changes, except that a transaction
whose content has begun (CONTENT, between two chunks of BDAT) ends, and one without recipients after a chunk that is not
the last. Before the greeting nothing is legal: input is answered with 554, and the connection closes.
"""


class Authenticator:
    mechanisms = frozenset({"PLAIN"})

    def verify_password(self, session, login, password):
        return None


class Everything(Open):
    """A handler that has every hook."""

    def __getattr__(self, name):
        if name in {extension.hook for extension in EXTENSIONS}:
            return lambda *_: None
        raise AttributeError(name)


def table() -> tuple[CommandTable, dict[str, str]]:
    """Return the verbs of all dialects, each with its extension."""
    handler = Everything()
    claims = frozenset(extension.keyword for extension in EXTENSIONS)
    verbs, source = {}, {}
    for dialect in (SMTP, SUBMISSION._replace(authenticate=False), LMTP):
        settings = ServerSettings(
            dialect=dialect,
            claims=claims,
            starttls=True,
            front_ends=(ip_network("192.0.2.0/24"),),
            now=lambda: 0.0,
            authenticator=Authenticator(),
        ).serving(handler)
        verbs = {**settings.command_table(secure=False, authenticated=False).verbs, **verbs}
        source |= {verb: extension.keyword for extension in settings.available for verb in extension.verbs}
    return CommandTable(verbs), source


def document() -> str:
    commands, source = table()
    states = [state.name for state in DIALOGUE]
    lines = [HEAD, f"| verb | {' | '.join(states)} | conditions | extension |", "|---" * (len(states) + 3) + "|"]
    for name, verb in sorted(commands.verbs.items()):
        replies = (out_of_sequence(verb, state) for state in DIALOGUE)
        cells = ["**yes**" if reply is None else f"{reply.code} {reply.text[0]}" for reply in replies]
        needs = [need.text for need in verb.needs]
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(needs)} | {source.get(name, '')} |")
    lines += ["", "| condition | reply if it does not hold |", "|---|---|"]
    conditions = {need.text: need.refusal for verb in commands.verbs.values() for need in verb.needs}
    lines += [f"| {text} | {refusal} |" for text, refusal in sorted(conditions.items())]
    lines += ["", "DATA without recipients is 503 in LMTP (RFC 2033 §4.2).", ""]
    for title, flag in (("demands TLS", "before_tls"), ("demands authentication", "before_auth")):
        allowed = ", ".join(sorted(name for name, verb in commands.verbs.items() if getattr(verb, flag)))
        lines.append(f"If the dialect {title}, only these verbs are legal before it, others are 530: {allowed}.")
        lines.append("")
    return "\n".join(lines)


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == document(), "run python -m tests.protocol.test_states"


@pytest.mark.parametrize("state", DIALOGUE)
def test_every_verb_out_of_sequence_is_refused_as_the_table_says(state: ServerState) -> None:
    commands, _ = table()
    for name, verb in commands.verbs.items():
        expected = out_of_sequence(verb, state)
        if expected is None:
            continue
        session = ServerSession(Everything(), ServerSettings())
        session.start()
        session.output()
        session.table = commands
        session.esmtp = state is not ServerState.READY
        if state not in {ServerState.READY, ServerState.IDLE}:
            session.transaction = Transaction(Address.parse("a@b.example"), {})
            session.transaction.recipients.append(Recipient(Address.parse("c@d.example")))
        session.enter(state)
        line = b"BDAT 0\r\n" if name == "BDAT" else name.encode() + b"\r\n"
        assert say(session, line) == expected.octets
        ends = state is ServerState.CONTENT or (name == "BDAT" and state is ServerState.MAIL)
        assert session.state is (ServerState.IDLE if ends else state)
        assert codes(say(session, b"NOOP\r\n")) == [b"250"]


def test_no_extension_is_named_outside_its_file_and_the_registry() -> None:
    folder = ROOT / "python" / "ironpost" / "protocol" / "extensions"
    own = {path.stem for path in folder.glob("*.py")} - {"__init__", "base"}
    named = []
    for path in sorted((ROOT / "python" / "ironpost").rglob("*.py")):
        if path.parent == folder:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            found = (re.match(r"ironpost\.protocol\.extensions\.(\w+)", module) for module in modules)
            named += [
                f"{path.relative_to(ROOT)}:{node.lineno} {match[1]}" for match in found if match and match[1] in own
            ]
    assert named == []


if __name__ == "__main__":
    DOCUMENT.write_text(document())
