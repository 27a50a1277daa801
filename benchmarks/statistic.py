"""Ratios of paired runs, with an interval that says whether they differ from noise."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

FEWEST_ROUNDS = 5
"""with fewer rounds no interval is worth its name"""
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two contenders, over rounds in which they ran one after the other."""

    median: float
    low: float
    """lower end of the 95 % interval of the median, by bootstrap"""
    high: float
    least: float
    """the smallest ratio of any round"""
    most: float
    rounds: int

    @property
    def verdict(self) -> str:
        """``noise``, ``higher`` or ``lower``."""
        if self.rounds < FEWEST_ROUNDS:
            return "too few rounds to tell"
        if self.low <= 1 <= self.high:
            return "noise"
        return "higher" if self.median > 1 else "lower"

    def __str__(self) -> str:
        interval = f"95 % {self.low:.3f}–{self.high:.3f}, seen {self.least:.3f}–{self.most:.3f}"
        return f"{self.median:.3f}  ({interval})  {self.verdict}"


def paired_ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Compare two contenders round by round.

    Args:
        ours: one value for each round.
        theirs: the same rounds.
    """
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975) - 1]
    return Ratio(statistics.median(ratios), low, high, min(ratios), max(ratios), len(ratios))
