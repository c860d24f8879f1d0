"""The source distribution of pyspf: the public test suite of RFC 7208, which only it contains, and the judge itself.

It is fetched once, with pip, into the folder of `tests/interop/peers.py`, and its digest is verified. This repository
does not contain it: the suite has a licence with a notice, and pyspf that of Python.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.loading import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

from ironpost.model.dns import MX, Records, RecordType, ResolverError

ROOT = Path(__file__).resolve().parents[2]
PREFIX = Path(os.environ.get("IRONPOST_PEERS") or ROOT / ".peers").resolve() / "pyspf"
NAME = "pyspf-2.0.14"
DIGEST = "57a7ef01bda090173aafb6af0106251686ed73f03db4e911fcd34c57fc347186"


@functools.cache
def folder() -> Path:
    """The unpacked distribution; skips the test if it cannot be fetched, or fails if CI is set."""
    PREFIX.mkdir(parents=True, exist_ok=True)
    with (PREFIX / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # pytest's workers start together
        archive = PREFIX / f"{NAME}.tar.gz"
        if not archive.exists():
            _fetch()
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == DIGEST
        if not (PREFIX / NAME).is_dir():
            with tarfile.open(archive) as found:
                found.extractall(PREFIX, filter="data")
    return PREFIX / NAME


def _fetch() -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
    done = subprocess.run(
        [*command, f"--dest={PREFIX}", NAME.replace("-", "==")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{NAME} cannot be fetched: {done.stderr[-500:]}")


def scenarios() -> list[dict[str, Any]]:
    """The documents of the test suite."""
    import yaml

    text = (folder() / "test" / "rfc7208-tests.yml").read_text()
    found = [each for each in yaml.safe_load_all(text) if each]
    for each in found:
        each["zonedata"] = {name.lower(): _published(records) for name, records in each["zonedata"].items()}
    return found


def _published(records: list[Any]) -> list[Any]:
    """What the suite means: a record of type SPF stands for one of type TXT too, unless there is a TXT record."""
    if any(isinstance(each, dict) and "TXT" in each for each in records):
        return [each for each in records if each != {"TXT": "NONE"}]
    return records + [{"TXT": each["SPF"]} for each in records if isinstance(each, dict) and "SPF" in each]


class ZoneResolver:
    """Answers from zone data as the suite has it: for each name in lower case, a list of `{type: value}` or TIMEOUT."""

    def __init__(self, zone: Mapping[str, list[Any]]) -> None:
        self._zone = zone

    async def resolve(self, name: str, kind: RecordType, /, aliases: int = 0) -> Records[Any]:
        name = name.lower().removesuffix(".")
        records = self._zone.get(name)
        if records is None:
            if name.startswith("error."):
                raise ResolverError(f"{name} {kind}: timeout")
            return Records(False)
        found = []
        for each in records:
            if each == "TIMEOUT":
                if not found:
                    raise ResolverError(f"{name} {kind}: timeout")
            elif "CNAME" in each:
                if aliases == 10:
                    raise ResolverError(f"{name} {kind}: too many aliases")
                return await self.resolve(each["CNAME"], kind, aliases + 1)
            elif kind.value in each:
                if each[kind.value] == "TIMEOUT":
                    raise ResolverError(f"{name} {kind}: timeout")
                found.append(_value(kind, each[kind.value]))
        return Records(True, tuple(found))


def _value(kind: RecordType, value: Any) -> object:
    if kind is RecordType.MX:
        return MX(value[0], value[1].removesuffix("."))
    if kind is RecordType.TXT:
        return "".join([value] if isinstance(value, str) else value).encode()
    return value.removesuffix(".")


def judge(zone: Mapping[str, list[Any]], ip: str, helo: str, sender: str) -> str:
    """The result of pyspf."""
    module = _judge()

    def lookup(name: str, kind: str, *_: object) -> Iterator[tuple[tuple[str, str], Any]]:
        name = name.lower().removesuffix(".")
        for each in zone.get(name, []):
            if each == "TIMEOUT" or each.get(kind) == "TIMEOUT":
                raise module.TempError("timeout")
            for type_, value in each.items():
                if type_ == kind or type_ == "CNAME":
                    yield (name, type_), _as_judged(module, type_, value)
                if type_ == "CNAME":
                    yield from lookup(value, kind)

    module.DNSLookup = lookup
    query = module.query(i=ip, s=sender, h=helo, strict=True)
    return query.check()[0]


@functools.cache
def _judge() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is of 2020
        return load(folder() / "spf.py")


def _as_judged(module: ModuleType, kind: str, value: Any) -> Any:
    if kind == "AAAA":
        return module.ipaddress.ip_address(value).packed
    if kind == "TXT":
        return tuple(each.encode() for each in ([value] if isinstance(value, str) else value))
    return tuple(value) if kind == "MX" else value
