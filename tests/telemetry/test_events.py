"""Records of events for the handlers, formatters and factories of other programs."""

from __future__ import annotations

import json
import logging

import pytest

from ironpost.telemetry.events import record

LOGGER = logging.getLogger("ironpost.test")


class Kept(logging.Handler):
    """Keeps what it gets, formatted."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(form))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def kept(request):
    handler = Kept(request.param)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield handler
    LOGGER.removeHandler(handler)


EVERYTHING = " ".join(f"%({name})s" for name in vars(logging.makeLogRecord({})) if name not in {"args", "msg"})


@pytest.mark.parametrize("kept", [f"{EVERYTHING} %(asctime)s %(message)s"], indirect=True)
def test_a_record_has_every_attribute_that_a_format_may_name(kept):
    record(LOGGER, "delivered", id="m1", attempts=2)
    (line,) = kept.lines
    assert json.loads(line[line.index("{") :]) == {"event": "delivered", "id": "m1", "attempts": 2}


@pytest.mark.parametrize("kept", ["%(levelname)s %(trace)s %(event)s"], indirect=True)
def test_the_factory_of_a_program_makes_the_records(kept):
    class Traced(logging.LogRecord):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.trace = "t1"

    logging.setLogRecordFactory(Traced)
    try:
        record(LOGGER, "deferred", logging.WARNING, id="m1")
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    assert kept.lines == ["WARNING t1 deferred"]
