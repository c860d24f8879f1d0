"""Delivery to programs: real ones, that read, refuse, flood, hang and fork, on each event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pwd
import select
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.config import ConfigError, parse
from ironpost.delivery import pipe as module
from ironpost.delivery.pipe import Pipe, PipeOptions
from ironpost.model import Address, Disposition, Envelope, Outcome, Recipient
from ironpost.model.body import PIECE, BodyDamaged
from ironpost.queue.store import QueuedMessage, QueuedRecipient
from ironpost.routing.route import Kind, Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop

USER = "nobody" if os.geteuid() == 0 else ""
PYTHON = "/usr/bin/python3"
CONTENT = b"Received: by mx.example\r\nX-Original-To: <forged@x.example>\r\nSubject: x\r\n\r\n.dot\r\nlast\r\n"


@dataclass
class Content:
    octets: bytes = CONTENT
    times: int = 1
    fails: bool = False

    @property
    def size(self) -> int:
        return len(self.octets) * self.times

    async def pieces(self) -> AsyncIterator[bytes]:
        for _ in range(self.times):
            yield self.octets
        if self.fails:
            raise BodyDamaged(errno.EIO, "the checksum differs")

    async def head(self, limit: int) -> bytes:
        return self.octets[:limit]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which the user of the programs can write."""
    with tempfile.TemporaryDirectory() as name:
        if USER:
            os.chown(name, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
        yield Path(name)


def recipient(number: int, address: str, original: str = "") -> QueuedRecipient:
    alias = Address.parse(original) if original else None
    return QueuedRecipient(number, Recipient(Address.parse(address), original=alias))


def deliver(
    code: str,
    *arguments: str,
    to: Sequence[QueuedRecipient] = (recipient(0, "jo@here.example"),),
    sender: str = "sender@example.org",
    body: Content | None = None,
    loop: str = "asyncio",
    **options: Any,
) -> list[Outcome]:
    """Deliver to a program in Python; the outcomes in the order of the recipients."""
    command = (PYTHON, "-I", "-c", code, *arguments)
    route = Route.local(Kind.PIPE, PipeOptions(command, user=USER, **options))
    envelope = Envelope(Address.parse(sender), tuple(each.recipient for each in to))
    message = QueuedMessage("id1", envelope, 0.0, body or Content(), tuple(to))

    async def main() -> list[Outcome]:
        async with asyncio.timeout(60):
            outcomes = dict(await Pipe("mx.here.example").deliver(message, to, route))
            return [outcomes[each.number] for each in to]

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(main())


def save(path: Path) -> str:
    return f"import sys; open({str(path)!r}, 'wb').write(sys.stdin.buffer.read())"


@pytest.mark.parametrize("loop", LOOPS)
def test_the_program_reads_the_message_below_the_trace_fields(folder: Path, loop: str) -> None:
    (outcome,) = deliver(save(folder / "m"), to=[recipient(0, "jo@here.example", "info@here.example")], loop=loop)
    assert outcome.disposition is Disposition.DELIVERED
    assert (folder / "m").read_bytes() == (
        b"Return-Path: <sender@example.org>\nDelivered-To: jo@here.example\nX-Original-To: info@here.example\n"
        b"Received: by mx.example\nSubject: x\n\n.dot\nlast\n"
    )


def test_the_content_can_keep_its_line_endings(folder: Path) -> None:
    deliver(save(folder / "m"), content="crlf")
    assert (folder / "m").read_bytes().endswith(b"Subject: x\r\n\r\n.dot\r\nlast\r\n")


def test_each_recipient_has_a_process_with_its_addresses_in_arguments_and_variables(folder: Path) -> None:
    code = (
        "import os, sys; "
        f"open({str(folder)!r} + '/' + os.environ['RECIPIENT'], 'w').write(repr((sys.argv[1:], dict(os.environ))))"
    )
    to = [recipient(0, "jo@here.example", "info@here.example"), recipient(3, "-rf@here.example")]
    command = ("--from={sender}", "--", "{recipient}", "({original_recipient})")
    outcomes = deliver(code, *command, to=to, sender="", environment=("IRONPOST_TEST_UNSET", "PATH"))
    assert [each.disposition for each in outcomes] == [Disposition.DELIVERED] * 2
    arguments, variables = eval((folder / "jo@here.example").read_text())
    assert arguments == ["--from=", "--", "jo@here.example", "(info@here.example)"]
    variables.pop("LC_CTYPE", None)  # Python sets it for itself
    rights = pwd.getpwnam(USER) if USER else pwd.getpwuid(os.geteuid())
    assert variables == {
        "PATH": os.environ["PATH"],
        "SENDER": "",
        "RECIPIENT": "jo@here.example",
        "ORIGINAL_RECIPIENT": "info@here.example",
        "MESSAGE_ID": "id1",
        "USER": rights.pw_name,
        "LOGNAME": rights.pw_name,
        "HOME": rights.pw_dir,
    }
    arguments, _ = eval((folder / "-rf@here.example").read_text())
    assert arguments == ["--from=", "--", "-rf@here.example", "(-rf@here.example)"]


@pytest.mark.skipif(not USER, reason="needs root, to become another user")
def test_r47_the_program_has_the_rights_of_the_user(folder: Path) -> None:
    deliver(f"import os; open({str(folder / 'm')!r}, 'w').write(repr((os.getresuid(), os.getgroups())))")
    nobody = pwd.getpwnam(USER)
    assert (folder / "m").read_text() == repr(((nobody.pw_uid,) * 3, [nobody.pw_gid]))
    assert (folder / "m").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("code", "disposition", "reply", "ours"),
    [
        ("raise SystemExit(67)", Disposition.FAILED, "550 5.1.1 No such user", False),
        ("print('\\n  Bill \\x1b[1m gone \\nmore'); raise SystemExit(67)",
            Disposition.FAILED, "550 5.1.1 No such user: Bill \\x1b[1m gone", False),
        ("import sys; sys.exit('no')", Disposition.DEFERRED, "451 4.3.0 The program failed: no", False),
        ("raise SystemExit(65)", Disposition.FAILED, "550 5.6.0 The content is not acceptable", False),
        ("raise SystemExit(69)", Disposition.FAILED, "550 5.3.0 Service unavailable", False),
        ("raise SystemExit(77)", Disposition.FAILED, "550 5.7.0 Permission denied", False),
        ("raise SystemExit(75)", Disposition.DEFERRED, "451 4.3.0 The program failed", False),
        ("raise SystemExit(78)", Disposition.DEFERRED, "451 4.3.5 The program is not configured correctly", True),
        ("import os; os.kill(os.getpid(), 15)", Disposition.DEFERRED, "451 4.3.0 The program failed", False),
        ("print('x' * 9999999)", Disposition.DELIVERED, "250 2.0.0 Delivered to the program", False),
    ],
)  # fmt: skip
def test_the_exit_status_decides(code: str, disposition: Disposition, reply: str, ours: bool) -> None:
    (outcome,) = deliver(code)
    assert (outcome.disposition, str(outcome.reply), outcome.ours) == (disposition, reply, ours)


