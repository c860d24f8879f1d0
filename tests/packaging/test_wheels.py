"""The wheels of a release: the native one and the pure one install and work where there is nothing but Python."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from tests.compat.test_judges import DEVIATIONS, PRIVATE, REPLACEMENT, aiosmtpd_tests, cpython_tests, failed

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13")
PROGRAMS = [
    program
    for page in ("README.md", "docs/wire.md")
    for program in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    if not re.search(r"import (trio|aiosmtpd|aiosmtplib)", program)
]
"""The examples that need nothing else."""
SECONDS = 600.0


class Wheels(NamedTuple):
    """What `make wheel` made."""

    native: Path
    pure: Path


def run(*command: str | Path, **environment: str) -> str:
    """Run a command with nothing of this environment's Python; return what it printed."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("IRONPOST", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    """Both wheels, which the first worker of this run builds."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "wheels"
    with (shared / "wheels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            run("make", "wheel", f"DIST={folder}", f"PYTHON={sys.executable}")
    found = sorted(folder.iterdir(), key=lambda path: path.name.endswith("none-any.whl"))
    assert len(found) == 2
    return Wheels(*found)


def interpreter(version: str) -> str:
    """The command of this version of Python."""
    places: Sequence[str | None] = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    places = [*places, *(str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for command in filter(None, places):
        done = subprocess.run([command, "-c", "import sys; print(sys.version)"], capture_output=True, check=False)
        if done.returncode == 0 and done.stdout.decode().startswith(version):
            return command
    pytest.skip(f"there is no Python {version} here")


def test_the_two_projects_say_the_same() -> None:
    first, second = (
        tomllib.loads((ROOT / path).read_text())["project"] for path in ("pyproject.toml", "python/pyproject.toml")
    )
    elsewhere = {"readme", "license-files", "classifiers"}
    assert {key: value for key, value in first.items() if key not in elsewhere | {"optional-dependencies"}} == {
        key: value for key, value in second.items() if key != "optional-dependencies"
    }
    assert second["optional-dependencies"] == {
        name: value for name, value in first["optional-dependencies"].items() if name != "test"
    }


def test_their_names_say_where_they_run(wheels: Wheels) -> None:
    assert wheels.pure.name.endswith("-py3-none-any.whl")
    if sys.platform == "linux":
        assert re.search(r"-cp311-abi3-manylinux2014_\w+\.manylinux_2_17_\w+\.whl$", wheels.native.name)


@pytest.mark.parametrize("version", VERSIONS)
def test_they_work_in_an_empty_environment(version: str, wheels: Wheels, tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    run(interpreter(version), "-m", "venv", tmp_path / "env")
    install = (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--quiet")
    says = "import ironpost.wire; print(ironpost.wire.IMPLEMENTATION, ironpost.__file__)"
    for wheel, implementation in ((wheels.pure, "pure"), (wheels.native, "native")):
        run(*install, "--force-reinstall", wheel)
        name, place = run(python, "-c", says).split()
        assert (name, Path(place).is_relative_to(tmp_path)) == (implementation, True)
        for program in PROGRAMS:
            run(python, "-W", "error", "-c", program)
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "ironpost")
    run(*install, "--find-links", wheels.pure.parent, "ironpost")
    assert run(python, "-c", says).startswith("native ")  # pip prefers it


@pytest.mark.parametrize("version", VERSIONS)
def test_they_pass_the_judges(version: str, wheels: Wheels, tmp_path: Path) -> None:
    """The tests of smtplib that this Python has, and those of aiosmtpd for sessions."""
    environment = tmp_path / "env"
    run(interpreter(version), "-m", "venv", environment)
    install = (environment / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    needed = ["aiosmtpd==1.4.6", "pytest>=8.3", "pytest-mock>=3.14", "setuptools<81"]  # aiosmtpd needs pkg_resources
    done = subprocess.run([*install, *needed], capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"the tests of aiosmtpd or what they need cannot be fetched: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    for wheel in wheels:
        run(*install, "--no-index", "--force-reinstall", wheel)
        output = cpython_tests(tmp_path, "aliases", environment)
        missing = "No module named 'test" in output and not os.environ.get("CI")
        assert missing or re.search(r"^Ran 8\d tests.*\n\nOK", output, re.MULTILINE), output[-4000:]
        output = aiosmtpd_tests(tmp_path, REPLACEMENT, "smtp", "smtpsmuggling", "lmtp", environment=environment)
        assert failed(output) == [*PRIVATE, *DEVIATIONS], output[-4000:]
        assert int(re.search(r"(\d+) passed", output)[1]) > 280, output[-4000:]


def test_the_examples_are_found() -> None:
    assert len(PROGRAMS) >= 4
