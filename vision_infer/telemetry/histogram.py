"""A histogram of durations in fixed memory.

Logarithmic buckets with a fixed ratio, as in DDSketch (Masson, Rim, Lee, VLDB 2019): every quantile is exact to within 1 % of
its value, for any number of recorded values.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from math import ceil, log

import numpy as np

RELATIVE_ERROR = 0.01
_RATIO = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_RATIO = math.log(_RATIO)
_SMALLEST_NS = 100
_LARGEST_NS = 10**13
_BUCKETS = math.ceil(math.log(_LARGEST_NS / _SMALLEST_NS) / _LOG_RATIO) + 2
_SCALE = 1 / _LOG_RATIO
_SHIFT = math.log(_SMALLEST_NS) / _LOG_RATIO


class Histogram:
    """Durations from 100 ns to 10,000 s, each quantile within 1 %. Values outside count in the first or the last bucket.

    Recording costs a logarithm and three additions. One thread records; other threads may read, and may miss the last value.
    """

    __slots__ = ("_buckets", "count", "max_ns", "min_ns", "sum_ns")

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(8 * _BUCKETS))
        self.count = 0
        self.sum_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def record(self, duration_ns: int) -> None:
        """Count one duration; a negative one counts as zero."""
        if duration_ns <= _SMALLEST_NS:
            duration_ns = max(0, duration_ns)
            place = 0
        elif duration_ns < _LARGEST_NS:
            place = ceil(log(duration_ns) * _SCALE - _SHIFT)
        else:
            place = _BUCKETS - 1
        self._buckets[place] += 1
        count = self.count
        if duration_ns < self.min_ns or not count:
            self.min_ns = duration_ns
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns
        self.count = count + 1
        self.sum_ns += duration_ns

    def mean_ns(self) -> float:
        """Return the exact mean, nanoseconds; 0 when nothing was recorded."""
        return self.sum_ns / self.count if self.count else 0.0

    def quantile_ns(self, quantile: float) -> float:
        """Return a quantile of the durations, nanoseconds, within 1 %; 0 when nothing was recorded.

        Args:
            quantile: The fraction of durations that are not longer, 0–1.
        """
        if not 0 <= quantile <= 1:
            raise ValueError(f"a quantile must be between 0 and 1, got {quantile}")
        if self.count == 0:
            return 0.0
        rank = max(1, math.ceil(quantile * self.count))
        place = int(np.frombuffer(self._buckets, np.uint64).cumsum().searchsorted(rank))
        if place == _BUCKETS:
            return float(self.max_ns)
        upper = _SMALLEST_NS * _RATIO**place
        middle = 2 * upper / (_RATIO + 1)
        return float(min(max(middle, self.min_ns), self.max_ns))

    def counts_up_to(self, bounds_ns: Sequence[int]) -> list[int]:
        """Return the number of durations that do not exceed each bound; the bounds are exact to within 2 %.

        Args:
            bounds_ns: The bounds, ascending, nanoseconds.
        """
        buckets = self._buckets[:]  # a copy: the same moment for all bounds
        counts = []
        seen = begin = 0
        for bound_ns in bounds_ns:
            end = max(begin, math.floor(math.log(max(bound_ns, _SMALLEST_NS)) * _SCALE - _SHIFT + 1e-9) + 1)
            seen += sum(buckets[begin:end])
            begin = end
            counts.append(seen)
        return counts

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        if other.count == 0:
            return
        buckets = np.frombuffer(self._buckets, np.uint64)
        buckets += np.frombuffer(other._buckets, np.uint64)
        self.min_ns = other.min_ns if self.count == 0 else min(self.min_ns, other.min_ns)
        self.max_ns = max(self.max_ns, other.max_ns)
        self.count += other.count
        self.sum_ns += other.sum_ns
