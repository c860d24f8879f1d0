"""Mailboxes that are written as their users (R47): whose they are, hostile homes, and processes that fail."""

from __future__ import annotations

import asyncio
import os
import pickle
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from tests.delivery.mailbox_kit import CONTENT, Clock, Content, Tokens, queued

from ironpost.delivery import as_user
from ironpost.delivery import mailbox_process as module
from ironpost.delivery.mailbox_process import LENGTH, main, user_name, verify
from ironpost.delivery.maildir import Maildir, MaildirOptions
from ironpost.delivery.maildir_files import File, Job, MaildirWriter, Target
from ironpost.delivery.mbox import Mbox, MboxOptions
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import Address
from ironpost.routing.directory import Mailbox
from ironpost.routing.route import Kind, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ironpost.model import Outcome

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")

NOBODY = "nobody@mail.example"
KINDS = pytest.mark.parametrize("kind", ["maildir", "mbox"])
ROOT = Path(__file__).resolve().parents[2]


class Directory:
    """Every address is a mailbox; details are removed from it."""

    has_aliases = False

    def __init__(self, quota: int | None) -> None:
        self._quota = quota

    def find(self, address: Address) -> Mailbox:
        name = Address.parse(f"{address.local_part.partition('+')[0]}@{address.domain}")
        return Mailbox("here", name, quota=self._quota)


@pytest.fixture
def homes() -> Iterator[Path]:
    """Homes that their users can reach."""
    folder = Path(tempfile.mkdtemp(prefix="homes-"))
    folder.chmod(0o755)
    for name in ("nobody", "daemon"):
        (folder / name).mkdir(mode=0o700)
        own(folder / name, name)
    yield folder
    shutil.rmtree(folder)


def own(path: Path, name: str) -> None:
    user = pwd.getpwnam(name)
    os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def deliver(
    homes: Path, kind: str, *recipients: str, content: Content | None = None, user: str = "{local}",
    quota: int | None = None,
) -> list[Outcome]:  # fmt: skip
    """Deliver a message into the file or directory `mail` of homes."""
    path = PathTemplate(f"{homes}/{{local}}/mail")
    more: dict[str, Any] = {"clock": Clock(), "host": "mx.example", "directory": lambda: Directory(quota)}
    message = queued(*recipients or (NOBODY,), content=content)

    async def run() -> list[Outcome]:
        agent = Maildir(random=Tokens(), **more) if kind == "maildir" else Mbox(**more)
        route = (
            Route.local(Kind.LOCAL, MaildirOptions(path, user=user))
            if kind == "maildir"
            else Route.local(Kind.MBOX, MboxOptions(path, user=user))
        )
        done = await agent.deliver(message, message.recipients, route)
        await agent.close()
        return [outcome for _, outcome in done]

    return asyncio.run(run())


def codes(outcomes: list[Outcome]) -> list[str | None]:
    return [each.reply.enhanced for each in outcomes]


def files(home: Path) -> list[Path]:
    """The mbox, or the messages of the Maildir."""
    mail = home / "mail"
    return [mail] if mail.is_file() else sorted(mail.glob("new/*"))


@KINDS
def test_r47_mail_is_written_by_the_user_of_its_mailbox(homes: Path, kind: str) -> None:
    assert codes(deliver(homes, kind, NOBODY, "Daemon+news@mail.example")) == ["2.0.0", "2.0.0"]
    for name in ("nobody", "daemon"):
        (written,) = files(homes / name)
        assert written.read_bytes().endswith(b"Subject: x\n\n.dot\nbare \r cr\n" + b"\n" * (kind == "mbox"))
        assert written.stat().st_mode & 0o777 == 0o600
        user = pwd.getpwnam(name)
        assert {(each.stat().st_uid, each.stat().st_gid) for each in homes.glob(f"{name}/**/*")} == {
            (user.pw_uid, user.pw_gid)
        }


