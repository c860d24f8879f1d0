"""Limits of connections are fitted to the descriptors that the system allows."""

from __future__ import annotations

import pytest

from ironpost.compose import resources
from ironpost.compose.resources import permitted_connections, raise_file_limit, room_for_connections
from ironpost.config import parse

TWO = (
    '[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:25", "[::1]:25"]\n'
    '[[listener]]\nrole = "submission"\nlisten = ["127.0.0.1:587"]\n[listener.limits]\nconnections = 1000\n'
)


@pytest.mark.parametrize(
    ("open_files", "workers", "room", "permitted"),
    [
        (20_000, 1, 19_488, [10_000, 1000]),
        (11_512, 1, 11_000, [10_000, 1000]),
        (1024, 1, 512, [465, 46]),
        (1024, 4, 2048, [1861, 186]),
        (20, 1, 10, [9, 1]),
        (4, 1, 2, [1, 1]),
    ],
)
def test_each_listener_gets_its_share_of_the_descriptors(
    open_files: int, workers: int, room: int, permitted: list[int]
) -> None:
    configuration = parse(TWO)
    assert room_for_connections(configuration, open_files, workers) == room
    assert [permitted_connections(configuration, each, room) for each in configuration.listener] == permitted


def test_the_reserve_is_configured() -> None:
    configuration = parse("[limits]\ndescriptors = 100\nconnections = 5000\n")
    assert room_for_connections(configuration, 1000, 1) == 900
    assert room_for_connections(configuration, 100, 1) == 50, "at most half is reserved"


def test_f62_lowered_limits_are_a_warning_only_if_they_were_configured(caplog: pytest.LogCaptureFixture) -> None:
    for text, level in (
        ("", "INFO"),
        ('[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:25"]', "INFO"),
        ("[limits]\nconnections = 5000", "WARNING"),
        (TWO, "WARNING"),
    ):
        with caplog.at_level("INFO"):
            room_for_connections(parse(text), 1024, 1)
        assert [record.levelname for record in caplog.records] == [level]
        assert "1024 open files permit only 512" in caplog.text
        caplog.clear()
    room_for_connections(parse(TWO), 20_000, 1)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("soft", "hard", "workers", "raised"),
    [
        (256, 4096, 1, 4096),
        (4096, 4096, 1, 4096),
        (-1, -1, 1, None),
        (256, -1, 1, 11_512),
        (256, -1, 2, 6012),
        (20_000, -1, 1, 20_000),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, workers: int, raised: int | None
) -> None:
    now = [soft, hard]
    monkeypatch.setattr(resources.resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resources.resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resources.resource, "setrlimit", lambda _, limits: now.__setitem__(slice(None), limits))
    configuration = parse(TWO)
    found = raise_file_limit(configuration, workers)
    assert found == raised or (raised is None and found > 1 << 30)
    assert now[1] == hard
    if hard == -1:
        assert room_for_connections(configuration, found, workers) >= 11_000, "the limits need not be lowered"


def test_the_limit_of_open_files_is_raised_about_as_far_as_the_system_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [256, -1]

    def set_limit(_: int, limits: tuple[int, int]) -> None:
        if limits[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")
        now[:] = limits

    monkeypatch.setattr(resources.resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resources.resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resources.resource, "setrlimit", set_limit)
    assert 5120 <= raise_file_limit(parse(TWO), 1) <= 10_240


def test_a_limit_of_open_files_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resources.resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resources.resource, "setrlimit", refuse)
    assert raise_file_limit(parse(TWO), 1) == 256
