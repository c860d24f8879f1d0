"""The command line: `ironpost`.

Promises: without the MTA's dependencies it says how to install them; errors that the user can correct are one line on
standard error and a documented exit code, never a traceback.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ironpost.cli import exits
from ironpost.processes import signals

NEEDED = ("typer", "rich", "pydantic", "dns")
"""Packages of the `mta` extra."""


def release() -> str:
    """Return the installed version, or a note that the package is not installed."""
    try:
        return version("ironpost")
    except PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """Run the console script. Ends the process with an exit code of `exits`."""
    if (name := Path(sys.argv[0]).name) in ("sendmail", "mailq"):  # a symbolic link to this script
        sys.argv[1:1] = ["sendmail", *(["-bp"] if name == "mailq" else [])]
    if sys.argv[1:2] == ["sendmail"]:
        sys.argv.insert(2, "--")  # its options, `--` among them, are not for Typer
    if sys.argv[1:2] == ["serve"]:
        signals.early()
    try:
        from ironpost import wire
    except ImportError as error:  # IRONPOST_WIRE=native without the native module
        sys.stderr.write(f"ironpost: {error}\n")
        sys.exit(exits.CONFIGURATION)
    if sys.argv[1:] == ["--version"]:
        print(f"ironpost {release()} ({wire.IMPLEMENTATION} wire, Python {sys.version.split()[0]})")
        sys.exit(exits.OK)
    if any(find_spec(name) is None for name in NEEDED):
        sys.stderr.write(
            "ironpost: the mail server needs the extra [mta]: "
            "pip install 'ironpost[mta]', or with a wheel file: pip install 'FILE.whl[mta]'\n"
        )
        sys.exit(exits.UNAVAILABLE)
    from ironpost.cli.app import run

    sys.exit(run())
