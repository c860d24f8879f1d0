"""The real program as a separate process: its output and exit codes, with and without errors."""

from __future__ import annotations

import errno
import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ROOT = Path(__file__).resolve().parents[2]


UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Command prefix that drops root's privileges, so that file modes apply."""


def ironpost(
    folder: Path, *arguments: str, stdin: bytes = b"", before: tuple[str, ...] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the program in `folder`, and assert that it prints no traceback."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "ironpost.cli", *arguments], cwd=folder, input=stdin.decode(),
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "NO_COLOR": "1", "COLUMNS": "200", **more},
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    return done


def configured(folder: Path, text: str = "", port: int = 0) -> Path:
    file = folder / "ironpost.toml"
    file.write_text(f'data = "data"\n[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:{port}"]\n[smtp]\n{text}')
    return file


# -- errors


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return a command's messages on standard error, without log records."""
    return [line for line in done.stderr.splitlines() if not line.startswith("{")]


def test_a_port_in_use_is_named_with_a_command_to_find_its_user(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        configured(tmp_path, port=port)
        done = ironpost(tmp_path, "serve")
    assert done.returncode == 75
    assert said(done) == [
        f"ironpost: cannot listen on 127.0.0.1:{port}: another program listens there",
        f"ironpost: find it with: ss -ltnp 'sport = :{port}', or choose another address with listener.listen",
    ]


def test_an_address_that_is_not_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "ironpost.toml").write_text('data = "data"\n[[listener]]\nrole = "mx"\nlisten = ["192.0.2.1:2525"]\n')
    done = ironpost(tmp_path, "serve")
    assert done.returncode == 69
    assert said(done) == [f"ironpost: cannot listen on 192.0.2.1:2525: {os.strerror(errno.EADDRNOTAVAIL)}"]
    (tmp_path / "ironpost.toml").write_text(
        'data = "data"\n[[listener]]\nrole = "mx"\nlisten = ["nowhere.invalid:2525"]\n'
    )
    done = ironpost(tmp_path, "serve")
    assert done.returncode == 69
    assert said(done)[0].startswith("ironpost: cannot listen on nowhere.invalid:2525: ")
    assert "Errno" not in done.stderr


def test_a_data_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    configured(tmp_path)
    (tmp_path / "data").write_text("a file, no directory")
    done = ironpost(tmp_path, "serve")
    assert done.returncode == 73
    assert done.stderr == "ironpost: cannot use the data directory data: not a directory\n"


@pytest.mark.skipif(os.geteuid() == 0 and which("setpriv") is None, reason="root may write everywhere")
def test_a_data_directory_that_is_read_only_is_named(tmp_path: Path) -> None:
    configured(tmp_path)
    (tmp_path / "data").mkdir(mode=0o500)
    done = ironpost(tmp_path, "serve", before=UNPRIVILEGED)
    assert (done.returncode, done.stderr) == (
        73, "ironpost: permission denied: cannot use the data directory data\n",
    )  # fmt: skip


def test_a_damaged_queue_is_named(tmp_path: Path) -> None:
    configured(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "queue.sqlite3").write_bytes(b"no database " * 1000)
    listed = ironpost(tmp_path, "queue", "list")
    assert (listed.returncode, listed.stderr) == (
        69, "ironpost: data: the queue cannot be read: the queue's database: file is not a database\n",
    )  # fmt: skip
    served = ironpost(tmp_path, "serve")
    assert served.returncode == 73
    assert served.stderr == (
        "ironpost: cannot use the data directory data: the queue's database cannot be opened: file is not a database\n"
    )


def test_a_data_directory_in_use_is_named_with_the_process(serve: Callable[..., Any]) -> None:
    server = serve("")
    done = server.run("serve", "-c", str(server.file))
    assert done.returncode == 75
    assert f"is in use by process {server.process.pid}" in done.stderr.decode()