def test_a_signal_is_named_in_the_detail() -> None:
    (outcome,) = deliver("import os; os.kill(os.getpid(), 15)")
    assert outcome.reply.detail == f"{PYTHON} was ended by SIGTERM"


def test_every_status_of_the_table_is_valid() -> None:
    for code, (enhanced, text) in module.STATUSES.items():
        outcome = module._outcome("p", module.programs.Ended(code, b"\xff\n", False))
        assert outcome.reply.enhanced == enhanced
        assert str(outcome.reply).startswith(f"{outcome.reply.code} {enhanced} {text}")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "code",
    ["pass", "import os, sys; sys.stdin.buffer.read(5); os.close(0)", "import os; os.close(0); print('ok')"],
)
def test_a_program_need_not_read_everything(code: str, loop: str) -> None:
    (outcome,) = deliver(code, body=Content(b"x" * PIECE, 40), loop=loop)
    assert outcome.disposition is Disposition.DELIVERED


@pytest.mark.parametrize("loop", LOOPS)
def test_r40_a_program_that_reads_nothing_and_ignores_sigterm_is_killed_with_its_children(
    folder: Path, loop: str
) -> None:
    fifo = folder / "fifo"
    os.mkfifo(fifo, 0o666)
    fifo.chmod(0o666)
    code = (
        "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); "
        f"end = open({str(fifo)!r}, 'w'); signal.pause()"
    )
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        (outcome,) = deliver(code, body=Content(b"x" * PIECE, 40), timeout=2.0, loop=loop)
        assert outcome.disposition is Disposition.DEFERRED
        assert outcome.reply.detail == f"{PYTHON} did not finish within 2 seconds"
        os.set_blocking(end, True)
        assert os.read(end, 1) == b"", "all who had it open have ended"
    finally:
        os.close(end)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_child_that_keeps_the_output_open_delays_nothing(folder: Path, loop: str) -> None:
    """The child is in the process group, so it is killed."""
    code = (
        "import os, signal\nread, write = os.pipe()\nchild = os.fork()\n"
        "if child == 0:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(write, b'x'); signal.pause()\n"
        f"os.read(read, 1); open({str(folder / 'pid')!r}, 'w').write(str(child))"
    )
    (outcome,) = deliver(code, loop=loop)
    assert outcome.disposition is Disposition.DELIVERED
    child = int((folder / "pid").read_text())
    with contextlib.suppress(ProcessLookupError):  # it may wait to be reaped, by someone else
        handle = os.pidfd_open(child)
        try:
            assert select.select([handle], [], [], 60)[0]  # readable when the process has ended
        finally:
            os.close(handle)


