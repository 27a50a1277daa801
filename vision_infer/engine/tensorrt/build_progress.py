"""How far a build is: the phases that TensorRT tells of, one inside the other, as one share of the whole that never falls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vision_infer.core.clock import Clock

_NS_PER_S = 1_000_000_000
ETA_AFTER_S = 2.0
"""before that a guess from what was done so far is worth nothing"""
ETA_FROM = 0.05
"""and as long as less than this share is done"""


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is."""

    phase: str
    """in the runtime's words"""
    fraction: float
    """0 to 1"""
    elapsed_s: float
    left_s: float | None
    """None: nothing can be said yet"""


Report = Callable[[BuildProgress], None]


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: float = 0.0
    """steps; those of the phases inside it count by their share"""


class Phases:
    """Keeps account of the phases. It may be told from several threads.

    Args:
        report: called with every change; on the thread that told of it.
        clock: of the times.
        expected_s: how long an earlier build of the same took; None: not known.
        steps_tell: whether the share of the steps that are done says anything of the time that is left.
    """

    def __init__(self, report: Report, clock: Clock, expected_s: float | None = None, *, steps_tell: bool = True) -> None:
        self._report = report
        self._clock = clock
        self._expected_s = expected_s
        self._steps_tell = steps_tell
        self._started_ns = clock.monotonic_ns()
        self._lock = threading.Lock()
        self._open: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside another or, ``parent`` None, by itself."""
        with self._lock:
            self._open[phase] = _Phase(parent if parent in self._open else None, max(1, steps))
            self._tell(phase)

    def step(self, phase: str, step: int) -> None:
        """A step of a phase is done; ``step`` counts from 0."""
        with self._lock:
            one = self._open.get(phase)
            if one is not None:
                one.done = max(one.done, min(step + 1, one.steps))
                self._tell(phase)

    def finish(self, phase: str) -> None:
        """A phase is over, the steps that it left out as well."""
        with self._lock:
            one = self._open.get(phase)
            if one is None:
                return
            one.done = one.steps
            self._tell(phase)
            del self._open[phase]

    def end(self) -> None:
        """All is done."""
        with self._lock:
            self._fraction = 1.0
            self._tell("done")

    def _tell(self, phase: str) -> None:
        roots = [name for name, one in self._open.items() if one.parent is None]
        if roots:
            # What is left open above one is the whole; the phases of a second whole would begin again, and wait for it.
            self._fraction = max(self._fraction, min(1.0, self._share(roots[0])))
        elapsed = (self._clock.monotonic_ns() - self._started_ns) / _NS_PER_S
        self._report(BuildProgress(phase, self._fraction, elapsed, self._left(elapsed)))

    def _share(self, name: str) -> float:
        one = self._open[name]
        inside = [self._share(other) for other, its in self._open.items() if its.parent == name]
        return min(1.0, (one.done + min(max(inside, default=0.0), 1.0)) / one.steps)

    def _left(self, elapsed: float) -> float | None:
        if self._fraction >= 1.0:
            return 0.0
        if self._expected_s is not None and elapsed < self._expected_s:
            return self._expected_s - elapsed
        if not self._steps_tell or elapsed < ETA_AFTER_S or self._fraction < ETA_FROM:
            return None
        return elapsed * (1 - self._fraction) / self._fraction
