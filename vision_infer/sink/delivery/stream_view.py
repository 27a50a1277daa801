"""What is known of a stream where it is told to others as it is now: Home Assistant, for example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShownStream:
    """A stream as it is now."""

    name: str
    state: str
    """a JSON object, as changes of state are told"""
    labels: tuple[str, ...]
    """those that the user asks for; empty: all of the model, which may be many"""
    zones: Mapping[str, int]
    """by name: objects that are inside"""
    lines: Mapping[str, tuple[int, int]]
    """by name: how often it was crossed, in and out"""


class Counts:
    """How many objects of each label there are in the pictures of a stream: the most in one picture since it was last asked.

    Args:
        most: labels that are told apart; objects of others are in the sum only.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._labels: dict[str, int] = {}
        self._sum = 0
        self._fresh = False

    def add(self, labels: Mapping[str, int]) -> None:
        """Take what one picture shows: objects by label."""
        if not self._fresh:
            self._labels = dict.fromkeys(self._labels, 0)
            self._sum = 0
            self._fresh = True
        self._sum = max(self._sum, sum(labels.values()))
        for label, count in labels.items():
            if label in self._labels or len(self._labels) < self._most:
                self._labels[label] = max(self._labels.get(label, 0), count)

    def taken(self) -> tuple[int, dict[str, int]]:
        """Objects in all and by label; the same again as long as no picture came."""
        self._fresh = False
        return self._sum, dict(self._labels)
