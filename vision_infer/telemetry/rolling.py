"""Recent measurements in fixed memory: the last minute of a service that runs for months."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from vision_infer.telemetry.histogram import Histogram

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class RollingHistogram:
    """Durations of the last ``slots × slot_ns``, and of all time. One thread records; others may read.

    Args:
        slots: The number of time slots; the oldest slot is dropped as a whole.
        slot_ns: The length of a slot, nanoseconds.
    """

    __slots__ = ("_all", "_parts", "_slot_ns", "_slots")

    def __init__(self, slots: int = 6, slot_ns: int = 10_000_000_000) -> None:
        self._slots = slots
        self._slot_ns = slot_ns
        self._parts: deque[tuple[int, Histogram]] = deque(maxlen=slots)
        # What all time consists of: the finished slots, and the present one. Replaced as a whole, because other threads read it.
        self._all = (Histogram(), Histogram())

    def record(self, now_ns: int, duration_ns: int) -> None:
        """Count one duration.

        Args:
            now_ns: The time now, monotonic.
            duration_ns: The measured duration.
        """
        slot = now_ns // self._slot_ns
        if not self._parts or self._parts[-1][0] != slot:
            present = Histogram()
            self._all = (self.total(), present)
            self._parts.append((slot, present))
        self._parts[-1][1].record(duration_ns)

    def total(self) -> Histogram:
        """Return a copy of the durations of all time."""
        whole = Histogram()
        for part in self._all:
            whole.merge(part)
        return whole

    def quantiles_ms(self, now_ns: int) -> Mapping[str, float]:
        """Return ``p50``, ``p95``, ``p99`` and ``max`` in milliseconds; empty when nothing was recorded recently."""
        oldest = now_ns // self._slot_ns - self._slots
        whole = Histogram()
        for slot, part in tuple(self._parts):
            if slot > oldest:
                whole.merge(part)
        if not whole.count:
            return {}
        found = {name: round(whole.quantile_ns(share) / 1e6, 3) for name, share in QUANTILES.items()}
        return {**found, "max": round(whole.max_ns / 1e6, 3)}


class RollingRate:
    """The rates of counters, from samples of the last ten seconds.

    Args:
        counters: The number of counters.
        samples: The number of samples that are kept.
    """

    __slots__ = ("_samples", "per_second")

    def __init__(self, counters: int, samples: int = 11) -> None:
        self._samples: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=samples)
        self.per_second: tuple[float, ...] = (0.0,) * counters

    def sample(self, now_ns: int, *values: int) -> None:
        """Take a sample.

        Args:
            now_ns: The time now, monotonic.
            values: The values of the counters.
        """
        self._samples.append((now_ns, values))
        first_ns, before = self._samples[0]
        if now_ns > first_ns:
            self.per_second = tuple((value - old) * 1e9 / (now_ns - first_ns) for value, old in zip(values, before, strict=True))
