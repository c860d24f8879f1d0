"""The tests of other projects, unmodified, with our wire under their libraries, and on our replacements."""

from __future__ import annotations

import email.errors
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = ["TestSMTPWithController::test_long_line_leak"]
"""It replaces the function that joins aiosmtpd's lines, which neither the backend nor the replacement calls."""
NEWER = ["test_send_message_compat32_does_not_smuggle_envelope_commands"]
"""It names an exception that Python has had only since 3.11.10 and 3.12.5."""
DEVIATIONS = ["TestSleepingHandler::test_close_after_helo"]
"""It expects that a command gets no reply if its client closes its side after it: see docs/deviations.md."""
MODULES = ("handlers", "lmtp", "main", "misc", "proxyprotocol", "server", "smtp", "smtps", "smtpsmuggling", "starttls")
"""The test modules of aiosmtpd."""
REPLACEMENT = """
import importlib.util, pathlib
stock = pathlib.Path(importlib.util.find_spec("aiosmtpd").origin).parent
from ironpost.compat import aliases
aliases.install("aiosmtpd")
import aiosmtpd
aiosmtpd.__path__.append(str(stock))  # for aiosmtpd.tests and aiosmtpd.testing
"""
SECONDS = 300.0


def run(
    folder: Path,
    *arguments: str,
    packages: Path | None = None,
    plugins: bool = True,
    environment: Path | None = None,
) -> str:
    """Run Python in a folder, with the package where the tests found it, and other packages; return what it printed.

    Without `plugins` pytest imports no installed plugin but those that the arguments name. With an `environment` its
    Python is used, and the package that is installed there, with the wire that it prefers.
    """
    paths = [folder, *([] if environment else [ROOT / "python"]), *([packages] if packages else [])]
    python = environment / "bin" / "python" if environment else sys.executable
    inherited = {name: value for name, value in os.environ.items() if environment is None or name != "IRONPOST_WIRE"}
    alone = {} if plugins else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [python, *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": os.pathsep.join(map(str, paths)), **alone},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.stdout


def failed(output: str) -> Sequence[str]:
    """The tests that pytest's summary names."""
    return re.findall(r"^(?:FAILED|ERROR) \S*?::(\S+)", output, re.MULTILINE)


def aiosmtpd_tests(folder: Path, plugin: str, *names: str, environment: Path | None = None) -> str:
    """Run test modules of aiosmtpd with a plugin that is imported before them; return what pytest printed."""
    (folder / "plugin.py").write_text(plugin)
    (folder / "pytest.ini").write_text("[pytest]\n")
    if environment:
        tests = next(environment.glob("lib/python*/site-packages/aiosmtpd/tests"))
    else:
        tests = Path(str(importlib.util.find_spec("aiosmtpd.tests").submodule_search_locations[0]))
    options = ["-q", "-p", "pytest_mock", "-p", "plugin", "-p", "no:cacheprovider", "-c", "pytest.ini"]
    files = [str(tests / f"test_{name}.py") for name in names]
    with (Path(tempfile.gettempdir()) / "ironpost-aiosmtpd-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # their port is fixed
        return run(folder, "-m", "pytest", *options, *files, plugins=False, environment=environment)


def cpython_tests(folder: Path, ours: str, environment: Path | None = None) -> str:
    """Run the tests that this Python has for smtplib; return what unittest printed."""
    program = (
        f"import unittest; from ironpost.compat import {ours}; {ours}.install('smtplib');"
        "unittest.main('test.test_smtplib', argv=['test'])"
    )
    return run(folder, "-c", program, environment=environment)


def test_aiosmtpd_passes_its_tests_of_sessions(tmp_path: Path) -> None:
    plugin = "from ironpost.compat import backends\nbackends.install('aiosmtpd', 'smtplib')\n"
    output = aiosmtpd_tests(tmp_path, plugin, "smtp", "smtpsmuggling", "lmtp")
    assert failed(output) == PRIVATE, output[-4000:]
    assert int(re.search(r"(\d+) passed", output)[1]) > 280, output[-4000:]


def test_our_aiosmtpd_passes_the_tests_of_aiosmtpd(tmp_path: Path) -> None:
    output = aiosmtpd_tests(tmp_path, REPLACEMENT, *MODULES)
    assert failed(output) == [*PRIVATE, *DEVIATIONS], output[-4000:]
    assert int(re.search(r"(\d+) passed", output)[1]) > 545, output[-4000:]


@pytest.mark.parametrize("ours", ["backends", "aliases"])
def test_smtplib_passes_the_tests_of_cpython(ours: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("test.test_smtplib") is None:
        if os.environ.get("CI"):
            pytest.fail("this Python is installed without its tests: Debian has them in libpython3.11-testsuite")
        pytest.skip("this Python is installed without its tests")
    output = cpython_tests(tmp_path, ours)
    assert re.search(r"^Ran \d{2,} tests.*\n\nOK", output, re.MULTILINE), output[-4000:]


def test_aiosmtplib_passes_its_tests(tmp_path: Path) -> None:
    needed = ["pytest-asyncio>=1.4", "trustme>=1.2"]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = [*pip, "download", "--no-binary", "aiosmtplib", "--no-deps", "--dest", str(tmp_path), "aiosmtplib==5.1.3"]
    packages = [*pip, "install", "--target", str(tmp_path / "packages"), *needed]
    for command in (source, packages):
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode and os.environ.get("CI"):
            pytest.fail(done.stderr)
        if done.returncode:
            pytest.skip(f"the tests of aiosmtplib or what they need cannot be fetched: {done.stderr[-200:]}")
    with tarfile.open(next(tmp_path.glob("aiosmtplib-*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = next(tmp_path.glob("aiosmtplib-*/"))
    shutil.rmtree(folder / "src")
    (folder / "replacement.py").write_text("from ironpost.compat import aliases\naliases.install('aiosmtplib')\n")
    options = ["-q", "-p", "replacement", "-p", "no:xdist", "-p", "no:cacheprovider"]
    output = run(folder, "-m", "pytest", *options, "tests", packages=tmp_path / "packages")
    assert failed(output) == ([] if hasattr(email.errors, "HeaderWriteError") else NEWER), output[-4000:]
    assert int(re.search(r"(\d+) passed", output)[1]) > 400, output[-4000:]
