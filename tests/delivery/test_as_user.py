"""Processes with the rights of another user (R47): what they have left, and who is refused."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import sys

import pytest

from ironpost.delivery import as_user, programs
from ironpost.delivery.as_user import AsUserError, Identity, identity

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")

REPORT = """
import json, os
umask = os.umask(0)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "user": os.getresuid(), "group": os.getresgid(), "groups": sorted(os.getgroups()), "umask": umask,
    "cwd": os.getcwd(), "no_new_privs": status["NoNewPrivs"].strip(), "capabilities": int(status["CapEff"], 16),
    "open": [each for each in os.listdir("/proc/self/fd") if int(each) > 3],
}))
"""


def run(argv: tuple[str, ...]) -> programs.Ended:
    return asyncio.run(programs.run(argv, {"PATH": os.environ["PATH"]}, timeout=30.0, limit=4096, errors=True))


def someone() -> Identity:
    """A user that may be used here: nobody, or the one that runs the tests."""
    return identity("nobody" if os.geteuid() == 0 else "")


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_r47_a_process_has_the_rights_of_the_user_and_no_others() -> None:
    nobody = pwd.getpwnam("nobody")
    opened = os.open("/", os.O_RDONLY)
    os.set_inheritable(opened, True)
    try:
        ended = run(as_user.command(identity("nobody"), ("/usr/bin/python3", "-I", "-c", REPORT)))
    finally:
        os.close(opened)
    assert ended.code == 0, ended.output
    found = json.loads(ended.output)
    assert found == {
        "user": [nobody.pw_uid] * 3,
        "group": [nobody.pw_gid] * 3,
        "groups": [nobody.pw_gid],
        "umask": 0o077,
        "cwd": "/",
        "no_new_privs": "1",
        "capabilities": 0,
        "open": [],
    }


@as_root
def test_r47_the_group_can_be_chosen() -> None:
    other = next(each for each in grp.getgrall() if each.gr_gid not in (0, pwd.getpwnam("nobody").pw_gid))
    ended = run(as_user.command(identity("nobody", other.gr_name), ("/usr/bin/id", "-g")))
    assert ended.output.decode().strip() == str(other.gr_gid)


@as_root
@pytest.mark.parametrize(
    ("user", "group", "reason"),
    [
        ("", "", "a user is required, because the server runs as root"),
        ("root", "", "nothing is delivered with the rights of root"),
        ("nobody", "root", "nothing is delivered with the rights of root"),
    ],
)
def test_r47_nothing_runs_as_root(user: str, group: str, reason: str) -> None:
    with pytest.raises(AsUserError, match=reason):
        identity(user, group)


def test_r47_another_user_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid + 1)
    with pytest.raises(AsUserError, match="the server is not root, so it cannot run anything as nobody"):
        identity("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid)
    monkeypatch.setattr(os, "getegid", lambda: nobody.pw_gid)
    assert identity("").name == identity("nobody").name == "nobody"
    monkeypatch.setattr(os, "getegid", lambda: nobody.pw_gid + 1)
    with pytest.raises(AsUserError, match="another group"):
        identity("nobody")


def test_a_user_or_group_that_does_not_exist_is_named() -> None:
    with pytest.raises(AsUserError, match="there is no user no-such-user: create it"):
        identity("no-such-user")
    with pytest.raises(AsUserError, match="there is no group no-such-group: create it"):
        identity(someone().name, "no-such-group")


def test_a_program_that_cannot_be_executed_is_a_temporary_failure_with_a_reason() -> None:
    ended = run(as_user.command(someone(), ("/no/such/program",)))
    assert (ended.code, ended.output) == (75, b"/no/such/program: No such file or directory\n")


@as_root
def test_r47_a_helper_that_keeps_rights_executes_nothing() -> None:
    rights = Identity(0, 0, (0,), "root", "/")
    ended = run(as_user.command(rights, ("/usr/bin/id",)))
    assert (ended.code, ended.output) == (75, b"/usr/bin/id: the rights could not be given up\n")
