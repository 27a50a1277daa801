"""Benchmarks with synthetic figures and known results."""

from __future__ import annotations

import datetime

from vision_infer.capacity.report import (
    BenchInterval,
    BenchMachine,
    BenchReport,
    BenchSettings,
    ConvertRow,
    DecodeRow,
    EngineRow,
    PipelineRow,
)

CPU = "onnxruntime-cpu-fp32"
MACHINE = BenchMachine(cpu="Test CPU", instructions=("avx2",), cores=4, memory_bytes=16_000_000_000)
SETTINGS = BenchSettings(
    model="net", codec="h264", width=1920, height=1080, source_fps=15, fps=10, target_ms=200, engine="auto", quick=True
)


def about(value: float, noise: float = 0.01) -> BenchInterval:
    """Return a median with a small interval."""
    return BenchInterval(median=value, low=value * (1 - noise), high=value * (1 + noise))


def engine_row(
    engine: str = CPU, batch: int = 1, ms: float = 20.0, loss: float | None = 0.0, in_flight: int = 4, memory: int = 50_000_000
) -> EngineRow:
    """Return an engine that takes ``ms`` of CPU per image, or of its device per batch."""
    on_gpu = "-cpu-" not in engine
    fps = 1000 * batch / ms if on_gpu else 1000 * 4 / ms
    return EngineRow(
        engine=engine,
        graph="model.onnx",
        model="net",
        input_width=416,
        input_height=416,
        batch=batch,
        in_flight=in_flight,
        p50_ms=ms * (1 if on_gpu else batch),
        p99_ms=ms * batch * 1.2,
        fps=about(fps),
        cpu_ms=about(0.2 if on_gpu else ms),
        utilization=0.98,
        spread=(0.95, 1.0, 1.05, 1.3),
        memory_bytes=memory,
        buffer_bytes=2_000_000,
        loss_points=loss,
    )


def run_row(streams: int, **changed: object) -> PipelineRow:
    """Return a pipeline run that is consistent with the stages."""
    values: dict[str, object] = {
        "streams": streams,
        "engine": CPU,
        "seconds": 10.0,
        "wanted_per_s": streams * 10.0,
        "results_per_s": streams * 10.0,
        "delivered": 1.0,
        "age_p50_ms": 27.5,
        "age_p95_ms": 30.0,
        "age_p99_ms": 40.0,
        "holds": True,
        "cpu_cores": streams * 0.28,
        "other_cores": 0.0,
        "stream_ms": 4.5,
        "inference_ms": 22.0,
        "rest_ms": 0.5,
        "batch_ms": 20.0,
        "rss_bytes": 300_000_000 + 30_000_000 * streams,
    }
    return PipelineRow.model_validate({**values, **changed})


def bench(**changed: object) -> BenchReport:
    """Return a benchmark of four idle cores: an image takes 4 ms to decode, 2 ms to convert and 20 ms to infer."""
    values: dict[str, object] = {
        "date": datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC),
        "program": "0",
        "machine": MACHINE,
        "settings": SETTINGS,
        "seconds": 50.0,
        "decode": (
            DecodeRow(codec="h264", width=1920, height=1080, mbit_s=4, fps=about(1000), cpu_ms=about(4.0)),
            DecodeRow(codec="h264", width=640, height=360, mbit_s=0.8, fps=about(4000), cpu_ms=about(0.8)),
        ),
        "convert": (
            ConvertRow(width=1920, height=1080, input_width=416, input_height=416, cpu_ms=about(2.0)),
            ConvertRow(width=640, height=360, input_width=416, input_height=416, cpu_ms=about(0.5)),
        ),
        "engines": (engine_row(), engine_row(batch=4, ms=21.0)),
        "pipeline": (run_row(1), run_row(12)),
    }
    return BenchReport.model_validate({**values, **changed})
