"""The service's log: lines on standard error, for people or as JSON, without passwords."""

from __future__ import annotations

import json
import logging
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, Any, Literal

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.result import utc
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.stream.redact import redact

LINES_A_MINUTE = 10
"""of one stream; what is more is counted, and told with the next line"""
LIVE_A_MINUTE = 3
"""lines besides that say that a stream is live: retries that came before shall not hide them"""
MAX_STREAMS = 10_000
_MINUTE_NS = 60 * 10**9
_BAD = (StreamState.STALLED, StreamState.BACKING_OFF, StreamState.REFUSED, StreamState.FAILED)

logger = logging.getLogger("vision_infer.service")


class HumanFormatter(logging.Formatter):
    """``2026-11-24T18:00:00.123Z  warning  door: backing off: connection lost``"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it the traceback where there is one."""
        text = redact(record.getMessage())
        if record.exc_info:
            text += "\n" + _traceback(self, record)
        return f"{utc(round(record.created * 1e9))}  {record.levelname.lower():7}  {text}"


class JsonFormatter(logging.Formatter):
    """``{"at": …, "level": …, "logger": …, "message": …}``, and what more is known: ``stream``, ``state``, ``reason``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        row: dict[str, Any] = {
            "at": utc(round(record.created * 1e9)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        more = getattr(record, "fields", None)
        if isinstance(more, dict):
            row |= {name: redact(value) if isinstance(value, str) else value for name, value in more.items()}
        if record.exc_info:
            row["traceback"] = _traceback(self, record)
        return json.dumps(row, ensure_ascii=False)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    assert record.exc_info is not None
    return "\n".join(redact(line) for line in formatter.formatException(record.exc_info).splitlines())


def configure(form: Literal["human", "json"], level: int = logging.INFO, stream: IO[str] | None = None) -> logging.Handler:
    """Let the log of this program, and what goes wrong in the web server, go to standard error.

    What FFmpeg itself says is shown from ``DEBUG`` on only: a camera that flaps or sends damage has it say much, and what of it
    matters is in the stream's own lines.

    Args:
        form: of the lines.
        level: what is less is left out.
        stream: None: standard error.

    Returns:
        the handler, for who wants to take it away again.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.addFilter(_is_news)
    if level > logging.DEBUG:
        handler.addFilter(_is_ours)
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter())
    for name, least in (("vision_infer", level), ("uvicorn", logging.ERROR), ("asyncio", logging.WARNING)):
        chosen = logging.getLogger(name)
        chosen.handlers[:] = [handler]
        chosen.setLevel(max(level, least))
    return handler


def _is_news(record: logging.LogRecord) -> bool:
    # uvicorn says so of each WebSocket that is refused, which is no mistake: anybody could fill the log.
    return not (record.name == "uvicorn.error" and record.getMessage().startswith("ASGI callable returned without completing"))


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name != "vision_infer.ffmpeg"


@dataclass(slots=True)
class _Count:
    begin_ns: int
    lines: int = 0
    live: int = 0
    """lines that say that it is live"""
    folded: int = 0
    connecting: bool = False
    """that it is being opened was told"""

    def takes(self, state: StreamState) -> bool:
        """Whether a line about this state is still to be written in this minute; it is counted then."""
        if state is StreamState.LIVE:
            self.live += 1
            return self.live <= LIVE_A_MINUTE
        self.lines += 1
        return self.lines <= LINES_A_MINUTE or state.final


class StateLog:
    """One line for each change of state of a stream, a limited number of them in a minute for each.

    That it is being opened is told once: later it goes without saying after each wait.

    Not thread-safe: whoever tells of events, one thread at a time.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def tell(self, event: StreamEvent) -> None:
        """Write the line, or count it."""
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
        more = f" ({folded} changes before it are not shown)" if folded else ""
        fields = {"stream": event.stream, "state": event.state.value, "reason": event.reason}
        level = logging.WARNING if event.state in _BAD else logging.INFO
        text = f"{event.stream}: {event.state.value.replace('_', ' ')}{reason}{more}"
        logger.log(level, "%s", text, extra={"fields": fields | ({"folded": folded} if folded else {})})
