"""Both twins as one fixture, and the vectors of tests/vectors as parameters.

A test that takes `wire` runs once for each implementation. A test marked `vectors("data")` runs once for each vector of
data.toml and takes it as `vector`. `IRONPOST_REQUIRE_NATIVE` turns a missing Rust core from a skip into a failure.
"""

from __future__ import annotations

import importlib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
TWINS = {"native": "ironpost.wire._native", "pure": "ironpost.wire.pure"}

OCTETS = {"input", "body", "wire", "plain", "stuffed", "encoded", "decoded", "reply", "argument", "octets",
          "field", "simple", "relaxed"}  # fmt: skip
"""Keys whose strings are octets, one code point each."""
TEXTS = {"local_part", "domain", "written", "verb"}
"""Keys whose strings are the UTF-8 octets of a text."""


def octets(value: str) -> bytes:
    return value.encode("latin-1")


def text(value: str) -> str:
    return octets(value).decode()


def decoded(vector: dict[str, Any]) -> dict[str, Any]:
    """A vector with bytes and texts instead of strings of octets."""
    ready = dict(vector)
    for key, value in vector.items():
        if key in OCTETS:
            ready[key] = octets(value)
        elif key in TEXTS:
            ready[key] = text(value)
        elif key == "path":
            ready[key] = tuple(map(text, value))
        elif key in ("lines", "unfolded"):
            ready[key] = tuple(map(octets, value))
        elif key == "bare":
            ready[key] = list(map(text, value))
        elif key in ("parameters", "extensions"):
            ready[key] = {text(name): text(word) for name, word in value.items()}
        elif key == "fields":
            ready[key] = [(name, octets(field)) for name, field in value]
        elif key == "events":
            ready[key] = [decoded(event) for event in value]
        elif key == "fault" and isinstance(value, dict):
            ready[key] = (value["id"], value["offset"])
    return ready


def load(name: str) -> list[dict[str, Any]]:
    with (VECTORS / f"{name}.toml").open("rb") as file:
        return [decoded(vector) for vector in tomllib.load(file)["vector"]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vectors(name): run once for each vector of tests/vectors/<name>.toml")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if mark := metafunc.definition.get_closest_marker("vectors"):
        vectors = [vector for vector in load(mark.args[0]) if set(mark.kwargs.get("having", ())) <= set(vector)]
        names = ["-".join([*map(str.lower, vector.get("security", ())), vector["name"]]) for vector in vectors]
        metafunc.parametrize("vector", vectors, ids=names)


@pytest.fixture(scope="session", params=sorted(TWINS))
def wire(request: pytest.FixtureRequest) -> ModuleType:
    """One of the two implementations."""
    try:
        return importlib.import_module(TWINS[request.param])
    except ImportError:
        if request.param == "pure" or os.environ.get("IRONPOST_REQUIRE_NATIVE"):
            raise
        pytest.skip("the Rust core is not built")


@pytest.fixture(scope="session")
def twins() -> tuple[ModuleType, ModuleType]:
    """Both implementations, native first."""
    try:
        native = importlib.import_module(TWINS["native"])
    except ImportError:
        if os.environ.get("IRONPOST_REQUIRE_NATIVE"):
            raise
        pytest.skip("the Rust core is not built")
    return native, importlib.import_module(TWINS["pure"])


def every_cut(data: bytes) -> Iterator[list[bytes]]:
    """`data` whole, in two pieces at every point, and octet by octet."""
    yield [data]
    for point in range(1, len(data)):
        yield [data[:point], data[point:]]
    yield [data[at : at + 1] for at in range(len(data))]


@pytest.fixture(scope="session")
def cuts() -> Callable[[bytes], Iterator[list[bytes]]]:
    return every_cut