@KINDS
def test_a_relative_path_is_one_of_the_server(homes: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(homes.parent)
    assert codes(deliver(Path(homes.name), kind)) == ["2.0.0"]
    assert len(files(homes / "nobody")) == 1


@KINDS
def test_large_content_arrives_whole(homes: Path, kind: str) -> None:
    assert codes(deliver(homes, kind, content=Content(b"Subject: x\r\n\r\n" + b"x" * 998 + b"\r\n", 3000))) == ["2.0.0"]
    (written,) = files(homes / "nobody")
    assert written.read_bytes().count(b"x" * 998) == 3000


@KINDS
def test_content_that_cannot_be_read_is_not_delivered(homes: Path, kind: str) -> None:
    assert codes(deliver(homes, kind, content=Content(CONTENT, fails=OSError))) == ["4.3.0"]
    assert files(homes / "nobody") == []


@KINDS
def test_mail_that_was_here_before_loops(homes: Path, kind: str) -> None:
    content = Content(f"Delivered-To: {NOBODY}\r\n\r\n".encode())
    assert codes(deliver(homes, kind, content=content)) == ["5.4.6"]
    assert files(homes / "nobody") == []


@KINDS
def test_quotas_apply(homes: Path, kind: str) -> None:
    assert codes(deliver(homes, kind, quota=10)) == ["5.2.3"]
    assert b"".join(each.read_bytes() for each in files(homes / "nobody")) == b""


@KINDS
@pytest.mark.parametrize("user", ["root", "no-such-user", "{local}s"])
def test_r47_a_user_that_nobody_can_become_defers_the_mail(homes: Path, kind: str, user: str) -> None:
    (outcome,) = deliver(homes, kind, user=user)
    assert (outcome.reply.enhanced, outcome.reply.detail.startswith("user: ")) == ("4.3.5", True)


def link_to_a_mailbox_of_root(mail: Path, homes: Path, kind: str) -> None:
    secret = homes / "secret"
    secret.mkdir(mode=0o700)
    for part in ("new", "cur", "tmp"):
        (secret / part).mkdir()
    (secret / "box").touch()
    mail.symlink_to(secret if kind == "maildir" else secret / "box")


def link_to_a_mailbox_that_all_may_write(mail: Path, homes: Path, kind: str) -> None:
    other = homes / "daemon" / "mail"
    other.mkdir() if kind == "maildir" else other.touch()
    other.parent.chmod(0o777)
    other.chmod(0o777)
    own(other, "daemon")
    mail.symlink_to(other)


def fifo(mail: Path, homes: Path, kind: str) -> None:
    os.mkfifo(mail)
    own(mail, "nobody")


def mailbox_of_another(mail: Path, homes: Path, kind: str) -> None:
    mail.mkdir() if kind == "maildir" else mail.touch()
    mail.chmod(0o777)
    own(mail, "daemon")


def unwritable(mail: Path, homes: Path, kind: str) -> None:
    mail.parent.chmod(0o500)


@KINDS
@pytest.mark.parametrize(
    ("prepare", "maildir", "mbox"),
    [
        (link_to_a_mailbox_of_root, "4.3.5", "4.3.0"),
        (link_to_a_mailbox_that_all_may_write, "4.3.5", "4.3.0"),
        (fifo, "4.3.0", "4.3.5"),
        (mailbox_of_another, "4.3.5", "4.3.5"),
        (unwritable, "4.3.0", "4.3.0"),
    ],
)
def test_r47_hostile_homes(
    homes: Path, kind: str, prepare: Callable[[Path, Path, str], None], maildir: str, mbox: str
) -> None:
    prepare(homes / "nobody" / "mail", homes, kind)
    before = {path: path.lstat().st_size for path in homes.rglob("*") if not path.is_dir()}
    (outcome,) = deliver(homes, kind)
    assert outcome.reply.enhanced == (maildir if kind == "maildir" else mbox), outcome.reply.detail
    assert outcome.reply.detail
    assert {path: path.lstat().st_size for path in homes.rglob("*") if not path.is_dir()} == before


@KINDS
def test_homes_that_are_not_mounted(homes: Path, kind: str) -> None:
    assert codes(deliver(homes / "absent", kind)) == ["4.2.1"]


def test_stale_files_of_the_user_are_removed(homes: Path) -> None:
    assert codes(deliver(homes, "maildir")) == ["2.0.0"]
    (written,) = files(homes / "nobody")
    written.unlink()
    stale = homes / "nobody/mail/tmp/stale"
    stale.touch()
    os.utime(stale, (0, 0))
    assert codes(deliver(homes, "maildir", user="nobody")) == ["2.0.0"]
    assert not stale.exists()


def test_r47_other_users_need_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for user in ("nobody", "{local}"):
        verify(user)
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("daemon").pw_uid)
    for user in ("nobody", "{local}"):
        with pytest.raises(ValueError, match="user: the server is not root"):
            verify(user)


