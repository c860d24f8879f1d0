"""The command line: `ironpost`.

Promises: without the MTA's dependencies it says how to install them; errors that a person can mend are one line on
standard error and a documented exit code, never a traceback.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ironpost.cli import exits

NEEDED = ("typer", "rich", "pydantic", "dns")
"""What the `mta` extra brings."""


def release() -> str:
    """The version that is installed, or that this is a tree which nobody installed."""
    try:
        return version("ironpost")
    except PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """The console script. Ends the process with one of `exits`."""
    try:
        from ironpost import wire
    except ImportError as error:  # IRONPOST_WIRE asks for what there is not
        sys.stderr.write(f"ironpost: {error}\n")
        sys.exit(exits.CONFIGURATION)
    if sys.argv[1:] == ["--version"]:
        print(f"ironpost {release()} ({wire.IMPLEMENTATION} wire, Python {sys.version.split()[0]})")
        sys.exit(exits.OK)
    if any(find_spec(name) is None for name in NEEDED):
        sys.stderr.write("ironpost: the mail transfer agent is not installed; run: pip install 'ironpost[mta]'\n")
        sys.exit(exits.UNAVAILABLE)
    from ironpost.cli.app import run

    sys.exit(run())