@pytest.mark.parametrize("loop", LOOPS)
def test_large_content_waits_for_the_program_and_arrives_whole(folder: Path, loop: str) -> None:
    """Less than a tenth of 100 MB is held while the program does not read."""
    held: list[int] = []
    fifo = folder / "fifo"
    os.mkfifo(fifo, 0o666)
    fifo.chmod(0o666)
    times = 400

    class Counted(Content):
        async def pieces(self) -> AsyncIterator[bytes]:
            for number in range(times):
                held.append(number)
                yield b"x" * PIECE

    code = (
        f"import sys; open({str(fifo)!r}).read()\nsize = 0\n"
        "while piece := sys.stdin.buffer.read(65536): size += len(piece)\n"
        "print(size); raise SystemExit(67)"
    )

    async def main() -> Outcome:
        options = PipeOptions((PYTHON, "-I", "-c", code), user=USER)
        to = [recipient(0, "jo@here.example")]
        message = QueuedMessage("id1", Envelope(Address.parse(""), (to[0].recipient,)), 0.0, Counted(), tuple(to))
        async with asyncio.timeout(60):
            delivery = asyncio.ensure_future(
                Pipe("mx.here.example").deliver(message, to, Route.local(Kind.PIPE, options))
            )
            with await asyncio.to_thread(fifo.open, "wb"):  # the program runs, and does not read
                while True:
                    before = len(held)
                    await asyncio.to_thread(os.stat, fifo)
                    if before and len(held) == before:
                        break
                stopped = len(held)
            ((_, outcome),) = await delivery
        assert stopped < times / 10
        return outcome

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        outcome = runner.run(main())
    top = b"Return-Path: <>\nDelivered-To: jo@here.example\n\n"
    assert str(outcome.reply) == f"550 5.1.1 No such user: {times * PIECE + len(top)}"