def test_an_unknown_key_is_named_with_line_and_nearest_valid_key(tmp_path: Path) -> None:
    file = configured(tmp_path, 'max_mesage = "1MiB"\n')
    for command in (["check"], ["check", str(file)], ["serve", "-c", str(file)], ["queue", "list"]):
        done = ironpost(tmp_path, *command)
        assert done.returncode == 78
        assert 'ironpost.toml:6: smtp.max_mesage: unknown key; did you mean "max_message"?' in done.stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    done = ironpost(tmp_path, "check", "absent.toml")
    assert (done.returncode, done.stderr) == (
        78, "ironpost: absent.toml: cannot read it: No such file or directory\n",
    )  # fmt: skip


def test_send_without_a_reachable_server_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("Subject: x\n\ny\n")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        done = ironpost(tmp_path, "send", "--to", "a@b.example", "--port", str(port), "m")
    assert done.returncode == 69
    assert done.stderr.splitlines() == [
        f"ironpost: 127.0.0.1:{port}: Cannot connect: Connection refused",
        "ironpost: is a server running there? start one here with: ironpost serve, "
        "or name another with --host and --port",
    ]


def test_f30_send_removes_an_mbox_line(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve("")
    (tmp_path / "m").write_bytes(b"From jo@b.example Thu Jan  1 00:00:00 1970\nSubject: x\n\nFrom here\n")
    done = server.run("send", "--to", "jo@localhost", "--port", str(server.port), str(tmp_path / "m"))
    assert done.returncode == 0
    (stored,) = server.wait_for_mail()
    assert b"\nFrom jo@b.example" not in stored
    assert stored.replace(b"\r\n", b"\n").endswith(b"\nSubject: x\n\nFrom here\n")
    counted = server.run("metrics").stdout.decode()
    assert 'ironpost_leniencies_total{kind="mbox_line"} 0.0\n' in counted  # it was not sent


def test_unsendable_messages_are_reported(tmp_path: Path) -> None:
    absent = ironpost(tmp_path, "send", "--to", "a@b.example", "absent")
    assert (absent.returncode, absent.stderr) == (66, "ironpost: absent: No such file or directory\n")
    nobody = ironpost(tmp_path, "send", "--to", "not an address", "-")
    assert (nobody.returncode, nobody.stderr[:42]) == (64, "ironpost: invalid address not an address: ")


def test_dkim_check_of_a_domain_asks_for_the_selector(tmp_path: Path) -> None:
    for made in (False, True):
        if made:
            (tmp_path / "b.example").mkdir()  # a directory is not a message
        done = ironpost(tmp_path, "dkim", "check", "b.example")
        assert (done.returncode, done.stderr) == (
            64,
            "ironpost: b.example is not a file; for the key of a domain give its selector: "
            "ironpost dkim check b.example SELECTOR\n",
        )


@pytest.mark.parametrize(("command", "last"), [("dkim", "message: none"), ("dmarc", "message: permerror")])
def test_an_argument_of_check_is_a_file_if_one_exists(tmp_path: Path, command: str, last: str) -> None:
    for name in ("-", "/dev/stdin"):  # a pipe, which is a file too
        done = ironpost(tmp_path, command, "check", name, stdin=b"Subject: no author\n\n\n")
        assert done.stdout.splitlines()[-1] == last
    for name in ("./absent.eml", "./b.example/"):
        done = ironpost(tmp_path, command, "check", name)
        assert (done.returncode, done.stderr) == (66, f"ironpost: {name}: No such file or directory\n")
    (tmp_path / "locked").mkdir(0)
    done = ironpost(tmp_path, command, "check", "locked/m", before=UNPRIVILEGED)
    assert (done.returncode, done.stderr) == (66, "ironpost: locked/m: Permission denied\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.example", "--ip", "192.0.2.1"], "a.example is not a file, and --ip is for a message"),
        (["-", "--from", "jo@a.example"], "--from and --helo are for SPF, which also needs the client's address: --ip"),
        (
            ["-", "--ip", "192.0.2.1"],
            "with the null reverse-path SPF checks the name in EHLO: give a sender, or that name",
        ),
    ],
)
def test_dmarc_check_ignores_nothing_that_is_said_of_the_client(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    done = ironpost(tmp_path, "dmarc", "check", *arguments, stdin=b"Subject: x\n\n\n")
    assert (done.returncode, done.stderr) == (64, f"ironpost: {sentence}\n")


def test_a_usage_error_exits_with_64(tmp_path: Path) -> None:
    for arguments in (["fly"], ["send", "m"], ["queue", "retry"], ["queue", "retry", "--all", "X"]):
        assert ironpost(tmp_path, *arguments).returncode == 64


def test_commands_without_a_running_server_exit_with_69(tmp_path: Path) -> None:
    configured(tmp_path)
    for arguments in (["reload"], *(["queue", verb, "X"] for verb in ("retry", "hold", "release", "drop"))):
        done = ironpost(tmp_path, *arguments)
        assert (done.returncode, done.stderr) == (
            69, "ironpost: no server runs on the data directory data (start it with: ironpost serve)\n",
        )  # fmt: skip
    done = ironpost(tmp_path, "queue", "list")
    assert (done.returncode, done.stderr) == (69, "ironpost: there is no queue in data; has a server run on it?\n")


def test_without_the_mta_it_says_how_to_install_it(tmp_path: Path) -> None:
    # A path finder that hides the packages of the extra, as in a base install.
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "hidden, real = {'typer', 'rich', 'pydantic', 'dns', 'uvloop'}, PathFinder.find_spec\n"
        "def find_spec(name, path=None, target=None):\n"
        "    return None if name.partition('.')[0] in hidden else real(name, path, target)\n"
        "PathFinder.find_spec = find_spec\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT / "python")])
    for arguments in ([], ["serve"], ["--help"]):
        done = ironpost(tmp_path, *arguments, PYTHONPATH=path)
        assert done.returncode == 69
        assert done.stderr == (
            "ironpost: the mail server needs the extra [mta]: "
            "pip install 'ironpost[mta]', or with a wheel file: pip install 'FILE.whl[mta]'\n"
        )
    assert ironpost(tmp_path, "--version", PYTHONPATH=path).returncode == 0


# -- without errors


def test_version_names_the_wire(tmp_path: Path) -> None:
    done = ironpost(tmp_path, "--version", IRONPOST_WIRE="pure")
    assert done.returncode == 0
    assert done.stdout.startswith("ironpost ")
    assert "pure wire" in done.stdout


def test_check_names_the_file_that_it_read(tmp_path: Path) -> None:
    assert ironpost(tmp_path, "check").stdout.startswith("built-in default: good (configuration ")
    configured(tmp_path)
    assert ironpost(tmp_path, "check").stdout.startswith("ironpost.toml: good (configuration ")


def test_heavy_imports_stay_out_of_light_commands(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['ironpost', 'check']\n"
        "from ironpost.cli.app import run\n"
        "run()\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
    )  # fmt: skip
    loaded = set(done.stderr.split())
    assert {"ironpost.storage.sqlite.store", "ironpost.client", "dns", "sqlite3", "uvloop"}.isdisjoint(loaded)


def test_the_queue_commands(serve: Callable[[str], Any]) -> None:
    # The next hop does not respond, so mail stays in the queue.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = serve(f'[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{nobody.getsockname()[1]}"]\n')
        assert server.json("queue", "list") == []
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            for name in ("one", "two"):
                client.sendmail("ada@client.example", [f"{name}@elsewhere.example"], b"Subject: x\r\n\r\ny\r\n")
        first, second = server.json("queue", "list")
        assert [first["recipients"][0]["to"], second["recipients"][0]["to"]] == [
            "one@elsewhere.example",
            "two@elsewhere.example",
        ]
        shown = server.json("queue", "show", first["id"])
        assert (shown["from"], shown["client"]["helo"]) == ("ada@client.example", "client.example")
        listed = server.run("queue", "list")
        assert [each["id"] for each in server.json("queue", "list", "--all")] == [first["id"], second["id"]]
        assert server.run("queue", "list", "--all", first["id"]).returncode == 64
        assert first["id"] in listed.stdout.decode()
        assert listed.stderr == b""
        cut = server.run("queue", "list", "--json", "--limit", "1")
        assert [message["id"] for message in json.loads(cut.stdout)] == [first["id"]]
        assert cut.stderr == b"ironpost: the list ends after 1, oldest first; use --limit to see more\n"
        assert "one@elsewhere.example" in server.run("queue", "show", first["id"]).stdout.decode()
        assert server.json("queue", "retry", first["id"])["recipients"] == 1
        assert server.json("queue", "retry", "--all")["recipients"] == 2
        unknown = server.run("queue", "drop", first["id"], "nosuch")
        assert (unknown.returncode, unknown.stderr) == (
            66,
            b"ironpost: nothing was changed: no message nosuch in the queue; "
            b"what happened to it: ironpost trace nosuch\n",
        )  # fmt: skip
        assert server.json("queue", "hold", first["id"]) == {"recipients": 1}
        assert server.json("queue", "retry", "--all")["recipients"] == 1
        held = server.json("queue", "show", first["id"])["recipients"][0]
        assert (held["state"], held["next"]) == ("held", None)
        assert " held " in server.run("queue", "list").stdout.decode()
        assert server.run("queue", "release", first["id"]).stdout == b"1 recipient is released\n"
        assert server.json("queue", "show", first["id"])["recipients"][0]["state"] == "queued"
        again = server.run("queue", "release", first["id"])
        assert (again.returncode, again.stdout) == (66, b"0 recipients are released\n")
        assert server.run("queue", "hold", first["id"]).stdout == b"1 recipient is held\n"
        assert server.json("queue", "drop", first["id"]) == {"recipients": 1}
        assert [message["id"] for message in server.json("queue", "list")] == [second["id"]]
        gone = server.run("queue", "show", first["id"])
        assert gone.returncode == 66
        assert gone.stderr.startswith(f"ironpost: no message {first['id']} in the queue".encode())
        assert server.stop() == 0
        # The queue is unchanged, and can be read without a server.
        assert [message["id"] for message in server.json("queue", "list")] == [second["id"]]


def test_reload_applies_a_valid_file_and_keeps_the_old_one_otherwise(serve: Callable[..., Any]) -> None:
    server = serve("")
    reload = ("reload", "-c", str(server.file))

    def accepted(address: str) -> int:
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            client.ehlo()
            client.mail("")
            return client.rcpt(address)[0]

    assert server.run(*reload).stdout.startswith(b"configuration unchanged")
    server.configure('trusted = []\n[local]\ndomains = ["new.example"]\n')
    assert b" replaces " in server.run(*reload).stdout
    assert (accepted("a@new.example"), accepted("a@localhost")) == (250, 550)

    server.configure("trustd = []\n")
    wrong = server.run(*reload)
    assert wrong.returncode == 78
    assert b'smtp.trustd: unknown key; did you mean "trusted"?' in wrong.stderr
    assert accepted("a@new.example") == 250

    server.file.write_text(server.file.read_text().replace("trustd = []", "").replace('"127.0.0.1:0"', '"127.0.0.1:1"'))
    fixed = server.run(*reload)
    assert fixed.returncode == 78
    assert b"a reload cannot change listener[1].listen: restart the server for that" in fixed.stderr
    assert accepted("a@new.example") == 250


def test_sighup_reloads(serve: Callable[[str], Any], wait_until: Callable[..., None]) -> None:
    server = serve("")
    server.configure('[local]\ndomains = ["new.example"]\n')
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: " replaces " in server.log(), server.log)
    server.configure("broken")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the old configuration stays" in server.log(), server.log)
    assert server.stop(signal.SIGINT) == 0


