"""Commands of the program without the half second that Python needs to import it.

One process for each pytest worker has imported the program and forks for every command. The command is a process of its
own with its own arguments, folder, environment, standard streams and exit code; what is not seen is what happens before
`ironpost.cli.main` is called. Tests of that start the program as a person does.
"""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGEST = 1 << 20
"""Octets of a request."""


def command(
    arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str], stdin: bytes, seconds: float
) -> subprocess.CompletedProcess[bytes]:
    """Runs `ironpost` with these arguments and waits.

    Raises:
        subprocess.TimeoutExpired: it has not ended within `seconds`, and was killed.
    """
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        tempfile.TemporaryFile() as into,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        into.write(stdin)
        into.seek(0)
        request = {"arguments": arguments, "folder": str(folder), "environment": dict(environment)}
        files: list[IO[bytes] | socket.socket] = [into, out, err, theirs]
        socket.send_fds(_process()[0], [json.dumps(request).encode()], [file.fileno() for file in files])
        theirs.close()
        ours.settimeout(seconds)
        said = ours.makefile("r")
        pid = int(said.readline())
        try:
            code = int(said.readline())
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(["ironpost", *arguments], seconds) from None
        finally:
            said.close()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["ironpost", *arguments], code, out.read(), err.read())


def said(
    folder: Path, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """The same with text; this process's environment and no colours unless told otherwise."""
    environment = {**os.environ, "NO_COLOR": "1"} if environment is None else environment
    done = command(arguments, folder, environment, stdin.encode(), seconds)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@cache
def _process() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Where the process is asked, and the process: it ends when that is closed, at the latest with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = "from tests.preloaded import main; main()"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}/python:{root}", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )  # fmt: skip
    theirs.close()
    return ours, process


def main() -> None:
    """The process that forks."""
    import ironpost.cli

    for module in pkgutil.iter_modules(ironpost.cli.__path__, "ironpost.cli."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    asked = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the commands
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        octets, files, _, _ = socket.recv_fds(asked, LARGEST, 4)
        if not octets:
            return
        if os.fork() == 0:
            asked.close()
            _waits(json.loads(octets), files)
        for file in files:
            os.close(file)


def _waits(request: dict[str, Any], files: list[int]) -> None:
    """Forks the command and tells its number and its exit code. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _runs(request, files)
    os.write(files[3], b"%d\n" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(files[3], b"%d\n" % code)
    os._exit(0)


def _runs(request: dict[str, Any], files: list[int]) -> None:
    """Is the command. Does not return."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in range(3):
            os.dup2(files[number], number)
        for file in files:
            os.close(file)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["ironpost", *request["arguments"]]
        from ironpost.cli import main as ironpost

        ironpost()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
