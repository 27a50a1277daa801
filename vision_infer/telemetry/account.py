"""The account of a run: the time that frames spend in each stage, and how busy each stage is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vision_infer.core.trace import STAGES, Latency
from vision_infer.telemetry.histogram import Histogram


@dataclass(slots=True)
class StageAccount:
    """The histograms of each stage. The results stage calls ``latency``; ``write`` is merged from the outlets."""

    histograms: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})

    def latency(self, spent: Latency) -> None:
        """Count the latency of a result."""
        histograms = self.histograms
        histograms["decode"].record(spent.decode_ns)
        histograms["queue"].record(spent.queue_ns)
        histograms["preprocess"].record(spent.preprocess_ns)
        histograms["inference"].record(spent.inference_ns)
        histograms["postprocess"].record(spent.postprocess_ns)

    def merge(self, other: StageAccount) -> None:
        """Add another account."""
        for stage, histogram in other.histograms.items():
            self.histograms[stage].merge(histogram)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return for each stage the mean, p50, p95 and p99 in milliseconds, and its share of the total time (0–1)."""
        total = sum(histogram.sum_ns for histogram in self.histograms.values())
        return {
            stage: {
                "mean_ms": round(histogram.mean_ns() / 1e6, 4),
                "p50_ms": round(histogram.quantile_ns(0.5) / 1e6, 4),
                "p95_ms": round(histogram.quantile_ns(0.95) / 1e6, 4),
                "p99_ms": round(histogram.quantile_ns(0.99) / 1e6, 4),
                "share": round(histogram.sum_ns / total, 4) if total else 0.0,
            }
            for stage, histogram in self.histograms.items()
        }


@dataclass(slots=True)
class Busy:
    """The time for which the workers of one stage were busy, and the time for which they existed."""

    busy_ns: int = 0
    present_ns: int = 0

    def add(self, busy_ns: int, present_ns: int) -> None:
        """Add the times of a worker."""
        self.busy_ns += busy_ns
        self.present_ns += present_ns

    @property
    def fraction(self) -> float:
        """The fraction of time for which they were busy, 0–1; 0 without workers."""
        return self.busy_ns / self.present_ns if self.present_ns else 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """How busy each stage was."""

    decode: Busy
    preprocess: Busy
    inference: Busy
    postprocess: Busy
    write: Busy