def test_the_log_is_one_json_object_per_line(serve: Callable[..., Any]) -> None:
    server = serve("")
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.sendmail("", ["a@localhost"], b"Subject: x\r\n\r\ny\r\n")
    server.wait_for_mail()
    assert server.stop() == 0
    records = [json.loads(line) for line in server.log().splitlines()]
    assert {"time", "level", "logger"} <= set(records[0])
    (accepted,) = [record for record in records if record.get("event") == "accepted"]
    assert accepted["recipients"] == ["a@localhost"]


def test_the_log_may_be_text(serve: Callable[..., Any]) -> None:
    server = serve('[log]\nformat = "text"\n')
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.sendmail("", ["a@localhost"], b"Subject: x\r\n\r\ny\r\n")
    server.wait_for_mail()
    assert server.stop() == 0
    (session,) = [line for line in server.log().splitlines() if " inbound session " in line]
    assert " listener=mx ip=127.0.0.1 " in session
    assert " helo=client.example commands=5 messages=1 " in session


def test_metrics_are_in_the_prometheus_format(serve: Callable[..., Any]) -> None:
    server = serve("", 'role = "mx"', 'role = "lmtp"')
    with smtplib.SMTP("127.0.0.1", server.ports["mx"], "client.example") as client:
        client.sendmail("", ["a@localhost"], b"Subject: x\r\n\r\ny\r\n")
        assert client.docmd("NONSENSE")[0] == 500
    with smtplib.LMTP("127.0.0.1", server.ports["lmtp"], "client.example") as client:
        client.sendmail("", ["a@localhost"], b"Subject: x\r\n\r\ny\r\n")
    server.wait_for_mail(2)
    server.wait_until_empty()

    def shown() -> dict[str, float]:
        done = server.run("metrics", "-c", str(server.file))
        assert done.returncode == 0, done.stderr
        families = text_string_to_metric_families(done.stdout.decode())
        samples = (sample for family in families for sample in family.samples)
        return {",".join((sample.name, *sample.labels.values())): sample.value for sample in samples}

    found = shown()
    while found["ironpost_commands_total"] < 11:  # a session is counted when it has ended
        found = shown()
    assert found["ironpost_connections_total,mx"] == found["ironpost_connections_total,lmtp"] == 1
    assert found["ironpost_messages_total,accepted"] == 2
    assert found["ironpost_replies_total,5yz"] == 1
    assert found["ironpost_connections_open,mx"] == 0
    assert found["ironpost_queue_messages"] == found["ironpost_queue_recipients,queued"] == 0


