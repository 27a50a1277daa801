"""How well two models agree on the same frames: over the latest frames, and over all. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from vision_infer.compare.detections import compare
from vision_infer.core.detections import Detections

WINDOW = 500
"""The number of the latest frames with separate figures."""
SAME_IOU = 0.5
"""The minimum IoU of two boxes of the same object."""


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """The engine time of a frame in nanoseconds: until its batch was done, and its part of the batch."""

    latency_ns: float
    cost_ns: float


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums over some frames."""

    frames: int = 0
    current: int = 0
    """The number of detections of the current model."""
    candidate: int = 0
    found_again: int = 0
    """The number of detections that both models have."""
    iou: float = 0.0
    score_change: float = 0.0
    """The scores of the candidate minus those of the current model, over the detections that both have."""
    times: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Nanoseconds: latency and cost of the current model, latency and cost of the candidate."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.frames + other.frames,
            self.current + other.current,
            self.candidate + other.candidate,
            self.found_again + other.found_again,
            self.iou + other.iou,
            self.score_change + other.score_change,
            (
                self.times[0] + other.times[0],
                self.times[1] + other.times[1],
                self.times[2] + other.times[2],
                self.times[3] + other.times[3],
            ),
        )


def sums_of(
    current: Detections, candidate: Detections, times: EngineTimes, candidate_times: EngineTimes
) -> tuple[Sums, tuple[float, float]]:
    """Compare the detections of one frame; return the sums, and the size of the difference.

    Args:
        current: The detections of the current model.
        candidate: The detections of the candidate; class numbers have the same meaning in both.
        times: The times of the current model.
        candidate_times: The times of the candidate.
    """
    difference = compare(current, candidate, SAME_IOU)
    sums = Sums(
        1,
        len(current),
        len(candidate),
        len(difference.pairs),
        float(difference.ious.sum()),
        float(difference.score_changes.sum()),
        (times.latency_ns, times.cost_ns, candidate_times.latency_ns, candidate_times.cost_ns),
    )
    return sums, difference.size


class ModelAgreement:
    """The sums of the latest frames and of all. One thread adds; others may read."""

    def __init__(self) -> None:
        self._latest: deque[Sums] = deque(maxlen=WINDOW)
        self.total = Sums()

    def add(self, one: Sums) -> None:
        """Add a frame."""
        self._latest.append(one)
        self.total += one

    @property
    def recent(self) -> Sums:
        """The sums of the latest frames."""
        return _sum(tuple(self._latest))


def _sum(parts: Iterable[Sums]) -> Sums:
    whole = Sums()
    for part in parts:
        whole += part
    return whole
