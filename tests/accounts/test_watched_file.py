"""A file that is read again after each change, and what is logged if it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.accounts.watched_file import WatchedFile

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_file_that_cannot_be_looked_at_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "file"
    path.write_text("old")
    watched = WatchedFile(path, lambda path: path.read_text(), "accounts")
    assert watched.current() == "old"

    def hide() -> None:
        folder.rename(tmp_path / "aside")
        folder.write_text("a file in place of the directory")

    def show(text: str) -> None:
        folder.unlink()
        (tmp_path / "aside").rename(folder)
        path.write_text(text)

    hide()
    assert [watched.current() for _ in range(3)] == ["old"] * 3
    assert len(caplog.records) == 1
    assert "keeping the accounts read before" in caplog.text
    show("newer")
    assert watched.current() == "newer"
    hide()
    assert watched.current() == "newer"
    assert len(caplog.records) == 2