@pytest.mark.parametrize("text", ["{domain}", "{", "{local", "a\0"])
def test_names_have_one_placeholder(text: str) -> None:
    with pytest.raises(ValueError, match="expected the name of a user"):
        user_name(text)


def test_content_that_ends_early_is_not_delivered(homes: Path) -> None:
    """As after a crash of the server."""
    target = Target(homes / "nobody" / "mail", homes)
    job = Job(File(target, "in-tmp"), [], target, ["name"], [b""], 0.0, final=False)
    pieces = [pickle.dumps(MaildirWriter(job)), b"Subject: x\n\nhalf"]
    sent = b"".join(len(each).to_bytes(LENGTH, "big") + each for each in pieces)
    for octets in (sent, sent[:-1]):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; from {main.__module__} import main; main(*sys.argv[1:])",
             MaildirWriter.__module__, *as_user.arguments(as_user.identity("nobody"))],
            input=octets, capture_output=True, env={"PYTHONPATH": str(ROOT / "python")}, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (1, b"the content ends early\n")
        assert [path for path in homes.rglob("*") if path.is_file()] == []


def test_a_process_that_does_not_start_defers_the_mail(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironpost.delivery.mailbox_process._ROOT", str(homes))
    (outcome,) = deliver(homes, "mbox")
    assert outcome.reply.enhanced == "4.3.0"
    assert "the process of nobody failed with 1: " in outcome.reply.detail


def test_a_reply_that_is_not_known_defers_the_mail(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user can change what the process says."""
    for said in ("2.0.1 x", "250 2.0.0", "", "\\r\\n5.1.1 x"):
        monkeypatch.setattr("ironpost.delivery.mailbox_process._PROGRAM", f'print("{said}")')
        (outcome,) = deliver(homes, "mbox")
        assert (outcome.reply.enhanced, outcome.reply.detail.isprintable()) == ("4.3.0", True)


def test_r47_a_user_who_stops_his_processes_does_not_stop_the_delivery_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = asyncio.Event()
    users = {"bad": 1, "good": 2}

    async def run(argv: tuple[str, ...], *_: object, **__: object) -> SimpleNamespace:
        if "1" in argv:
            await stopped.wait()
        return SimpleNamespace(code=0, output=b"2.0.0 ")

    monkeypatch.setattr(module.as_user, "identity", lambda name, group="": SimpleNamespace(user=users[name], name=name))
    monkeypatch.setattr(module.as_user, "arguments", lambda rights: (str(rights.user),))
    monkeypatch.setattr(module.programs, "run", run)

    async def main() -> None:
        processes = module.MailboxProcesses()

        async def write(user: str) -> None:
            await processes.write(user, Address.parse("jo@mail.example"), Mock(), Mock())

        waiting = [asyncio.create_task(write("bad")) for _ in range(module.PROCESSES + 1)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            for _ in range(module.PROCESSES):
                await write("good")
        stopped.set()
        await asyncio.gather(*waiting)

    asyncio.run(main())
