"""Forward files: what they may say, whose they must be, and what mail does while one is broken."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.delivery import forward_files
from ironpost.delivery.forward_files import OCTETS, TARGETS, ForwardFileError, ForwardFiles, parsed
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import Address, Recipient
from ironpost.model.envelope import REFUSED
from ironpost.model.patterns import Addresses, Domains
from ironpost.routing.directory import DirectoryError, expand
from ironpost.routing.mail_directory import MailDirectory
from ironpost.routing.records import Record, RecordTable
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator

JO = Address.parse("jo@mail.example")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


class Homes:
    """A directory with forward files by `{local}/.forward`, and the mail directory that reads them."""

    def __init__(self, base: Path, below: str = "{local}/.forward") -> None:
        self.base = base
        self.metrics = Counters()
        self.files = ForwardFiles(PathTemplate(f"{base}/{below}"), self.metrics)
        records = {"team@mail.example": Record("team", (JO, Address.parse("ann@mail.example")))}
        self.directory = MailDirectory(
            Domains(["mail.example"]), [RecordTable(records)], listed=Addresses(("*@mail.example",)), separator="+",
            forward_file=self.files.record,
        )  # fmt: skip

    def write(self, text: str, user: str = "jo") -> Path:
        home = self.base / user
        home.mkdir(exist_ok=True)
        path = home / ".forward"
        path.write_text(text)
        path.chmod(0o600)
        return path

    def record(self) -> Record | None:
        return asyncio.run(self.files.record(JO))

    def expanded(self, address: str = "jo@mail.example") -> list[str]:
        async def scenario() -> list[str]:
            found = expand((Recipient(Address.parse(address)),), self.directory, accepted=1)
            final = found if isinstance(found, tuple) else await found
            return [f"{each.address} {each.parameters.get(REFUSED, '')}".rstrip() for each in final]

        return asyncio.run(scenario())

    def failure(self) -> tuple[str, dict[str, float]]:
        """The error of a lookup, without the path, and what was counted."""
        with pytest.raises(DirectoryError) as caught:
            self.expanded()
        counts = self.metrics.snapshot()["forward_file_failures"]
        return str(caught.value).partition(": ")[2], {reason: count for reason, count in counts.items() if count}


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


@pytest.fixture
def open_homes() -> Iterator[Homes]:
    """Homes that other users can reach."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        yield Homes(Path(base))


@pytest.mark.parametrize(
    ("text", "targets", "keep"),
    [
        ("ann@mail.example", ["ann@mail.example"], False),
        ("ann@mail.example, bob@x.net\r\n\n  eve,", ["ann@mail.example", "bob@x.net", "eve@mail.example"], False),
        ("# away\nann # until May\n", ["ann@mail.example"], False),
        ("ann#1@mail.example", ["ann#1@mail.example"], False),
        ("ann\n\\jo\n", ["ann@mail.example"], True),
        ("ann\nJo@Mail.example\n", ["ann@mail.example"], True),
        ("\\jo@mail.example", [], True),
        ("ann,ann@mail.example", ["ann@mail.example"], False),
        ('"a,b"@mail.example, bob', ['"a,b"@mail.example', "bob@mail.example"], False),
        ("flö@mail.example", ["flö@mail.example"], False),
        ("", [], False),
        (" \n# nothing\n,\n", [], False),
    ],
)  # fmt: skip
def test_what_a_file_says(text: str, targets: list[str], keep: bool) -> None:
    assert parsed(text.encode(), JO) == (tuple(map(Address.parse, targets)), keep)


@pytest.mark.parametrize(
    ("text", "reason", "sentence"),
    [
        ("ann\n|/usr/bin/vacation jo\n", "unsupported", "line 2: a program, file or list cannot be a target"),
        ('"|/usr/bin/vacation jo"', "unsupported", "line 1: a program"),
        ('\\jo, "| exec /usr/bin/procmail"', "unsupported", "line 1: a program"),
        ("/var/mail/archive", "unsupported", "line 1: a program"),
        (":include:/etc/list", "unsupported", "line 1: a program"),
        ("\\ann", "invalid", "line 1: only jo@mail.example can have a backslash in front"),
        ("Ann <ann@mail.example>", "invalid", 'line 1: invalid character " " in the local part (offset 3)'),
        ('"ann@mail.example', "invalid", "line 1: "),
        ('"ann #1"@mail.example', "invalid", "line 1: "),
        (",".join(f"u{number}" for number in range(TARGETS + 1)), "invalid", "more than 100 addresses"),
        ("#" * (OCTETS + 1), "invalid", "larger than 64 KiB"),
    ],
)
def test_mail_waits_while_a_file_cannot_be_used(homes: Homes, text: str, reason: str, sentence: str) -> None:
    homes.write(text)
    failed, counted = homes.failure()
    assert failed.startswith(sentence)
    assert counted == {reason: 1}
    homes.write("ann")
    assert homes.expanded() == ["ann@mail.example"]


@given(st.binary() | st.text(alphabet='"\\,#|@a. \n').map(str.encode))
def test_any_content_is_used_or_refused(content: bytes) -> None:
    with suppress(ForwardFileError):
        targets, _ = parsed(content, JO)
        assert JO not in targets


