"""The progress of a run: bars on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.pipeline.runs.offline import Progress as Report
from vision_infer.pipeline.status import StreamState, StreamStatus

BARS_SHOWN = 12
"""The maximum number of bars for individual sources, next to the bar for all sources."""
LINE_INTERVAL_NS = 5_000_000_000
if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vision_infer.cluster.archive_work import ArchiveProgress

_OVER = (StreamState.ENDED, StreamState.STOPPED, StreamState.FAILED)


@contextmanager
def open_progress(quiet: bool) -> Iterator[Report | None]:
    """Yield the callback that receives the state of the streams; None if quiet."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield PlainLines(SYSTEM_CLOCK)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bars:
        yield Bars(bars, SYSTEM_CLOCK)


class Bars:
    """Shows a bar for each running source, and one for all sources."""

    def __init__(self, bars: Progress, clock: Clock) -> None:
        self._bars = bars
        self._rate = RunRate(clock)
        self._tasks: dict[str, TaskID] = {}
        self._all = bars.add_task("all", total=None, text="")
        self._changes = CameraChanges()

    def __call__(self, statuses: Sequence[StreamStatus]) -> None:
        """Draw the current state of the streams."""
        for line in self._changes(statuses):
            self._bars.console.print(line, soft_wrap=True, markup=False)
        for status in statuses:
            task = self._tasks.get(status.name)
            if status.state in _OVER:
                if task is not None:
                    self._bars.remove_task(self._tasks.pop(status.name))
            elif (status.live or status.state is StreamState.RUNNING) and (task is not None or len(self._tasks) < BARS_SHOWN):
                if task is None:
                    task = self._tasks[status.name] = self._bars.add_task(status.name, total=status.frames_expected, text="")
                self._bars.update(task, completed=status.decoded, total=status.frames_expected, text=_bar_text(status))
        total, done = totals(statuses)
        self._bars.update(self._all, completed=done, total=total, text=self._rate.text(statuses))


class PlainLines:
    """Prints a line every five seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rate = RunRate(clock)
        self._next_ns = clock.monotonic_ns() + LINE_INTERVAL_NS
        self._changes = CameraChanges()

    def __call__(self, statuses: Sequence[StreamStatus]) -> None:
        """Print the progress if a line is due."""
        now = self._clock.monotonic_ns()
        text = self._rate.text(statuses)
        for line in self._changes(statuses):
            sys.stderr.write(f"{line}\n")
        if now >= self._next_ns:
            self._next_ns = now + LINE_INTERVAL_NS
            over = sum(status.state in _OVER for status in statuses)
            live = any(status.live for status in statuses)
            sys.stderr.write(f"{text}\n" if live else f"{over}/{len(statuses)} sources done, {text}\n")
            sys.stderr.flush()


class ArchiveLines:
    """Prints a line about a run on a cluster every five seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_ns = clock.monotonic_ns() + LINE_INTERVAL_NS

    def __call__(self, progress: ArchiveProgress) -> None:
        """Print the progress if a line is due."""
        now = self._clock.monotonic_ns()
        if now >= self._next_ns:
            self._next_ns = now + LINE_INTERVAL_NS
            sys.stderr.write(f"{progress.line()}\n")
            sys.stderr.flush()


class CameraChanges:
    """Finds the cameras whose state has changed: lost, connected again, refused."""

    def __init__(self) -> None:
        self._seen: dict[str, StreamState] = {}

    def __call__(self, statuses: Sequence[StreamStatus]) -> list[str]:
        """Return a line for each change since the last call."""
        lines = []
        for status in statuses:
            if status.live and self._seen.get(status.name) is not status.state:
                self._seen[status.name] = status.state
                lines.append(f"{status.name}: {_words(status.state)}{f': {status.reason}' if status.reason else ''}")
        return lines


class RunRate:
    """Calculates the frame rate, the speed relative to real time and the remaining time of a run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_ns = clock.monotonic_ns()

    def text(self, statuses: Sequence[StreamStatus]) -> str:
        """Return ``120/1000 frames, 33.5 fps, 1.3x real time, 00:27 left``; of cameras the results and dropped frames."""
        elapsed = (self._clock.monotonic_ns() - self._started_ns) / 1e9
        total, done = totals(statuses)
        rate = done / elapsed if elapsed > 0 else 0.0
        if any(status.live for status in statuses):
            dropped = sum(sum(status.dropped.values()) for status in statuses)
            results = sum(status.results for status in statuses)
            return f"{results} results, {sum(status.result_fps for status in statuses):.1f} per second, {dropped} frames dropped"
        parts = [f"{done}/{total or '?'} frames", f"{rate:.1f} fps"]
        media = sum(status.decoded / status.frame_rate for status in statuses if status.frame_rate)
        if media and elapsed > 0:
            parts.append(f"{media / elapsed:.1f}x real time")
        if total and rate > 0:
            parts.append(f"{_clock_text(max(0.0, (total - done) / rate))} left")
        return ", ".join(parts)


def _words(state: StreamState) -> str:
    return str(state.value).replace("_", " ")


def _bar_text(status: StreamStatus) -> str:
    if not status.live:
        return f"{status.decoded}/{status.frames_expected or '?'} frames"
    if status.state is not StreamState.LIVE:
        return _words(status.state)
    return f"{status.results} results, {status.result_fps:.1f} per second"


def totals(statuses: Sequence[StreamStatus]) -> tuple[int | None, int]:
    """Return the expected frames of all sources, None while one is unknown, and the decoded frames."""
    done = sum(status.decoded for status in statuses)
    expected = 0
    for status in statuses:
        if status.state in _OVER:
            expected += status.decoded
        elif status.frames_expected is None:
            return None, done
        else:
            expected += max(status.frames_expected, status.decoded)
    return expected, done


def _clock_text(seconds: float) -> str:
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(round(seconds)))
