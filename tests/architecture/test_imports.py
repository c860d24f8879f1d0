"""Arrows point inward only (docs/architecture.md): five tiers, no cycles, a pure tier that is pure."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "ironpost"

TIERS: tuple[tuple[str, ...], ...] = (
    ("wire",),
    ("model",),
    ("protocol", "message", "mail_auth", "policy", "queue", "routing", "reports"),
    ("server", "client", "http", "delivery", "storage", "dns", "accounts", "telemetry"),
    ("mta", "processes", "operations", "config", "compose", "conform", "cli", "compat", "testing"),
)
"""Inner to outer. A module imports from its own tier and inward."""

PURE = 2
"""Index of the tier that imports no event loop, socket, clock or randomness."""


def tier(module: str) -> int | None:
    """The tier of `ironpost.<part>...`; None for the package itself and for what it does not hold."""
    parts = module.split(".")
    if len(parts) < 2:
        return None
    return next((index for index, names in enumerate(TIERS) if parts[1] in names), None)


@dataclass(frozen=True)
class Import:
    """One imported module."""

    module: str
    line: int
    typing_only: bool
    """It stands under `if TYPE_CHECKING`: no import at run time."""
    deferred: bool
    """An import inside a function, which does not run at load time."""


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))


def modules() -> list[Module]:
    """Every module of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        dotted = ".".join(("ironpost", *path.relative_to(PACKAGE).with_suffix("").parts))
        found.append(Module(dotted.removesuffix(".__init__"), path, ast.parse(path.read_text(), str(path))))
    return found


def imports(module: Module, known: frozenset[str]) -> Iterator[Import]:
    """What `module` imports, with `from package import submodule` resolved to the submodule."""
    yield from _walk(module, module.tree, known, typing_only=False, deferred=False)


def _walk(
    module: Module, node: ast.AST, known: frozenset[str], *, typing_only: bool, deferred: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, typing_only, deferred)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
                base = ".".join(filter(None, [*package.split(".")[: len(package.split(".")) - child.level + 1], base]))
            for alias in child.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in known else base, child.lineno, typing_only, deferred)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                wrapped = ast.Module([part], [])
                yield from _walk(module, wrapped, known, typing_only=True, deferred=deferred)
            for part in child.orelse:
                wrapped = ast.Module([part], [])
                yield from _walk(module, wrapped, known, typing_only=typing_only, deferred=deferred)
        else:
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(module, child, known, typing_only=typing_only, deferred=deferred or inner)


MODULES = modules()
KNOWN = frozenset(module.name for module in MODULES)

IMPURE = frozenset(
    {
        "asyncio",
        "datetime",
        "multiprocessing",
        "os",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "threading",
        "time",
        "uuid",
        "uvloop",
    }
)
"""What the tiers wire, model and pure may not import: event loops, sockets, clocks, chance and the system."""

ALLOWED = {("ironpost.wire", "os")}
"""The chooser reads IRONPOST_WIRE, once, at import."""


def test_every_module_belongs_to_a_tier() -> None:
    strays = [module.where for module in MODULES if module.name != "ironpost" and tier(module.name) is None]
    assert strays == []


def test_imports_go_inward() -> None:
    wrong = []
    for module in MODULES:
        own = tier(module.name)
        if own is None:
            continue
        for item in imports(module, KNOWN):
            theirs = tier(item.module)
            if theirs is not None and theirs > own:
                wrong.append(f"{module.where}:{item.line} imports {item.module}")
    assert wrong == []


def test_imports_at_load_time_have_no_cycle() -> None:
    graph = {
        module.name: {
            item.module
            for item in imports(module, KNOWN)
            if item.module in KNOWN and item.module != module.name and not item.typing_only and not item.deferred
        }
        for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_packages_have_no_import_cycles() -> None:
    """Imports for type checking count as well: packages that import each other are one package."""
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if tier(module.name) is not None:
            own = module.name.split(".")[1]
            theirs = {item.module.split(".")[1] for item in imports(module, KNOWN) if tier(item.module) is not None}
            graph.setdefault(own, set()).update(theirs - {own})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_inner_tiers_know_no_loop_socket_clock_or_chance() -> None:
    wrong = []
    for module in MODULES:
        own = tier(module.name)
        if own is None or own > PURE:
            continue
        for item in imports(module, KNOWN):
            top = item.module.partition(".")[0]
            if top in IMPURE and not item.typing_only and (module.name, top) not in ALLOWED:
                # A datetime is a value; asking it for the time is not.
                if top == "datetime" and not _asks_the_time(module.tree):
                    continue
                wrong.append(f"{module.where}:{item.line} imports {item.module}")
    assert wrong == []


def _asks_the_time(node: ast.AST) -> bool:
    return any(
        isinstance(child, ast.Attribute)
        and child.attr in {"now", "utcnow", "today"}
        and "datetime" in ast.unparse(child)
        for child in ast.walk(node)
    )


def test_the_wire_loads_nothing_else() -> None:
    script = "import sys, ironpost.wire; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    ours = [name for name in loaded if name.startswith("ironpost.")]
    assert [name for name in ours if name.split(".")[1] != "wire"] == []
    assert {"asyncio", "socket", "ssl", "pydantic", "typer"}.isdisjoint(loaded)


def test_the_base_install_needs_no_third_party() -> None:
    third_party = {
        "aiohttp",
        "aiosmtpd",
        "argon2",
        "cryptography",
        "dns",
        "pydantic",
        "rich",
        "scramp",
        "typer",
        "uvloop",
    }
    script = "import sys, ironpost, ironpost.server, ironpost.client, ironpost.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert third_party.isdisjoint(name.partition(".")[0] for name in done.stdout.split())


def test_what_is_not_run_over_the_pure_wire_does_not_import_the_wire() -> None:
    left_out = re.findall(r"--ignore=(\S+)", (ROOT / "Makefile").read_text())
    modules: set[str] = set()
    for path in left_out:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
    assert not {module for module in modules if module.startswith("tests.")}, "they would import for them"
    names = sorted(module for module in modules if module.startswith("ironpost"))
    assert names
    program = f"import sys, {', '.join(names)}; sys.exit('ironpost.wire' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0, names