def test_a_change_counts_at_the_next_lookup_and_a_file_is_not_read_twice(
    homes: Homes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert homes.record() is None
    path = homes.write("ann")
    assert homes.expanded() == ["ann@mail.example"]
    with monkeypatch.context() as without:
        without.setattr(forward_files, "open_private", None)
        assert homes.expanded("jo+news@mail.example") == ["ann@mail.example"]
    homes.write("bob, \\jo")
    assert homes.expanded("jo+news@mail.example") == ["bob@mail.example", "jo+news@mail.example"]
    path.unlink()
    assert homes.expanded() == ["jo@mail.example"]


def test_only_a_mailbox_has_a_forward_file(homes: Homes) -> None:
    homes.write("away@other.example", "team")
    homes.write("away@other.example", "postmaster")
    homes.write("ann")
    assert homes.expanded("team@mail.example") == ["ann@mail.example"]
    assert homes.expanded("jo@other.example") == ["jo@other.example"]
    assert homes.expanded("Postmaster") == ["Postmaster"]
    assert homes.expanded("postmaster@mail.example") == ["away@other.example"]


@pytest.mark.parametrize(
    ("files", "final"),
    [
        ({"jo": "ann", "ann": "jo"}, ["jo@mail.example 5.4.6"]),
        ({"jo": "ann", "ann": "bob", "bob": "ann"}, ["ann@mail.example 5.4.6"]),
        ({"jo": "team"}, ["ann@mail.example", "jo@mail.example 5.4.6"]),
        ({"jo": "\\jo, ann", "ann": "jo, \\ann"}, ["ann@mail.example", "jo@mail.example"]),
    ],
)
def test_a_loop_ends_as_a_report_or_in_a_copy(homes: Homes, files: dict[str, str], final: list[str]) -> None:
    for user, text in files.items():
        homes.write(text, user)
    assert sorted(homes.expanded()) == final


def test_an_address_without_a_possible_file_is_a_mailbox(homes: Homes) -> None:
    long = f'"{"%" * 62}"@mail.example'
    homes.files = ForwardFiles(PathTemplate(f"{homes.base}/{'x' * 100}{{local}}"))
    assert asyncio.run(homes.files.record(Address.parse(long))) is None


def test_a_file_that_is_not_read_in_time_defers(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(forward_files, "_examined", lambda *_: ended.wait())
    monkeypatch.setattr(forward_files, "TIMEOUT", 0.01)
    try:
        assert homes.failure() == ("it was not read within 0 seconds", {"unreadable": 1})
    finally:
        ended.set()


# -- whose the file must be (R47)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_r47_only_a_regular_file_is_read(homes: Homes, kind: str) -> None:
    path = homes.write("ann")
    path.rename(homes.base / "elsewhere")
    match kind:
        case "link":
            path.symlink_to(homes.base / "elsewhere")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
    assert homes.failure() == ("not a regular file", {"unsafe": 1})


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_r47_a_file_that_others_may_write_is_refused(homes: Homes, mode: int) -> None:
    path = homes.write("ann")
    path.chmod(mode)
    assert homes.failure() == (f"other users may write it; run: chmod go-w {path}", {"unsafe": 1})


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_r47_a_file_that_others_may_replace_is_refused(homes: Homes, mode: int) -> None:
    home = homes.write("ann").parent
    home.chmod(mode)
    assert homes.failure() == (f"other users may replace it; run: chmod go-w {home}", {"unsafe": 1})


def test_r47_a_file_that_was_replaced_before_it_was_opened_is_not_read(
    homes: Homes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = homes.write("ann")
    other = homes.write("eve", "eve")
    monkeypatch.setattr(forward_files, "open_private", lambda _path, flags: os.open(other, flags))
    assert homes.failure() == ("it was changed while it was read", {"unreadable": 1})
    monkeypatch.undo()
    os.link(path, homes.base / "second")
    assert homes.failure()[0] == "a file with several hard links, so it is not opened"


@as_root
def test_r47_a_file_of_another_user_is_refused(homes: Homes) -> None:
    path = homes.write("ann")
    nobody, daemon = (pwd.getpwnam(name).pw_uid for name in ("nobody", "daemon"))
    os.chown(path.parent, nobody, -1)
    os.chown(path, daemon, -1)
    assert homes.failure() == ("it does not belong to the user of the mailbox", {"unsafe": 1})


@as_root
def test_r47_root_reads_a_file_with_the_rights_of_its_user(open_homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_files, "open_private", None)  # the server itself reads nothing
    path = open_homes.write("ann")
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(path.parent, nobody, -1)
    failed, counted = open_homes.failure()
    assert failed.startswith("nobody cannot read it: ")
    assert failed.endswith("Permission denied")
    assert counted == {"unreadable": 1}
    os.chown(path, nobody, -1)
    assert open_homes.expanded() == ["ann@mail.example"]


@as_root
def test_r47_a_link_among_the_directories_leads_to_nothing_that_the_user_cannot_read(open_homes: Homes) -> None:
    secret = open_homes.write("eve", "secret")
    home = open_homes.base / "jo"
    home.mkdir()
    (home / "mail").symlink_to(secret.parent)
    os.chown(home, pwd.getpwnam("nobody").pw_uid, -1)
    homes = Homes(open_homes.base, "{local}/mail/.forward")
    failed, counted = homes.failure()
    assert failed.startswith("nobody cannot read it")
    assert counted == {"unreadable": 1}


@as_root
def test_r47_a_user_without_an_account_is_refused(homes: Homes) -> None:
    path = homes.write("ann")
    unknown = next(uid for uid in range(40000, 60000) if uid not in {each.pw_uid for each in pwd.getpwall()})
    os.chown(path.parent, unknown, -1)
    os.chown(path, unknown, -1)
    assert homes.failure() == (f"the user id {unknown} of the mailbox has no account", {"unsafe": 1})
