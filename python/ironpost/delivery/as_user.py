"""Delivery as another user: a helper process that gives up all rights before it reads user data (SECURITY R47).

Promises: `command` wraps a program so that it starts with the rights of one user: supplementary groups, group and user
are set (real, effective and saved), in that order, and checked; it can gain no privileges by executing other files
(`no_new_privs`, where the system has it); umask 077; working directory `/`; no descriptors but the standard three. The
helper reads its arguments only: the content waits in its standard input, for the program.
Refuses: user 0 and group 0, users and groups that do not exist, and, without root, any user but the server's: with
`AsUserError`.

A process that runs our own code calls `become` instead, with `arguments`.
This module is also the helper, run by the path of its file, so it imports nothing of ironpost.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_NO_NEW_PRIVS: Final = 38
_TEMPORARY: Final = 75
"""EX_TEMPFAIL of sysexits.h: the helper failed, so the mail waits."""


class AsUserError(Exception):
    """No process can be started as this user. The text says why."""


class Identity(NamedTuple):
    """The rights of a process."""

    user: int
    group: int
    groups: tuple[int, ...]
    """Supplementary groups."""
    name: str
    """The name of the user."""
    home: str


def identity(user: str, group: str = "") -> Identity:
    """Look up a user whose rights a process may get. Blocks.

    Args:
        user: its name; empty for the server's, which must not be root.
        group: the name of the group; empty for the user's.

    Raises:
        AsUserError: it does not exist, or we may not become it.
    """
    ours = os.geteuid()
    if not user and ours == 0:
        raise AsUserError("a user is required, because the server runs as root")
    try:
        found = pwd.getpwnam(user) if user else pwd.getpwuid(ours)
    except KeyError:
        raise AsUserError(f"there is no user {user or ours}: create it, or name another one") from None
    number = found.pw_gid
    if group:
        try:
            number = grp.getgrnam(group).gr_gid
        except KeyError:
            raise AsUserError(f"there is no group {group}: create it, or name another one") from None
    if found.pw_uid == 0 or number == 0:
        raise AsUserError(f"{found.pw_name} with group {number}: nothing is delivered with the rights of root")
    groups = tuple(os.getgrouplist(found.pw_name, number))
    if ours != 0:
        if found.pw_uid != ours:
            raise AsUserError(f"the server is not root, so it cannot run anything as {found.pw_name}")
        if number != os.getegid():
            raise AsUserError(f"the server is not root, so it cannot run anything with another group than {number}")
        groups = tuple(os.getgroups())
    return Identity(found.pw_uid, number, groups, found.pw_name, found.pw_dir)


def command(rights: Identity, argv: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a process that runs `argv` with these rights; `argv[0]` is an absolute path.

    If that is impossible, the process prints why and exits with 75 (EX_TEMPFAIL).
    """
    # -I: neither the environment nor the working directory decides what is imported, with our rights.
    return (sys.executable, "-I", "-S", __file__, *arguments(rights), *argv)


def arguments(rights: Identity) -> tuple[str, str, str]:
    """The arguments of a process for `become`."""
    return str(rights.user), str(rights.group), ",".join(map(str, rights.groups))


def become(user: str, group: str, groups: str) -> None:
    """Give up all rights but these (`arguments`) for good, and keep nothing open but the standard descriptors.

    Raises:
        OSError: that is impossible.
    """
    _become(int(user), int(group), [int(each) for each in groups.split(",") if each])
    os.umask(0o077)
    os.chdir("/")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _become(user: int, group: int, groups: list[int]) -> None:
    if os.geteuid() == 0:
        os.setgroups(groups)
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    if os.getresuid() != (user,) * 3 or os.getresgid() != (group,) * 3 or user == 0:
        raise PermissionError("the rights could not be given up")
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")


def _main(given: list[str]) -> int:
    """Become the user and execute the program; returns only if that fails."""
    user, group, groups, *argv = given
    try:
        become(user, group, groups)
        os.execv(argv[0], argv)  # noqa: S606 - without a shell
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror or error}\n")
    return _TEMPORARY


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
