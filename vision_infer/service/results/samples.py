"""Samples of live streams for labeling: images in ``DIR/STREAM/TIME.jpg``, a limited number per day and a limited size in all."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import iglob
from pathlib import Path

from vision_infer.config.actions.sample import SampleSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.completion import NoImage
from vision_infer.sink.datasets.sample import Sampler, sampler_of
from vision_infer.sink.files.images import write_jpeg
from vision_infer.sink.space import free_bytes

_MAX_WAITING = 4
"""The maximum number of frames that wait for the thread, or are in work."""
_LOOK_NS = 1_000_000_000
"""The time between two frames of a stream that are compared."""
_REFRESH_S = 2.0
"""The maximum time until changed settings of a stream apply, seconds."""
_OWN = re.compile(r"\d{8}T\d{6}\.\d{3}Z\.jpg", re.ASCII)
_log = logging.getLogger("vision_infer.sinks")


@dataclass(slots=True)
class _Day:
    """The samples of a stream on one day."""

    date: str
    settings: SampleSettings
    sampler: Sampler | None
    """None: the stream has its maximum number of samples already."""


class Samples:
    """Chooses frames and writes them, on a separate thread. The thread of results passes frames on, and never waits.

    Args:
        folder: The folder.
        max_bytes: The maximum size of all samples; the oldest are deleted.
        keep_free_bytes: The disk space that must remain free.
        wanted: A function that returns the present settings by stream; called on the thread.
        clock: The monotonic and the wall clock.
    """

    kind = "samples"

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        keep_free_bytes: int,
        wanted: Callable[[], Mapping[str, SampleSettings | None]],
        clock: Clock,
    ) -> None:
        self.written = 0
        self.error: str | None = None
        self.drops: Counter[str] = Counter()
        """``busy``: frames that the thread had no time for; ``replaced`` by better ones; ``removed``: deleted to make space;
        ``failed``: not written."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._keep_free_bytes = keep_free_bytes
        self._clock = clock
        self._present = wanted
        self._wanted: Mapping[str, SampleSettings | None] = {}
        """The settings by stream; replaced as a whole by the thread."""
        self._seen: dict[str, int] = {}
        """For ``every:N`` the number of results, otherwise the time of the last frame; only the thread of results uses it."""
        self._days: dict[str, _Day] = {}
        # Unlike Path.glob, it accepts that a folder vanishes meanwhile.
        there = [folder / name for name in iglob("*/*.jpg", root_dir=folder)]
        found = sorted((path for path in there if _OWN.fullmatch(path.name)), key=lambda path: path.name)
        self._files = OrderedDict((path, _size_of(path)) for path in found)
        # Guards the queue and the end; the threads hold it to add or take frames.
        self._news = threading.Condition()
        self._queue: deque[tuple[Frame, Result, SampleSettings, tuple[float, float] | None]] = deque()
        self._difference = (0.0, 0.0)
        """That of the frame that the thread looks at."""
        self._ending = False
        self._thread: threading.Thread | None = None

    def write(self, frame: Frame, result: Result) -> None:
        """Pass a frame on, if it may be a sample."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="samples", daemon=True)
            self._thread.start()
        settings = self._wanted.get(result.stream)
        if settings is None or settings.pick == "disagree" or result.gated or not self._is_due(result.stream, settings):
            return
        self._put(frame, result, settings)

    def compared(self, frame: Frame, result: Result, difference: tuple[float, float]) -> None:
        """Pass on a frame that the shadow model has seen too, with the size of the difference."""
        settings = self._wanted.get(result.stream)
        if settings is not None and settings.pick == "disagree":
            self._put(frame, result, settings, difference)

    def _put(self, frame: Frame, result: Result, settings: SampleSettings, difference: tuple[float, float] | None = None) -> None:
        if isinstance(frame.image, NoImage):
            return
        with self._news:
            if len(self._queue) >= _MAX_WAITING or self._ending:
                self.drops["busy"] += 1
            else:
                self._queue.append((frame, result, settings, difference))
                self._news.notify()

    def _is_due(self, stream: str, settings: SampleSettings) -> bool:
        if settings.pick.startswith("every:"):
            seen = self._seen.get(stream, 0)
            self._seen[stream] = seen + 1
            return seen % int(settings.pick.removeprefix("every:")) == 0
        now = self._clock.monotonic_ns()
        due = now - self._seen.get(stream, -_LOOK_NS) >= _LOOK_NS
        if due:
            self._seen[stream] = now
        return due

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """Write the frames that wait, and end the thread."""
        with self._news:
            self._ending = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join(2.0)

    def _run(self) -> None:
        while True:
            try:
                self._wanted = self._present()
            except Exception:  # noqa: BLE001 - the boundary of a thread: the last settings apply until the next attempt
                _log.exception("samples: the settings of the streams cannot be read")
            self._days = {stream: day for stream, day in self._days.items() if stream in self._wanted}
            with self._news:
                self._news.wait_for(lambda: self._queue or self._ending, _REFRESH_S)
                if self._ending and not self._queue:
                    return
            while self._queue:
                frame, result, settings, difference = self._queue[0]
                self._difference = difference or (0.0, 0.0)
                self._try(frame, result, settings)
                self._queue.popleft()
                del frame, result  # do not hold the image's memory while waiting for the next frame

    def _try(self, frame: Frame, result: Result, settings: SampleSettings) -> None:
        try:
            self._offer(frame, result, settings)
            self.error = None
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: every error must be reported
            self.drops["failed"] += 1
            text = f"{self._folder}: {error}"
            if text != self.error:
                _log.warning("samples: %s", text)
            self.error = text

    def _offer(self, frame: Frame, result: Result, settings: SampleSettings) -> None:
        wall_ns = self._clock.wall_ns() if result.live is None else result.live.captured_wall_ns
        seconds, milliseconds = divmod(wall_ns // 1_000_000, 1000)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z.jpg"
        path = self._folder / result.stream / stamp
        day = self._days.get(result.stream)
        if day is None or day.date != stamp[:8] or day.settings != settings:
            day = self._days[result.stream] = self._begin_day(path, settings)
        if day.sampler is None or path in self._files:
            return
        replaced = day.sampler.offer(stamp, result, frame.image)
        if replaced is None:
            return
        if free_bytes(self._folder) < self._keep_free_bytes:
            raise OutputError("the disk has too little free space", "Free disk space, or lower samples.keep_free_mb.")
        write_jpeg(path, frame.image.to_rgb(), False)
        self.written += 1
        self._files[path] = _size_of(path)
        for name in replaced:
            self._remove(path.with_name(name), "replaced")
        while sum(self._files.values()) > self._max_bytes:
            self._remove(next(iter(self._files)), "removed")

    def _begin_day(self, path: Path, settings: SampleSettings) -> _Day:
        there = sum(one.parent == path.parent and one.name[:8] == path.name[:8] for one in self._files)
        left = settings.per_day - there
        pick = "every:1" if settings.pick.startswith("every:") else settings.pick
        return _Day(path.name[:8], settings, sampler_of(pick, left, lambda *_: self._difference) if left > 0 else None)

    def _remove(self, path: Path, why: str) -> None:
        if self._files.pop(path, None) is not None:
            self.drops[why] += 1
            path.unlink(missing_ok=True)  # the user may have taken it


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the user has just taken it
        return 0
