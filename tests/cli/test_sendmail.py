"""`ironpost sendmail` as programs call it, with and without a server; the drop directory under kill -9."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import ROOT, Running, environment, until

from ironpost.storage import drop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MESSAGE = b"To: Jo <jo@mx.example>, team: ann@mx.example, =?utf-8?q?B=C3=B6b?= <bob@mx.example>;\n" \
    b"Bcc: eve@mx.example\nSubject: x\n\nbody\n"  # fmt: skip


@pytest.fixture
def system(tmp_path: Path) -> Running:
    """A server that is not running, with its drop directory."""
    running = Running(tmp_path, '[local]\ndomains = ["*"]\n')
    running.data.mkdir(mode=0o700)
    drop.prepare(running.data / "sendmail")
    return running


def sendmail(system: Running, *arguments: str, stdin: bytes = MESSAGE) -> subprocess.CompletedProcess[bytes]:
    return system.run("sendmail", "-C", str(system.file), *arguments, stdin=stdin)


def dropped(system: Running) -> list[tuple[Any, bytes]]:
    """The envelopes and contents that were left."""
    directory = system.data / "sendmail"
    found = []
    for name in drop.waiting(directory):
        file = drop.DropFile(directory, name)
        found.append((file.envelope, b"".join(iter(file.read, b""))))
        file.close()
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_works_as_soon_as_the_server_is_ready(tmp_path: Path, workers: str) -> None:
    running = Running(tmp_path, '[local]\ndomains = ["*"]\n')
    running.start("--workers", workers)
    try:
        assert sendmail(running, "jo@mx.example").returncode == 0
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("arguments", "sender", "to"),
    [
        (("-t", "-i"), None, ["jo", "ann", "bob", "eve"]),  # PHP
        (("-ti",), None, ["jo", "ann", "bob", "eve"]),
        (("-i", "-FCronDaemon", "-B8BITMIME", "-oem", "root"), None, ["root"]),  # cron
        (("-oem", "-oi", "-f", "ada@mx.example", "--", "jo@mx.example"), "ada@mx.example", ["jo"]),  # mutt
        (("-f", "Ada <ada@mx.example>", "-i", "jo@mx.example", "ann@mx.example"), "ada@mx.example", ["jo", "ann"]),
        (("-bm", "-v", "-G", "-odi", "-fada@mx.example", "--", "jo@mx.example"), "ada@mx.example", ["jo"]),
        (("-f", "<>", "jo@mx.example"), "", ["jo"]),
    ],
)
def test_as_programs_call_it(system: Running, arguments: tuple[str, ...], sender: str | None, to: list[str]) -> None:
    done = sendmail(system, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    [(envelope, content)] = dropped(system)
    if sender is not None:
        assert str(envelope.reverse_path) == sender
    assert [str(each.address) for each in envelope.recipients] == [f"{name}@mx.example" for name in to]
    assert content.replace(b"\r\n", b"").count(b"\n") == 0
    assert message_from_bytes(content)["From"]
    assert content.endswith(b"\r\n\r\nbody\r\n")


@pytest.mark.parametrize(
    ("local", "more", "domain"),
    [
        ('["localhost", "*.mail.example", "mail.example", "mx.example"]', "", "mx.example"),
        ('["localhost", "*.mail.example", "mail.example", "shop.example"]', "", "mail.example"),
        ('["localhost"]', "", "mx.example"),
        ('["mail.example"]', '[sendmail]\ndomain = "shop.example"\n', "shop.example"),
    ],
    ids=["hostname", "a local domain", "neither is local", "configured"],
)
def test_the_domain_of_addresses_without_one(system: Running, local: str, more: str, domain: str) -> None:
    system.configure(f"[local]\ndomains = {local}\n{more}")
    assert sendmail(system, "-f", "cron", "root", stdin=b"Subject: x\n\ny\n").returncode == 0
    [(envelope, content)] = dropped(system)
    assert (str(envelope.reverse_path), str(envelope.recipients[0].address)) == (f"cron@{domain}", f"root@{domain}")
    assert f"cron@{domain}" in str(message_from_bytes(content)["From"])


def test_resent_recipients_are_those_of_the_newest_block(system: Running) -> None:
    newest = b"Resent-To: jo@mx.example\nResent-Date: x\nResent-To: old@mx.example\nResent-Cc: older@mx.example\n"
    assert sendmail(system, "-t", stdin=newest + MESSAGE).returncode == 0
    assert [str(each.address) for each in dropped(system)[0][0].recipients] == ["jo@mx.example"]


def test_notification_options_become_parameters(system: Running) -> None:
    assert sendmail(system, "-N", "success,failure", "-R", "hdrs", "-V", "id1", "jo").returncode == 0
    envelope = dropped(system)[0][0]
    assert {key: str(value) for key, value in envelope.parameters.items()} == {"RET": "HDRS", "ENVID": "id1"}
    assert str(envelope.recipients[0].parameters["NOTIFY"]) == "SUCCESS,FAILURE"


@pytest.mark.parametrize(("options", "body"), [((), b"a\r\n"), (("-i",), b"a\r\n.\r\nb\r\n")])
def test_a_lone_dot_ends_the_message_unless_it_is_ignored(system: Running, options: Any, body: bytes) -> None:
    assert sendmail(system, *options, "jo", stdin=b"Subject: x\n\na\n.\nb\n").returncode == 0
    assert dropped(system)[0][1].partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("text", [b"hello\n", b"Subject: x\nhello\n"])
def test_a_missing_empty_line_is_added(system: Running, text: bytes) -> None:
    assert sendmail(system, "jo", stdin=text).returncode == 0
    message = message_from_bytes(dropped(system)[0][1])
    assert message.get_payload() == "hello\r\n"
    assert message["Subject"] in (None, "x")


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "why"),
    [
        (("-bs",), b"", 64, "sendmail -bs is not supported: send it to the server's listener"),
        ((), MESSAGE, 64, "no recipients: name them, or use -t for those of the header section"),
        (("-t",), b"Subject: x\n\ny\n", 65, "the header section names no recipient"),
        (("-K", "jo"), MESSAGE, 64, "sendmail: option -K not recognized"),
        (("-N", "maybe", "jo"), MESSAGE, 64, "NOTIFY"),
        (("jo@@x",), MESSAGE, 65, "invalid address jo@@x"),
        (("jo",), b"From: a@b\nFrom: c@d\n\n", 65, "Message has several From fields"),
        (("jo",), b"Subject: x\n\na\0b\n", 65, "the message has a NUL octet"),
    ],
)
def test_what_cannot_be_sent_is_refused(system: Running, arguments: Any, stdin: bytes, code: int, why: str) -> None:
    done = sendmail(system, *arguments, stdin=stdin)
    assert done.returncode == code
    assert why in done.stderr.decode()
    assert [*(system.data / "sendmail").iterdir()] == []


def test_without_a_drop_directory_it_says_so(tmp_path: Path) -> None:
    done = sendmail(Running(tmp_path, ""), "jo")
    assert done.returncode == 73
    assert b"start the server once" in done.stderr


def test_requests_for_a_queue_run_are_accepted(system: Running) -> None:
    assert [sendmail(system, option).returncode for option in ("-q", "-q30m")] == [0, 0]
    assert dropped(system) == []


def test_help_lists_the_options_of_the_documentation(system: Running) -> None:
    done = system.run("sendmail", "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    text = (ROOT / "docs" / "operations.md").read_text().partition("\n## Mail from programs\n")[2].partition("\n## ")[0]
    documented = {each for row in re.findall(r"^\| (`-.*?) \|", text, re.M) for each in re.findall(r"`(-\w)", row)}
    assert {"-t", "-f", "-b", "-G"} <= documented <= set(re.findall(r"(?<!\S)-\w", done.stdout.decode()))


def test_it_works_as_a_symbolic_link_named_sendmail(system: Running, tmp_path: Path) -> None:
    script = tmp_path / "ironpost"
    script.write_text(f"#!{sys.executable}\nfrom ironpost.cli import main\nmain()\n")
    script.chmod(0o755)
    link = tmp_path / "sendmail"
    link.symlink_to(script)
    done = subprocess.run(
        [link, "-C", system.file, "-t", "-i"], input=MESSAGE, env=environment(), cwd="/", capture_output=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(dropped(system)) == 1


def test_what_was_left_by_several_at_once_is_delivered_after_the_start(system: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        codes = [each.returncode for each in pool.map(lambda _: sendmail(system, "-t"), range(8))]
    assert codes == [0] * 8
    system.start()
    try:
        mail = [message_from_bytes(each) for each in system.wait_for_mail(32)]
        assert len({each["Message-ID"] for each in mail}) == 8
        assert {each["Delivered-To"] for each in mail} == {f"{name}@mx.example" for name in ("jo", "ann", "bob", "eve")}
        assert all(each["Bcc"] is None and each["Date"] for each in mail)
        assert sendmail(system, "ada", stdin=b"Subject: y\n\nnow\n").returncode == 0
        assert len(system.wait_for_mail(33)) == 33
        assert drop.waiting(system.data / "sendmail") == []
    finally:
        system.stop()


def test_recipients_that_rcpt_would_refuse_are_returned(serve: Callable[..., Running]) -> None:
    system = serve(
        '[[mailbox]]\naddress = "root@mx.example"\n[[mailbox]]\naddress = "left@mx.example"\ndisabled = true\n'
        '[[relay]]\ndomains = ["branch.example"]\nrecipients = ["jo@branch.example"]\n'
        '[local]\ndomains = ["mx.example"]\n[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:1"]\n'
    )
    refused = {"typo@mx.example": "5.1.1", "left@mx.example": "5.2.1", "x@branch.example": "5.1.1"}
    assert sendmail(system, "-f", "root", *refused).returncode == 0
    bounces = [message_from_bytes(each) for each in system.wait_for_mail(2)]
    fields = {
        str(part["Final-Recipient"]).partition("; ")[2]: str(part["Status"])
        for bounce in bounces
        for part in bounce.walk()
        if "Final-Recipient" in part
    }
    assert fields == refused
    assert {bounce["Delivered-To"] for bounce in bounces} == {"root@mx.example"}
    assert sendmail(system, "-f", "typo", "gone").returncode == 0  # nor is there a mailbox for the bounce
    until(lambda: "unreportable" in system.log(), system.log)
    system.wait_until_empty()
    assert len(system.mail()) == 2


def test_a_file_that_comes_back_after_its_commit_is_queued_once(
    system: Running, wait_until: Callable[..., None]
) -> None:
    """As after a kill between the commit and the removal."""
    directory = system.data / "sendmail"
    assert sendmail(system, "jo").returncode == 0
    [name] = drop.waiting(directory)
    octets = (directory / name).read_bytes()
    system.start()
    system.wait_for_mail()
    system.wait_until_empty()  # or the delivery, which is not recorded yet, is repeated
    system.stop(9)
    (directory / name).write_bytes(octets)
    (directory / ("f" * 32)).write_bytes(b"[]\n")
    (directory / ("e" * 32)).symlink_to(system.file)
    system.start()
    try:
        wait_until(lambda: drop.waiting(directory) == [], system.log)
        system.wait_until_empty()
        assert len(system.mail()) == 1
        assert {path.name for path in directory.iterdir()} == {f"{'e' * 32}.refused", f"{'f' * 32}.refused"}
        wait_until(lambda: "drop-refused" in system.log(), system.log)
    finally:
        system.stop()


def test_r47_a_link_in_the_drop_directory_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    (tmp_path / ("a" * 32)).symlink_to(secret)
    os.link(secret, tmp_path / ("b" * 32))
    for name in drop.waiting(tmp_path):
        with pytest.raises(OSError, match=r"symbolic|hard links"):
            drop.DropFile(tmp_path, name)
    assert len(drop.waiting(tmp_path)) == 2


@pytest.mark.parametrize("command", ["mail", "rcpt"])
def test_r23_long_parameters_in_the_drop_directory_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(drop, "decode_parameters", lambda _: pytest.fail("it keeps what it reads"))
    envelope = {"sender": "", "recipients": ["jo@mx.example"], "mail": "", "rcpt": ""}
    envelope[command] = "X=" + drop.PARAMETERS_LIMIT * "x"
    path = tmp_path / ("a" * 32)
    path.write_text(json.dumps(envelope) + "\n")
    path.chmod(0o600)
    with pytest.raises(drop.DropError, match="its envelope is not valid"):
        drop.DropFile(tmp_path, path.name)


def test_r47_a_directory_where_users_may_replace_files_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(OSError, match="replace the files of others"):
        drop.prepare(tmp_path)
    tmp_path.chmod(0o3733)
    drop.prepare(tmp_path)


@pytest.mark.parametrize(
    ("directory", "why"),
    [
        ("open", "{0}/open: every user may replace the files of others there; run: chmod 3733"),
        ("nowhere/drop", "{0}/nowhere/drop: its parent does not exist: create it"),
        ("log/drop", "{0}/log/drop: Not a directory"),
    ],
)
def test_an_unusable_directory_is_named_at_start_at_reload_and_by_check(
    serve: Callable[..., Any], directory: str, why: str
) -> None:
    server = serve("")
    (server.folder / "open").mkdir()
    (server.folder / "open").chmod(0o777)
    server.configure(f'[sendmail]\ndirectory = "{server.folder}/{directory}"\n')
    expected = f"sendmail.directory: {why.format(server.folder)}"
    assert expected in server.run("reload", "-c", str(server.file)).stderr.decode()
    assert server.stop() == 0
    for command in (
        ["serve", "-c", str(server.file)],
        ["serve", "--workers", "2", "-c", str(server.file)],
        ["check", str(server.file)],
    ):
        done = server.run(*command)
        assert done.returncode == 78
        assert expected in done.stderr.decode()


KILLED = """
import os, sys
from pathlib import Path
from ironpost.model import Address, Envelope, Recipient
from ironpost.storage import drop
step, count = int(sys.argv[2]), 0
def stop(*_):
    global count
    count += 1
    if count == step:
        os.kill(os.getpid(), 9)
