"""Sends FFmpeg's log to the logger ``vision_infer.ffmpeg`` with the name of the source, and never to the terminal.

PyAV discards FFmpeg's log by default. If it is enabled, each line takes the GIL on the FFmpeg thread that wrote it. This costs
time when a damaged file causes thousands of lines (https://github.com/PyAV-Org/PyAV/issues/2276), and can deadlock when PyAV
frees a decoder with threads, because it holds the GIL while it waits for them (https://github.com/PyAV-Org/PyAV/issues/751). So
only errors are enabled, unless a level is set on our logger; each source passes on a limited number of lines; and the sources
stop a decoder's threads before they release it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

import av.logging

from vision_infer.stream.redact import redact

MAX_LINES_PER_SECOND = 10
MAX_LINES_PER_SOURCE = 200
_LINES_KEPT = 8

_log = logging.getLogger("vision_infer.ffmpeg")
_log.addHandler(logging.NullHandler())  # without a handler, Python prints warnings to stderr
_local = threading.local()
_lock = threading.Lock()  # guards _open and _installed: held while a source opens or closes its log, on any thread
_open: WeakSet[SourceLog] = WeakSet()
"""The open logs; weak references, since a source that was never closed does not count."""
_installed = False


class SourceLog:
    """FFmpeg's log of one source.

    Lines written by FFmpeg's own threads do not identify their source. They are assigned to the open source if there is only one,
    and otherwise to none.

    Args:
        name: The name of the stream.
        clock: Returns monotonic seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.errors = 0
        """The number of lines at level ERROR or above."""
        self.suppressed = 0
        """The number of lines that were not passed on."""
        self.recent: deque[str] = deque(maxlen=_LINES_KEPT)
        self._clock = clock
        self._passed = 0
        self._second = -1
        self._in_second = 0
        _install()
        with _lock:
            _open.add(self)

    def use_thread(self) -> None:
        """Assign FFmpeg's lines on this thread to this source, until another source is assigned."""
        _local.source = self

    def contains(self, *parts: str) -> bool:
        """Return whether one of the recent lines contains one of these texts."""
        return any(part in line for line in tuple(self.recent) for part in parts)

    def take(self, level: int, text: str) -> None:
        """Pass a line on at a level of Python's logging, or count it; passwords in it are hidden."""
        if level >= logging.ERROR:
            self.errors += 1
        shown = redact(text)
        self.recent.append(shown)
        second = int(self._clock())
        if second != self._second:
            self._second, self._in_second = second, 0
        if self._passed >= MAX_LINES_PER_SOURCE or self._in_second >= MAX_LINES_PER_SECOND:
            self.suppressed += 1
            return
        self._passed += 1
        self._in_second += 1
        _log.log(level, "%s: %s", self.name, shown)

    def close(self) -> None:
        """Close the log, and report the number of lines that were not passed on."""
        with _lock:
            _open.discard(self)
        if getattr(_local, "source", None) is self:
            _local.source = None
        if self.suppressed:
            _log.warning("%s: %d more FFmpeg log lines were suppressed", self.name, self.suppressed)
            self.suppressed = 0


class _LibavHandler(logging.Handler):
    """Receives the records that PyAV writes to Python's logging."""

    def createLock(self) -> None:  # noqa: N802 - the name in logging.Handler
        self.lock = None  # no lock is needed, and FFmpeg's threads must not wait for each other

    def emit(self, record: logging.LogRecord) -> None:
        source: SourceLog | None = getattr(_local, "source", None)
        if source is None:
            opened = tuple(_open)
            source = opened[0] if len(opened) == 1 else None
        (source or _unknown_source()).take(record.levelno, record.getMessage().strip())


def _unknown_source() -> SourceLog:
    """Return the log for lines of unknown origin; it has the same limits as a source's."""
    global _unattributed
    if _unattributed is None:
        _unattributed = SourceLog("source unknown")
        with _lock:
            _open.discard(_unattributed)
    return _unattributed


_unattributed: SourceLog | None = None


def _install() -> None:
    """Enable FFmpeg's log once. If the calling program has already enabled it, its settings are kept."""
    global _installed
    with _lock:
        if _installed:
            return
        _installed = True
        libav = logging.getLogger("libav")
        libav.addHandler(_LibavHandler())
        if av.logging.get_level() is not None:
            return
        libav.propagate = False
        wanted = _log.level or logging.ERROR
        libav.setLevel(wanted)
        av.logging.set_skip_repeated(False)  # PyAV would count repeated lines across all threads, and so across sources
        av.logging.set_level(_ffmpeg_level(wanted))


def _ffmpeg_level(level: int) -> int:
    if level >= logging.ERROR:
        return av.logging.ERROR
    if level >= logging.WARNING:
        return av.logging.WARNING
    return av.logging.INFO if level >= logging.INFO else av.logging.VERBOSE
