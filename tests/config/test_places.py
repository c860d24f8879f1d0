"""What a configuration says about files and addresses that can be seen to be wrong without the system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ironpost.config import ConfigError, load, parse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("where", ["127.0.0.1:2525", "unix:/tmp/socket.test", "fd:smtp"])
def test_f29_an_address_is_listened_on_once(where: str) -> None:
    listener = f'[[listener]]\nrole = "mx"\nlisten = ["{where}"]\n'
    parse(listener, "test")
    with pytest.raises(ConfigError, match="is listed twice"):
        parse(listener * 2, "test")
    with pytest.raises(ConfigError, match="is listed twice"):
        parse(f'[[listener]]\nrole = "mx"\nlisten = ["{where}", "{where}"]\n', "test")


def test_f29_free_ports_are_not_the_same_address() -> None:
    parse('[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:0", "127.0.0.1:0"]\n', "test")


def test_f29_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "ironpost.toml"
    file.write_bytes(b'\xef\xbb\xbfhostname = "mx.example"\n')
    assert load(file).hostname == "mx.example"
