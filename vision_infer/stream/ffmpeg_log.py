"""What FFmpeg says goes to the logger ``vision_infer.ffmpeg``, with the name of the source, and never to the terminal.

PyAV discards FFmpeg's log by default. Where it is let through, each line takes Python's lock on the thread that FFmpeg wrote it
from, which costs time when a damaged file gives thousands, and can deadlock where PyAV frees a decoder that has threads: it
holds the lock while it waits for them. So errors only are let through (a level set on our logger says otherwise), each source
passes on a limited number of lines, and ``VideoFileSource`` brings a decoder's threads to
rest before it lets go of it.
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

LINES_A_SECOND = 10
LINES_A_SOURCE = 200
_LINES_REMEMBERED = 8

_log = logging.getLogger("vision_infer.ffmpeg")
_log.addHandler(logging.NullHandler())  # without it, Python prints what nobody handles
_local = threading.local()
_lock = threading.Lock()
_open: WeakSet[SourceLog] = WeakSet()
"""weak: a source that nobody closed is no source"""
_installed = False


class SourceLog:
    """FFmpeg's lines about one source.

    Lines written from a thread of FFmpeg's own cannot be told apart: they belong to the source that is open, where there is
    only one, and else to none.

    Args:
        name: of the stream.
        clock: monotonic seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.errors = 0
        """lines of the level ERROR or worse"""
        self.suppressed = 0
        """lines that were not passed on"""
        self.recent: deque[str] = deque(maxlen=_LINES_REMEMBERED)
        self._clock = clock
        self._passed = 0
        self._second = -1
        self._in_second = 0
        _install()
        with _lock:
            _open.add(self)

    def here(self) -> None:
        """What FFmpeg says on this thread is about this source, until another says so."""
        _local.source = self

    def said(self, *parts: str) -> bool:
        """Whether one of the last lines holds one of these texts."""
        return any(part in line for line in tuple(self.recent) for part in parts)

    def take(self, level: int, text: str) -> None:
        """Pass a line on, or count it.

        Args:
            level: of Python's logging.
            text: without a line end; passwords in it are hidden.
        """
        if level >= logging.ERROR:
            self.errors += 1
        shown = redact(text)
        self.recent.append(shown)
        second = int(self._clock())
        if second != self._second:
            self._second, self._in_second = second, 0
        if self._passed >= LINES_A_SOURCE or self._in_second >= LINES_A_SECOND:
            self.suppressed += 1
            return
        self._passed += 1
        self._in_second += 1
        _log.log(level, "%s: %s", self.name, shown)

    def close(self) -> None:
        """Say how many lines were not passed on."""
        with _lock:
            _open.discard(self)
        if getattr(_local, "source", None) is self:
            _local.source = None
        if self.suppressed:
            _log.warning("%s: %d more lines of FFmpeg's are left out", self.name, self.suppressed)
            self.suppressed = 0


class _Handler(logging.Handler):
    """Takes what PyAV writes into Python's logging."""

    def createLock(self) -> None:  # noqa: N802 - the name is logging's
        self.lock = None  # nothing here needs one, and FFmpeg's threads shall not wait for each other

    def emit(self, record: logging.LogRecord) -> None:
        source: SourceLog | None = getattr(_local, "source", None)
        if source is None:
            alone = tuple(_open)
            source = alone[0] if len(alone) == 1 else None
        (source or _ignore()).take(record.levelno, record.getMessage().strip())


def _ignore() -> SourceLog:
    """Where lines go that cannot be attributed; limited like a source."""
    global _unattributed
    if _unattributed is None:
        _unattributed = SourceLog("source unknown")
        with _lock:
            _open.discard(_unattributed)
    return _unattributed


_unattributed: SourceLog | None = None


def _install() -> None:
    """Let FFmpeg's log through, once; where the program that uses us has done so its own way, that stays as it is."""
    global _installed
    with _lock:
        if _installed:
            return
        _installed = True
        libav = logging.getLogger("libav")
        libav.addHandler(_Handler())
        if av.logging.get_level() is not None:
            return
        libav.propagate = False
        wanted = _log.level or logging.ERROR
        libav.setLevel(wanted)
        av.logging.set_skip_repeated(False)  # it would count over all threads, and so over all sources
        av.logging.set_level(_ffmpeg_level(wanted))


def _ffmpeg_level(level: int) -> int:
    if level >= logging.ERROR:
        return av.logging.ERROR
    if level >= logging.WARNING:
        return av.logging.WARNING
    return av.logging.INFO if level >= logging.INFO else av.logging.VERBOSE
