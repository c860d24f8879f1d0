"""Programs are unpacked while tests in other processes look for them and use them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.interop.conftest import peers

pytestmark = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="programs are unpacked from Debian's packages"
)

PACKAGES = {"server": "usr/sbin/peer-server", "tool": "usr/bin/peer-tool", "library": "usr/lib/peer-library"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty prefix for two programs with a common library, whose packages were downloaded; where they are
    unpacked."""
    monkeypatch.setattr(peers, "PREFIX", tmp_path)
    for name, path in PACKAGES.items():
        built = tmp_path / "built" / name
        for file, text in (path, name), ("DEBIAN/control", control(name)):
            (built / file).parent.mkdir(parents=True)
            (built / file).write_text(text)
        (tmp_path / "packages").mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "-b", built, tmp_path / "packages" / f"{name}_1_all.deb"], check=True)
    programs = {f"peer-{name}": peers.Program(PACKAGES[name], (name, "library")) for name in ("server", "tool")}
    monkeypatch.setattr(peers, "PROGRAMS", programs)
    return tmp_path / "root"


def control(name: str) -> str:
    return f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.example>\nDescription: x\n"


def test_a_program_is_not_found_before_its_libraries_are_unpacked(root: Path) -> None:
    path = root / PACKAGES["server"]
    path.parent.mkdir(parents=True)
    path.touch()  # as another process has begun
    assert peers.find("peer-server") == str(path)
    assert path.read_text() == "server"
    assert (root / PACKAGES["library"]).exists()


def test_what_another_program_uses_is_not_unpacked_again(root: Path) -> None:
    peers.find("peer-server")
    library = root / PACKAGES["library"]
    library.write_text("in use")
    assert Path(peers.find("peer-tool")).read_text() == "tool"
    assert library.read_text() == "in use"
