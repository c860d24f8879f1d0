"""Log lines: one record is one line in both forms, whatever a peer put into its values, and can be read back."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.telemetry import formatters as records
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = 'a" b=c\r\nfake=1\x00\x1b[31m\u2028é'


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger = logging.getLogger("ironpost")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


def written(form: str, **fields: object) -> str:
    stream = io.StringIO()
    records.write_to(stream, "info", form)  # type: ignore[arg-type]
    record(logging.getLogger("ironpost.inbound"), "accepted", **fields)  # type: ignore[arg-type]
    return stream.getvalue()


def test_text_shows_plain_values_unquoted_and_omits_none() -> None:
    line = written("text", id="Q1", helo="a.example", tls=None, recipients=["a@b.example", "<>"], size=7, empty="")
    assert re.sub(r"^\S+", "TIME", line) == (
        'TIME info inbound accepted id=Q1 helo=a.example recipients=a@b.example,<> size=7 empty=""\n'
    )


@pytest.mark.parametrize("form", ["json", "text"])
@given(st.text() | st.just(HOSTILE))
def test_r44_one_record_is_one_line_of_printable_ascii(form: str, hostile: str) -> None:
    line = written(form, helo=hostile, recipients=[hostile, "a@b.example"])
    assert line.endswith("\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    if form == "json":
        assert json.loads(line)["helo"] == hostile
        return
    shown, _, listed = line.rstrip("\n").partition(" helo=")[2].rpartition(" recipients=")
    assert (json.loads(shown) if shown.startswith('"') else shown) == hostile
    assert (json.loads(listed) if listed.startswith("[") else listed.split(",")) == [hostile, "a@b.example"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_is_a_field_of_its_record(form: str) -> None:
    stream = io.StringIO()
    records.write_to(stream, "info", form)  # type: ignore[arg-type]
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        logging.getLogger("ironpost.server").exception("it broke for %s", HOSTILE)
    (line,) = stream.getvalue().splitlines()
    assert r"ValueError: broken\nin two lines" in line


def test_level_and_form_change_while_it_runs() -> None:
    stream = io.StringIO()
    records.write_to(stream, "info", "json")
    logger = logging.getLogger("ironpost.compose")
    logger.info("one")
    records.configure("warning", "text")
    logger.info("two")
    logger.warning("three words here")
    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["message"] == "one"
    assert second.endswith('warning compose "three words here"')


def test_r44_what_nobody_can_catch_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", None)
    stream = io.StringIO()
    records.write_to(stream, "info", "json")
    records.log_uncaught()

    class Broken:
        def __del__(self) -> None:
            raise ValueError("one\ntwo")

    Broken()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "ValueError ignored: one\ntwo"


def test_f21_a_full_pipe_costs_lines_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(records, "QUEUED", 1000)
    logger = logging.getLogger("ironpost.inbound")
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb") as reader:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4095 + b"\n")
        os.set_blocking(writing, True)
        records.write_to(stream, "info", "json", worker=3)
        for number in range(200):
            record(logger, "accepted", number=number)
        lost = records.dropped()
        assert 150 < lost < 200
        read = b""
        while read.count(b'"accepted"') < 200 - lost:
            read += os.read(reading, 65536)
        for handler in logging.getLogger("ironpost").handlers:
            handler.flush()  # the queue has room again only when its last line is written
        record(logger, "accepted", number=200)
        records.flush()
        stream.close()
        read += reader.read()
    lines = [json.loads(line) for line in read.splitlines() if line.startswith(b"{")]
    assert [line["number"] for line in lines if line["event"] == "accepted"] == [*range(200 - lost), 200]
    assert [(line["lines"], line["worker"]) for line in lines if line["event"] == "log-lines-dropped"] == [(lost, 3)]


def test_what_is_said_before_a_process_ends_at_once_is_written() -> None:
    program = (
        "import logging, os, sys; from ironpost.telemetry import formatters; formatters.write_to(sys.stderr, 'info')\n"
        "for number in range(500): logging.getLogger('ironpost.x').info('line %d', number)\n"
        "logging.shutdown(); os._exit(74)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 74
    assert len(done.stderr.splitlines()) == 500
    assert '"line 499"' in done.stderr


def test_a_flush_waits_for_a_full_pipe_no_longer_than_it_says() -> None:
    reading, writing = os.pipe()
    out = records.Descriptor(writing)
    assert out.put(b"x" * 200_000)  # more than a pipe holds
    out.flush(0.01)
    os.close(reading)  # which ends the write
    out.close()
    out.flush(60.0)  # nobody is left to wait for
    os.close(writing)


def test_lines_that_arrive_during_the_pause_after_a_write_share_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pausing, go_on = threading.Event(), threading.Event()

    def pause(seconds: float) -> None:
        assert seconds == records.PAUSE
        pausing.set()
        go_on.wait(60)

    monkeypatch.setattr(records.time, "sleep", pause)
    reading, writing = os.pipe()
    out = records.Descriptor(writing)
    os.close(writing)
    assert out.put(b"first\n")
    assert pausing.wait(60)
    assert os.read(reading, 1000) == b"first\n"
    assert out.put(b"second\n")
    assert out.put(b"third\n")
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1000)
    go_on.set()
    out.close()
    assert os.read(reading, 1000) == b"second\nthird\n"
    os.close(reading)


def test_f21_what_cannot_be_written_is_counted() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        records.write_to(stream, "info", "json")
        (handler,) = logging.getLogger("ironpost").handlers
        record(logging.getLogger("ironpost.inbound"), "accepted")
        handler.out.close()  # type: ignore[attr-defined]
        assert records.dropped() == 1
        records.flush()


def test_f21_a_stream_that_is_closed_loses_what_is_said() -> None:
    records.write_to(None, "info", "json")
    record(logging.getLogger("ironpost.inbound"), "accepted")
    records.flush()


def test_f21_a_record_that_cannot_be_rendered_costs_itself_alone() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        records.write_to(stream, "info", "json")
        logging.getLogger("ironpost.inbound").info("%d", "no number")
        logging.getLogger("ironpost.inbound").info("after")
        records.flush()
    with os.fdopen(reading) as reader:
        assert [json.loads(line)["message"] for line in reader] == ["a record could not be rendered", "after"]


def test_f21_warnings_of_other_packages_are_records_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", None)
    monkeypatch.setattr(logging, "lastResort", None)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        records.write_to(stream, "info", "json")
        records.log_uncaught()
        other = logging.Logger("asyncio")
        other.warning("one\ntwo")
        records.flush()
    with os.fdopen(reading) as reader:
        assert [json.loads(line)["message"] for line in reader] == ["one\ntwo"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_f23_no_client_chooses_how_long_a_line_is(form: str) -> None:
    long = "\U0001f600" * 100_000
    assert len(written(form, helo=long, recipients=[long])) < 30_000
    stream = io.StringIO()
    records.write_to(stream, "info", form)  # type: ignore[arg-type]
    logging.getLogger("ironpost.inbound").info("login of %a", long)
    assert len(stream.getvalue()) < 15_000
    assert written(form, helo="x" * 1024).count("x") == 1024
