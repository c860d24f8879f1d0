"""Shapes of files: sizes, names, openings, and where Rust may name pyo3 or be unsafe."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOO_LONG = 800
FORBIDDEN = {"utils", "util", "common", "core", "helpers", "helper", "misc"}


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    return sorted(path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file())


def test_no_file_is_longer_than_a_reader_bears() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked("*.py", "*.pyi", "*.rs")
        if (count := len(path.read_text().splitlines())) > TOO_LONG
    }
    assert long == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [str(path) for path in tracked("python/*", "src/*", "tests/*") if path.stem in FORBIDDEN] == []


def test_a_module_opens_with_its_contract() -> None:
    silent = [
        str(path)
        for path in tracked("python/*.py", "tests/*.py", "benches/*.py")
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    silent += [str(path) for path in tracked("src/*.rs") if not path.read_text().startswith("//!")]
    assert silent == []


def test_pyo3_is_named_only_in_the_bindings() -> None:
    elsewhere = [
        str(path)
        for path in tracked("src/*.rs")
        if "py" not in path.relative_to(ROOT / "src").parts
        and any(re.search(r"\bpyo3\b", line) for line in _code(path))
    ]
    assert elsewhere == []


def test_r21_unsafe_only_in_the_kernels_and_the_bindings() -> None:
    allowed = {ROOT / "src" / "scan.rs"}
    wrong = [
        f"{path}: {line.strip()}"
        for path in tracked("src/*.rs")
        if path not in allowed and "py" not in path.relative_to(ROOT / "src").parts
        for line in _code(path)
        if re.search(r"\bunsafe\b", line)
    ]
    assert wrong == []


def test_r40_nothing_starts_a_shell() -> None:
    wrong = []
    for path in tracked("python/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                shell = any(keyword.arg == "shell" for keyword in node.keywords)
                word = name.rpartition(".")[2]
                if shell or word in {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert wrong == []


def _code(path: Path) -> list[str]:
    """The lines of a Rust file without its line comments."""
    return [line.split("//", 1)[0] for line in path.read_text().splitlines()]


def test_nothing_names_a_machine() -> None:
    pattern = re.compile(r"(?:^|[^A-Za-z0-9._-])/(?:" + "|".join(["wo" + "rk", "ro" + "ot"]) + r")/")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*")
        if path.suffix not in {".lock"}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_tests_neither_sleep_nor_fix_a_port() -> None:
    wrong = []
    for path in tracked("tests/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                constant = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value
                if name == "time.sleep" or (name == "asyncio.sleep" and constant):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} sleeps")
                if name.endswith(("create_server", "start_server")) and any(
                    isinstance(arg, ast.Constant) and isinstance(arg.value, int) and arg.value for arg in node.args[1:]
                ):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} fixes a port")
    assert wrong == []
