"""The progress of a build: a bar on a terminal, a line every five seconds elsewhere, on standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_infer.engine.tensorrt.build_progress import BuildProgress, Report

LINE_INTERVAL_S = 5.0


@contextmanager
def open_build_progress(what: str) -> Iterator[Report]:
    """Yield the progress callback of a builder, callable from any thread. ``what`` names the engine."""
    if not sys.stderr.isatty():
        yield BuildLines(what, sys.stderr.write)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5) as bars:
        task = bars.add_task(what, total=1.0, text="")
        yield lambda now: bars.update(task, completed=now.fraction, text=progress_text(now))


class BuildLines:
    """Prints a line every five seconds.

    Args:
        what: The engine that is being built.
        write: Receives the lines.
    """

    def __init__(self, what: str, write: Callable[[str], object]) -> None:
        self._what = what
        self._write = write
        # Guards _next_s: builders report from several threads.
        self._lock = threading.Lock()
        self._next_s = LINE_INTERVAL_S

    def __call__(self, now: BuildProgress) -> None:
        """Print the progress if a line is due."""
        with self._lock:
            if now.elapsed_s >= self._next_s and now.fraction < 1:
                self._next_s = now.elapsed_s + LINE_INTERVAL_S
                self._write(f"{self._what}: {progress_text(now)}\n")


def progress_text(now: BuildProgress) -> str:
    """Return ``42 %, 75 s, 104 s left: Timing graph nodes``."""
    left = "" if now.left_s is None else f", {now.left_s:.0f} s left"
    return f"{now.fraction:.0%}".replace("%", " %") + f", {now.elapsed_s:.0f} s{left}: {now.phase}"
