"""The service's log: human-readable or JSON lines on standard error, without passwords."""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import traceback
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.result import utc
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.sink.otlp.traced import TRACED_REQUEST
from vision_infer.stream.redact import redact

LINES_A_MINUTE = 10
"""The maximum number of log lines of one stream per minute; further ones are counted, and the next line reports the count."""
LIVE_A_MINUTE = 3
"""The maximum number of additional lines that report the state ``live``, so that earlier retries cannot suppress them."""
MAX_STREAMS = 10_000
MAX_MESSAGES = 1000
"""The maximum number of messages whose repetitions are counted."""
MAX_FOREIGN_CHARS = 300
_FOREIGN = ("asyncio", "aioice", "aiortc", "websockets")
_MINUTE_NS = 60 * 10**9
_HUMAN = re.compile(r"(\d{4}-\S+Z  \w+ +)(.*)")
"""A line of :class:`HumanFormatter`: time and level, text."""
_BAD = (StreamState.STALLED, StreamState.BACKING_OFF, StreamState.REFUSED, StreamState.FAILED)

logger = logging.getLogger("vision_infer.service")


class HumanFormatter(logging.Formatter):
    """``2026-11-24T18:00:00.123Z  warning  door: backing off: connection lost``"""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, followed by the traceback if there is one."""
        text = redact(record.getMessage())
        if record.exc_info:
            text += "\n" + _traceback(self, record)
        return f"{utc(round(record.created * 1e9))}  {record.levelname.lower():7}  {text}"


class JsonFormatter(logging.Formatter):
    """``{"at": …, "level": …, "logger": …, "message": …}`` and additional fields such as ``stream``, ``state``, ``reason``.

    During a request with an OpenTelemetry trace, the fields ``trace_id`` and ``span_id`` name it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        row: dict[str, Any] = {
            "at": utc(round(record.created * 1e9)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        more = getattr(record, "fields", None)
        if isinstance(more, dict):
            row |= {name: redact(value) if isinstance(value, str) else value for name, value in more.items()}
        request = TRACED_REQUEST.get()
        if request is not None:
            row |= {"trace_id": f"{request.trace_id:032x}", "span_id": f"{request.span_id:016x}"}
        if record.exc_info:
            row["traceback"] = _traceback(self, record)
        return json.dumps(row, ensure_ascii=False)


def with_worker(line: str, worker: str, form: Literal["human", "json"]) -> str:
    """Return a log line of a worker process with the name of the worker.

    Args:
        line: The line, without secrets; lines that are not from the log, such as messages of a C library, are included.
        worker: The name of the worker.
        form: The format of the log.
    """
    if form == "human":
        found = _HUMAN.fullmatch(line)
        return f"[{worker}] {line}" if found is None else f"{found[1]}[{worker}] {found[2]}"
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        row = {"level": "error", "logger": "vision_infer.service", "message": line}
    return json.dumps(row | {"worker": worker}, ensure_ascii=False)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    assert record.exc_info is not None
    return "\n".join(redact(line) for line in formatter.formatException(record.exc_info).splitlines())


class LimitedHandler(logging.StreamHandler[IO[str]]):
    """Writes lines, with a limit for repeated ones, so that clients and cameras cannot fill the disk.

    A line of this package is written at most ten times a minute if its text is the same. A message of another package is written
    once a minute as one line without a traceback, because foreign input can cause it; at level ``DEBUG`` it is unmodified.
    """

    def __init__(self, stream: IO[str], unmodified: bool, clock: Clock) -> None:
        super().__init__(stream)
        self._unmodified = unmodified
        self._clock = clock
        self._repeats: OrderedDict[object, _Repeats] = OrderedDict()
        """The recent messages. The lock of the handler guards it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a logging call with wrong arguments, which must not fail in its caller
            self.handleError(record)
            return
        if record.name.startswith("vision_infer"):
            folded = self._count((record.name, text), LINES_A_MINUTE)
        else:
            error = record.exc_info[0] if record.exc_info else None
            folded = self._count((record.name, str(record.msg).partition("\n")[0], error), 1)
        if folded is None:
            return
        if not (self._unmodified or record.name.startswith("vision_infer")):
            record = _short(record)
            text = record.getMessage()
        if folded:
            record = copy.copy(record)
            record.msg, record.args = f"{text} ({folded} earlier ones not shown)", ()
        super().emit(record)

    def _count(self, key: object, most: int) -> int | None:
        """Count a message; return the number of earlier ones that were not written, or None if this one must not be."""
        now = self._clock.monotonic_ns()
        repeats = self._repeats.setdefault(key, _Repeats(now))
        self._repeats.move_to_end(key)
        if len(self._repeats) > MAX_MESSAGES:
            self._repeats.popitem(last=False)
        if now - repeats.begin_ns >= _MINUTE_NS:
            repeats.begin_ns, repeats.lines = now, 0
        repeats.lines += 1
        if repeats.lines > most:
            repeats.folded += 1
            return None
        folded, repeats.folded = repeats.folded, 0
        return folded


@dataclass(slots=True)
class _Repeats:
    begin_ns: int
    lines: int = 0
    folded: int = 0


def _short(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record as one line: the first one, with the error and its position instead of a traceback."""
    short = copy.copy(record)
    text = record.getMessage().partition("\n")[0]
    error, trace = record.exc_info[1:] if record.exc_info else (None, None)
    if error is not None:
        where = traceback.extract_tb(trace)[-1:]
        text += f": {type(error).__name__}: {error}".partition("\n")[0]
        text += "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in where)
    short.msg, short.args, short.exc_info, short.exc_text, short.stack_info = text[:MAX_FOREIGN_CHARS], (), None, None, None
    return short


def configure(
    form: Literal["human", "json"], level: int = logging.INFO, stream: IO[str] | None = None, clock: Clock = SYSTEM_CLOCK
) -> logging.Handler:
    """Send the log and errors of the HTTP server to a stream, by default standard error; return the installed handler.

    FFmpeg's own messages are shown at level ``DEBUG`` only: an unstable camera causes many of them, and the stream's own log
    lines contain the relevant information.
    """
    handler = LimitedHandler(sys.stderr if stream is None else stream, level <= logging.DEBUG, clock)
    handler.addFilter(_is_news)
    if level > logging.DEBUG:
        handler.addFilter(lambda record: record.name != "vision_infer.ffmpeg")
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter())
    levels = {"vision_infer": level, "uvicorn": logging.ERROR} | dict.fromkeys(_FOREIGN, logging.WARNING)
    for name, min_level in levels.items():
        chosen = logging.getLogger(name)
        chosen.handlers[:] = [handler]
        chosen.setLevel(max(level, min_level))
    return handler


def _is_news(record: logging.LogRecord) -> bool:
    # uvicorn logs this for each rejected WebSocket. It is not an error, and clients could fill the log with it.
    return not (record.name == "uvicorn.error" and record.getMessage().startswith("ASGI callable returned without completing"))


@dataclass(slots=True)
class _Count:
    begin_ns: int
    lines: int = 0
    live: int = 0
    """The number of lines that reported the state ``live``."""
    folded: int = 0
    connecting: bool = False
    """Whether the state ``connecting`` was logged."""

    def takes(self, state: StreamState) -> bool:
        """Count a line about this state; return whether it may still be written in this minute."""
        if state is StreamState.LIVE:
            self.live += 1
            return self.live <= LIVE_A_MINUTE
        self.lines += 1
        return self.lines <= LINES_A_MINUTE or state.final


class StateLog:
    """Logs changes of streams' states, one line each, with a rate limit for each stream.

    The state ``connecting`` is logged only once, because it follows every wait.

    Not thread-safe: callers must serialize calls.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def log(self, event: StreamEvent) -> None:
        """Write a line about a change of state, or count it."""
        now = self._clock.monotonic_ns()
        count = self._counts.get(event.stream)
        if count is None:
            count = self._counts[event.stream] = _Count(now)
            if len(self._counts) > MAX_STREAMS:
                self._counts.popitem(last=False)
        elif now - count.begin_ns >= _MINUTE_NS:
            count.begin_ns, count.lines, count.live = now, 0, 0
        again = count.connecting and event.state is StreamState.CONNECTING
        count.connecting = not event.state.final and (count.connecting or event.state is StreamState.CONNECTING)
        if again:
            return
        if not count.takes(event.state):
            count.folded += 1
            return
        folded, count.folded = count.folded, 0
        reason = f": {event.reason}" if event.reason else ""
        more = f" ({folded} earlier changes not shown)" if folded else ""
        fields = {"stream": event.stream, "state": event.state.value, "reason": event.reason}
        level = logging.WARNING if event.state in _BAD else logging.INFO
        text = f"{event.stream}: {event.state.value.replace('_', ' ')}{reason}{more}"
        logger.log(level, "%s", text, extra={"fields": fields | ({"folded": folded} if folded else {})})