sys.addaudithook(lambda event, _: stop() if event in ("open", "os.chmod", "os.rename", "os.remove") else None)
jo = Recipient(Address.parse("jo@mx.example"))
envelope = Envelope(Address.parse("ada@mx.example"), (jo,))
drop.leave(Path(sys.argv[1]), envelope, [b"Subject: x\\r\\n\\r\\n", b"y" * 99999])
print("acknowledged")
"""


def test_a_command_that_is_killed_leaves_a_whole_message_or_none(tmp_path: Path) -> None:
    acknowledged = False
    for step in range(1, 20):
        directory = tmp_path / str(step)
        drop.prepare(directory)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, directory, str(step)], cwd=ROOT, env=environment(), capture_output=True,
            check=False,
        )  # fmt: skip
        names = drop.waiting(directory)
        assert all(len((directory / name).read_bytes()) > 99999 for name in names)
        acknowledged = done.stdout == b"acknowledged\n"
        assert len(names) == 1 if acknowledged else done.returncode == -9
        if acknowledged:
            break
    assert acknowledged, done.stderr
    assert step > 3


def test_an_incomplete_file_may_be_finished_while_stale_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale, finished = tmp_path / "stale", tmp_path / "finished"
    stale.touch()
    os.utime(stale, (0, 0))
    monkeypatch.setattr(type(tmp_path), "glob", lambda *_: iter([finished, stale]))
    drop.remove_stale(tmp_path, drop.STALE_SECONDS + 1.0)
    assert not stale.exists()


@pytest.mark.parametrize(
    ("arguments", "sender"),
    [(("-F", "-quick", "jo@mx.example"), None), (("-F", "-d name", "-i", "jo@mx.example"), None),
     (("-iF", "-q", "-f", "ada@mx.example", "jo@mx.example"), "ada@mx.example")],
)  # fmt: skip
def test_the_value_of_an_option_may_look_like_another_option(
    system: Running, arguments: tuple[str, ...], sender: str | None
) -> None:
    assert sendmail(system, *arguments).returncode == 0
    [(envelope, _)] = dropped(system)
    assert [str(each.address) for each in envelope.recipients] == ["jo@mx.example"]
    assert sender in {None, str(envelope.reverse_path)}
