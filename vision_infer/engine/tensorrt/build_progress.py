"""The progress of a build: the nested phases that TensorRT reports, as one fraction of the whole that never decreases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vision_infer.core.clock import Clock

_NS_PER_S = 1_000_000_000
ETA_AFTER_S = 2.0
"""The minimum elapsed time for an estimate of the remaining time, seconds."""
ETA_FROM = 0.05
"""The minimum finished fraction for an estimate of the remaining time."""


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """The progress of a build."""

    phase: str
    """The current phase, in the runtime's words."""
    fraction: float
    """The finished fraction, 0 to 1."""
    elapsed_s: float
    left_s: float | None
    """The estimated remaining time, seconds; None: not known yet."""


Report = Callable[[BuildProgress], None]
LINES_EVERY_S = 10.0
"""The minimum interval of lines about the progress, seconds."""


def report_lines(what: str, on_message: Callable[[str], None]) -> Report:
    """Return a report that passes the progress of a build on as lines of text, at most one in 10 seconds."""
    last = 0.0

    def report(progress: BuildProgress) -> None:
        nonlocal last
        if progress.elapsed_s - last >= LINES_EVERY_S:
            last = progress.elapsed_s
            left = "" if progress.left_s is None else f", about {progress.left_s:.0f} s left"
            on_message(f"building {what}: {100 * progress.fraction:.0f} % after {progress.elapsed_s:.0f} s{left}")

    return report


@dataclass(slots=True)
class _BuildPhase:
    parent: str | None
    steps: int
    done: float = 0.0
    """The finished steps; a phase inside counts as a fraction of a step."""


class Phases:
    """Tracks the phases of a build; thread-safe.

    Args:
        report: Receives every change, on the thread that reports the phase.
        expected_s: The duration of an earlier, similar build, seconds; None: not known.
        estimates_by_steps: Whether the finished steps allow an estimate of the remaining time.
    """

    def __init__(self, report: Report, clock: Clock, expected_s: float | None = None, *, estimates_by_steps: bool = True) -> None:
        self._report = report
        self._clock = clock
        self._expected_s = expected_s
        self._estimates_by_steps = estimates_by_steps
        self._started_ns = clock.monotonic_ns()
        # Guards _open and _fraction, and keeps reports in order. Held by the runtime's builder threads during each call.
        self._lock = threading.Lock()
        self._open: dict[str, _BuildPhase] = {}
        self._fraction = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Begin a phase, inside another one unless ``parent`` is None."""
        with self._lock:
            self._open[phase] = _BuildPhase(parent if parent in self._open else None, max(1, steps))
            self._report_progress(phase)

    def step(self, phase: str, step: int) -> None:
        """Finish a step of a phase; ``step`` counts from 0."""
        with self._lock:
            current = self._open.get(phase)
            if current is not None:
                current.done = max(current.done, min(step + 1, current.steps))
                self._report_progress(phase)

    def finish(self, phase: str) -> None:
        """Finish a phase, with all steps that it skipped."""
        with self._lock:
            current = self._open.get(phase)
            if current is None:
                return
            current.done = current.steps
            self._report_progress(phase)
            del self._open[phase]

    def end(self) -> None:
        """Finish the build."""
        with self._lock:
            self._fraction = 1.0
            self._report_progress("done")

    def _report_progress(self, phase: str) -> None:
        roots = [name for name, phase_ in self._open.items() if phase_.parent is None]
        if roots:
            # The oldest phase without a parent is the whole build; a second one counts only after it.
            self._fraction = max(self._fraction, min(1.0, self._share(roots[0])))
        elapsed = (self._clock.monotonic_ns() - self._started_ns) / _NS_PER_S
        self._report(BuildProgress(phase, self._fraction, elapsed, self._left(elapsed)))

    def _share(self, name: str) -> float:
        phase = self._open[name]
        inside = [self._share(other) for other, child in self._open.items() if child.parent == name]
        return min(1.0, (phase.done + min(max(inside, default=0.0), 1.0)) / phase.steps)

    def _left(self, elapsed: float) -> float | None:
        if self._fraction >= 1.0:
            return 0.0
        if self._expected_s is not None and elapsed < self._expected_s:
            return self._expected_s - elapsed
        if not self._estimates_by_steps or elapsed < ETA_AFTER_S or self._fraction < ETA_FROM:
            return None
        return elapsed * (1 - self._fraction) / self._fraction
