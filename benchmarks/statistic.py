"""Ratios of paired runs, with an interval that shows whether they differ from noise."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

MIN_ROUNDS = 5
"""The minimum number of rounds for a meaningful interval."""
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two contenders over rounds in which they ran directly one after the other."""

    median: float
    low: float
    """The lower end of the 95 % interval of the median, by bootstrap."""
    high: float
    least: float
    """The minimum ratio of all rounds."""
    most: float
    rounds: int

    @property
    def verdict(self) -> str:
        """``noise``, ``higher`` or ``lower``."""
        if self.rounds < MIN_ROUNDS:
            return "too few rounds"
        if self.low <= 1 <= self.high:
            return "noise"
        return "higher" if self.median > 1 else "lower"

    def __str__(self) -> str:
        interval = f"95 % {self.low:.3f}–{self.high:.3f}, range {self.least:.3f}–{self.most:.3f}"
        return f"{self.median:.3f}  ({interval})  {self.verdict}"


def paired_ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Return the ratio of two contenders.

    Args:
        ours: One value for each round.
        theirs: The values of the other contender in the same rounds.
    """
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975) - 1]
    return Ratio(statistics.median(ratios), low, high, min(ratios), max(ratios), len(ratios))
