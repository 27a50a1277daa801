"""The log: two forms of lines, no passwords, and a stream that changes all the time does not fill it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tests.service.fakes import FakeClock
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.service.logs import LINES_A_MINUTE, StateLog, configure

NAMES = ("vision_infer", "uvicorn", "asyncio")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(one.level, list(one.handlers)) for one in loggers]
    yield
    for one, (level, handlers) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.handlers[:] = handlers


def lines(text: io.StringIO) -> list[str]:
    return text.getvalue().splitlines()


def test_lines_for_people() -> None:
    text = io.StringIO()
    configure("human", stream=text)
    StateLog(FakeClock()).tell(StreamEvent("door", StreamState.BACKING_OFF, 0, "rtsp://a:secret@b/ is gone"))
    logging.getLogger("vision_infer.http").debug("not shown")
    (line,) = lines(text)
    assert line[23:] == "Z  warning  door: backing off: rtsp://a:***@b/ is gone"


def test_lines_for_programs() -> None:
    text = io.StringIO()
    configure("json", logging.DEBUG, text)
    StateLog(FakeClock()).tell(StreamEvent("door", StreamState.LIVE, 0))
    try:
        raise RuntimeError("cannot open rtsp://a:secret@b/\nand more")
    except RuntimeError:
        logging.getLogger("vision_infer.http").debug("for rtsp://a:secret@b/", exc_info=True)
    logging.getLogger("uvicorn.error").info("not shown")
    state, failure = (json.loads(line) for line in lines(text))
    assert {key: state[key] for key in ("level", "logger", "message", "stream", "state", "reason")} == {
        "level": "info",
        "logger": "vision_infer.service",
        "message": "door: live",
        "stream": "door",
        "state": "live",
        "reason": "",
    }
    assert failure["message"] == "for rtsp://a:***@b/"
    assert "RuntimeError: cannot open rtsp://a:***@b/" in failure["traceback"]
    assert "secret" not in text.getvalue()


def test_configuring_twice_writes_each_line_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("human", stream=first)
    configure("json", stream=second)
    logging.getLogger("vision_infer.x").warning("once")
    assert len(lines(first)) == 0
    assert len(lines(second)) == 1


def test_a_stream_that_changes_all_the_time_is_folded() -> None:
    text = io.StringIO()
    configure("json", stream=text)
    clock = FakeClock()
    log = StateLog(clock)
    for number in range(100):
        log.tell(StreamEvent("door", StreamState.STALLED if number % 2 else StreamState.LIVE, clock.now))
        clock.move(0.1)
    log.tell(StreamEvent("gate", StreamState.LIVE, clock.now))
    assert len(lines(text)) == LINES_A_MINUTE + 1
    log.tell(StreamEvent("door", StreamState.FAILED, clock.now, "its attempts are used up"))
    assert json.loads(lines(text)[-1])["folded"] == 100 - LINES_A_MINUTE
    clock.move(60)
    log.tell(StreamEvent("door", StreamState.LIVE, clock.now))
    last = json.loads(lines(text)[-1])
    assert (last["message"], "folded" in last) == ("door: live", False)
