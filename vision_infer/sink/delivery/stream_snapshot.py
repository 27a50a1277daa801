"""The present state of a stream, as MQTT clients such as Home Assistant show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """The present state of a stream."""

    name: str
    state: str
    """The last change of state, a JSON object."""
    live: bool
    """Whether the stream delivers frames."""
    labels: tuple[str, ...]
    """The labels that the user selected; empty: all of the model, which may be many."""
    zones: Mapping[str, int]
    """The number of objects inside each zone, by name."""
    lines: Mapping[str, tuple[int, int]]
    """The number of crossings of each line, in and out, by name."""


class PeakCounts:
    """The maximum number of objects of each label in one image of a stream since the last read.

    Args:
        max_labels: The maximum number of labels; objects of others are only in the sum.
    """

    def __init__(self, max_labels: int = 32) -> None:
        self._max_labels = max_labels
        self._labels: dict[str, int] = {}
        self._sum = 0
        self._fresh = False

    def add(self, labels: Mapping[str, int]) -> None:
        """Add an image: the number of objects by label."""
        if not self._fresh:
            self._labels = dict.fromkeys(self._labels, 0)
            self._sum = 0
            self._fresh = True
        self._sum = max(self._sum, sum(labels.values()))
        for label, count in labels.items():
            if label in self._labels or len(self._labels) < self._max_labels:
                self._labels[label] = max(self._labels.get(label, 0), count)

    def read(self) -> tuple[int, dict[str, int]]:
        """Return the sum and the counts by label; they stay the same until the next image."""
        self._fresh = False
        return self._sum, dict(self._labels)