def test_a_full_disk_is_452_and_the_server_continues(serve: Callable[..., Any]) -> None:
    server = serve('[queue]\nreserve = "1000000GiB"\n')
    for _ in range(2):
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            with pytest.raises(smtplib.SMTPResponseException) as refused:
                client.sendmail("", ["a@localhost"], b"Subject: x\r\n\r\ny\r\n")
            assert (refused.value.smtp_code, refused.value.smtp_error[:5]) == (452, b"4.3.1")
    assert server.stop() == 0


def test_an_invalid_host_and_an_invalid_password_file_are_reported(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"x: y\r\n\r\nz\r\n")
    (tmp_path / "word").write_bytes(b"\xff\n")
    for host in ("a..b", "a" * 70 + ".example"):
        done = ironpost(tmp_path, "send", "--to", "a@b.example", "--host", host, "m")
        assert done.returncode == 69
        assert host in done.stderr
        assert "not a valid host name" in done.stderr
        done = ironpost(tmp_path, "conform", f"{host}:25")
        assert done.returncode == 69
        assert host in done.stderr
        assert "not a valid host name" in done.stderr
    done = ironpost(tmp_path, "send", "--to", "a@b.example", "--user", "jo", "--password-file", "word", "m")
    assert done.returncode == 66
    assert done.stderr == "ironpost: word: not valid UTF-8\n"
    done = ironpost(tmp_path, "send", "--to", "a@b.example", "--user", "jo", "--tls", "never", "m")
    assert done.returncode == 64
    assert "leave out --tls never" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that opens and cannot be read")
def test_an_unreadable_file_is_reported(serve: Callable[..., Any]) -> None:
    running = serve()
    done = running.run("send", "/proc/self/mem", "--to", "jo@localhost", "--port", str(running.port))
    assert (done.returncode, done.stderr) == (66, b"ironpost: /proc/self/mem: Input/output error\n")
