"""The account of a run: where the frames' time went, and how busy each part of the pipeline was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vision_infer.core.trace import STAGES, Latency
from vision_infer.telemetry.histogram import Histogram


@dataclass(slots=True)
class StageAccount:
    """Histograms of each stage. ``latency`` is called by the results stage, ``write`` by the one thread that writes."""

    histograms: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})

    def latency(self, spent: Latency) -> None:
        """Count a result's account."""
        histograms = self.histograms
        histograms["decode"].record(spent.decode_ns)
        histograms["queue"].record(spent.queue_ns)
        histograms["preprocess"].record(spent.preprocess_ns)
        histograms["inference"].record(spent.inference_ns)
        histograms["postprocess"].record(spent.postprocess_ns)

    def write(self, duration_ns: int) -> None:
        """Count the writing of a result, over all its sinks."""
        self.histograms["write"].record(duration_ns)

    def merge(self, other: StageAccount) -> None:
        """Add another account."""
        for stage, histogram in other.histograms.items():
            self.histograms[stage].merge(histogram)

    def summary(self) -> dict[str, dict[str, Any]]:
        """For each stage mean, p50, p95, p99 in milliseconds and its share of the frames' whole time (0–1)."""
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
    """How long the workers of one part were busy, out of how long they were there."""

    busy_ns: int = 0
    present_ns: int = 0

    def add(self, busy_ns: int, present_ns: int) -> None:
        """Add a worker's time."""
        self.busy_ns += busy_ns
        self.present_ns += present_ns

    @property
    def fraction(self) -> float:
        """0–1; 0 when no worker was there."""
        return self.busy_ns / self.present_ns if self.present_ns else 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """How busy the parts were, each out of the time that its workers were there."""

    decode: Busy
    preprocess: Busy
    inference: Busy
    postprocess: Busy
    write: Busy