def test_damaged_content_is_held_and_the_program_never_sees_its_end(folder: Path) -> None:
    (outcome,) = deliver(save(folder / "m"), body=Content(fails=True))
    assert outcome.disposition is Disposition.HELD
    assert not (folder / "m").exists() or (folder / "m").read_bytes() == b""


def test_a_missing_program_defers() -> None:
    route = Route.local(Kind.PIPE, PipeOptions(("/no/such/program",), user=USER))
    to = [recipient(0, "jo@here.example")]
    message = QueuedMessage("id1", Envelope(Address.parse(""), (to[0].recipient,)), 0.0, Content(), tuple(to))
    ((_, outcome),) = asyncio.run(Pipe("mx.here.example").deliver(message, to, route))
    assert outcome.disposition is Disposition.DEFERRED
    assert "/no/such/program: No such file or directory" in outcome.reply.detail


def test_a_user_that_was_removed_defers_and_is_our_fault() -> None:
    route = Route.local(Kind.PIPE, PipeOptions((PYTHON,), user="no-such-user"))
    to = [recipient(0, "jo@here.example")]
    message = QueuedMessage("id1", Envelope(Address.parse(""), (to[0].recipient,)), 0.0, Content(), tuple(to))
    ((_, outcome),) = asyncio.run(Pipe("mx.here.example").deliver(message, to, route))
    assert (outcome.disposition, outcome.ours) == (Disposition.DEFERRED, True)
    assert outcome.reply.detail == "user: there is no user no-such-user: create it, or name another one"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("command = []", "expected the absolute path of a program"),
        ('command = ["ticket"]', "expected the absolute path of a program"),
        ('command = ["/bin/{recipient}"]', "an address must not choose the program"),
        ('command = ["/bin/x", "{recipient}"]', "would be an option; put \\\"--\\\" before it"),
        ('command = ["/bin/x", "--from", "{sender}"]', "would be an option"),
        ('command = ["/bin/x", "--{sender}", "--"]', "would be an option"),
        ('command = ["/bin/x", "{sender}", "--", "{recipient}"]', "would be an option"),
        ('command = ["/bin/x", "--", "{receiver}"]', "unknown placeholder {receiver}; there are {sender}"),
        ('command = ["/bin/x"]\nenvironment = ["A=B"]', "is not the name of an environment variable"),
        ('command = ["/bin/x"]\nenvironment = ["HOME"]', "HOME is set for each delivery"),
        ('command = ["/bin/x"]\ntimeout = "0s"', "minimum: 1s"),
        ('command = ["/bin/x"]\ncontent = "cr"', "'lf' or 'crlf'"),
        ("user = \"x\"", "command"),
    ],
)  # fmt: skip
def test_r40_a_command_in_which_an_address_could_be_an_option_is_refused(options: str, sentence: str) -> None:
    text = f'[[local.delivery]]\nrecipients = ["*"]\n[local.delivery.pipe]\n{options}\n'
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert sentence.replace('\\"', '"') in str(caught.value)


def test_addresses_after_the_end_of_options_or_after_other_characters_are_allowed() -> None:
    for command in ('"-f{sender}"', '"--from={sender}"', '"--", "{sender}"', '"{}", "{A}", "a{recipient}"'):
        parse(f'[[local.delivery]]\nrecipients = ["*"]\npipe = {{ command = ["/bin/x", {command}] }}\n')


def test_verify_names_what_this_system_lacks() -> None:
    PipeOptions((PYTHON,), user=USER).verify()
    with pytest.raises(ValueError, match="command: /no/such/program is not an executable file"):
        PipeOptions(("/no/such/program",), user=USER).verify()
    with pytest.raises(ValueError, match="user: there is no user no-such-user"):
        PipeOptions((PYTHON,), user="no-such-user").verify()


def test_the_signals_of_the_platform_have_names() -> None:
    assert module._signal(signal.SIGKILL) == "SIGKILL"
    assert module._signal(127) == "signal 127"
