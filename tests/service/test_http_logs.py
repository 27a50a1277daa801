"""The log: two formats, no passwords, and a rate limit for unstable streams."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tests.support.hand_clock import HandClock
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.service.operations.logs import LINES_A_MINUTE, LIVE_A_MINUTE, StateLog, configure
from vision_infer.stream.ffmpeg_log import SourceLog

NAMES = ("vision_infer", "uvicorn", "asyncio", "aioice", "aiortc", "websockets")


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


def test_human_readable_lines() -> None:
    text = io.StringIO()
    configure("human", stream=text)
    StateLog(HandClock()).log(StreamEvent("door", StreamState.BACKING_OFF, 0, "rtsp://a:secret@b/ is gone"))
    logging.getLogger("vision_infer.http").debug("not shown")
    (line,) = lines(text)
    assert line[23:] == "Z  warning  door: backing off: rtsp://a:***@b/ is gone"


def test_json_lines() -> None:
    text = io.StringIO()
    configure("json", logging.DEBUG, text)
    StateLog(HandClock()).log(StreamEvent("door", StreamState.LIVE, 0))
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


def test_log_lines_of_an_unstable_stream_are_limited() -> None:
    text = io.StringIO()
    configure("json", stream=text)
    clock = HandClock()
    log = StateLog(clock)
    for number in range(100):
        log.log(StreamEvent("door", StreamState.STALLED if number % 2 else StreamState.LIVE, clock.now))
        clock.move(0.1)
    log.log(StreamEvent("gate", StreamState.LIVE, clock.now))
    assert len(lines(text)) == LINES_A_MINUTE + LIVE_A_MINUTE + 1
    log.log(StreamEvent("door", StreamState.FAILED, clock.now, "its attempts are used up"))
    assert sum(json.loads(line).get("folded", 0) for line in lines(text)) == 100 - LINES_A_MINUTE - LIVE_A_MINUTE
    clock.move(60)
    log.log(StreamEvent("door", StreamState.LIVE, clock.now))
    last = json.loads(lines(text)[-1])
    assert (last["message"], "folded" in last) == ("door: live", False)


def test_retries_do_not_suppress_the_live_line() -> None:
    text = io.StringIO()
    configure("human", stream=text)
    clock = HandClock()
    log = StateLog(clock)
    for _ in range(2 * LINES_A_MINUTE):
        for state in (StreamState.CONNECTING, StreamState.BACKING_OFF):
            log.log(StreamEvent("door", state, clock.now))
            clock.move(0.5)
    log.log(StreamEvent("door", StreamState.CONNECTING, clock.now))
    log.log(StreamEvent("door", StreamState.LIVE, clock.now))
    messages = [line[line.index("door") :] for line in lines(text)]
    assert messages[0] == "door: connecting"
    assert messages[1:-1] == ["door: backing off"] * (LINES_A_MINUTE - 1)
    assert messages[-1] == f"door: live ({LINES_A_MINUTE + 1} earlier changes not shown)"


def test_connecting_is_logged_again_after_the_end_of_a_stream() -> None:
    text = io.StringIO()
    configure("human", stream=text)
    log = StateLog(HandClock())
    states = (StreamState.CONNECTING, StreamState.REFUSED, StreamState.CONNECTING, StreamState.STOPPED, StreamState.CONNECTING)
    for state in states:
        log.log(StreamEvent("door", state, 0))
    messages = [line.rpartition(": ")[2] for line in lines(text)]
    assert messages == ["connecting", "refused", "stopped", "connecting"]


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, 0), (logging.DEBUG, 2)])
def test_ffmpeg_messages_are_logged_at_debug_level_only_but_reach_the_source(level: int, shown: int) -> None:
    text = io.StringIO()
    configure("human", level, text)
    source = SourceLog("door")
    source.take(logging.ERROR, "Connection to tcp://a:secret@b failed: Connection refused")
    for _ in range(20):
        source.take(logging.ERROR, "error while decoding MB 3 4")
    source.close()
    assert source.contains("while decoding")
    assert sum("Connection to tcp://a:***@b" in line or "more FFmpeg log lines" in line for line in lines(text)) == shown
    if not shown:
        assert lines(text) == []


def test_a_repeated_message_of_another_package_is_one_line_a_minute() -> None:
    text, clock = io.StringIO(), HandClock()
    configure("human", stream=text, clock=clock)

    def fail(number: int) -> None:
        try:
            raise ValueError(f"bad packet {number}")
        except ValueError:
            logging.getLogger("asyncio").error("Exception in callback read()\nhandle: <Handle %d>", number, exc_info=True)

    for number in range(1000):
        fail(number)
    logging.getLogger("asyncio").error("Another one")
    first, other = lines(text)
    assert "error    Exception in callback read(): ValueError: bad packet 0 (test_http_logs.py:" in first
    assert other.endswith("Another one")
    clock.move(60)
    fail(0)
    assert lines(text)[2].endswith("(999 earlier ones not shown)")


def test_a_message_of_another_package_is_unmodified_for_debugging() -> None:
    text = io.StringIO()
    configure("human", logging.DEBUG, text)
    try:
        raise ValueError("bad packet")
    except ValueError:
        logging.getLogger("aioice").warning("first\nsecond", exc_info=True)
    assert "second" in lines(text)[0]
    assert {"Traceback (most recent call last):", "ValueError: bad packet"} <= set(lines(text))


def test_own_lines_of_the_same_text_are_limited() -> None:
    text, clock = io.StringIO(), HandClock()
    configure("json", stream=text, clock=clock)
    own = logging.getLogger("vision_infer.http")
    for number in range(100):
        own.warning("too many open files")
        own.info("request %d", number)
    written = [json.loads(line)["message"] for line in lines(text)]
    assert written.count("too many open files") == LINES_A_MINUTE
    assert len(written) == LINES_A_MINUTE + 100
    clock.move(60)
    own.warning("too many open files")
    assert json.loads(lines(text)[-1])["message"] == "too many open files (90 earlier ones not shown)"
