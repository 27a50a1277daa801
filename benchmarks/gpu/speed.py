"""Measure the speed of engines by batch size, with and without CUDA graphs, in turn; and that of trtexec with the same plan."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.gpu.engines import Contender
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import SpeedRounds, estimate, measure_speed
from vision_infer.engine.tensorrt.plan_file import PlanFile
from vision_infer.precision.frames import FrameSet

BATCHES = (1, 2, 4, 8, 16, 32)
TRTEXEC = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}
_TIMEOUT_S = 120
_THROUGHPUT = re.compile(r"Throughput: ([\d.]+) qps")
_LATENCY = re.compile(r"\bLatency: .*?median = ([\d.]+) ms.*?percentile\(95%\) = ([\d.]+) ms")
_COMPUTE = re.compile(r"GPU Compute Time: .*?median = ([\d.]+) ms")


def by_batch(
    contenders: Sequence[Contender], frames: FrameSet, batches: Sequence[int] = BATCHES, rounds: int = 7, round_s: float = 0.5
) -> Iterator[dict[str, Any]]:
    """Yield a row for each batch size and engine: the latency of one batch at a time, and images/s with two batches in flight."""
    for batch in batches:
        alone, together = (_measured(contenders, frames, batch, workers, rounds, round_s) for workers in (1, 2))
        for name, single in alone.items():
            fps = estimate(together[name].fps)
            engine, _, graphs = name.partition(" ")
            yield {
                "engine": engine,
                "cuda_graphs": graphs == "with graphs" if graphs else None,
                "batch": batch,
                "p50_ms": round(single.percentile_ms(0.5), 3),
                "p95_ms": round(single.percentile_ms(0.95), 3),
                "fps": round(fps.median, 1),
                "fps_low": round(fps.low, 1),
                "fps_high": round(fps.high, 1),
                "cpu_ms_a_picture": round(estimate(together[name].cpu_ms).median, 4),
            }


def _measured(
    contenders: Sequence[Contender], frames: FrameSet, batch: int, workers: int, rounds: int, round_s: float
) -> dict[str, SpeedRounds]:
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for contender in contenders:
            for graphs in (True, False) if contender.has_graphs else (True,):
                suffix = f" {'with' if graphs else 'without'} graphs" if contender.has_graphs else ""
                name = f"{contender.name}{suffix}"
                engine = stack.enter_context(contender.open(workers, graphs))
                if batch in engine.batch_sizes:
                    engines[name] = engine
        return measure_speed(engines, frames.pixels, batch=batch, rounds=rounds, round_s=round_s)


def trtexec_rows(plan: PlanFile, batches: Sequence[int] = BATCHES) -> Iterator[dict[str, Any]]:
    """Yield a row for each batch size: the figures of NVIDIA's program for the same plan, or the reason why there are none."""
    program = shutil.which(TRTEXEC[plan.runtime])
    if program is None:
        yield {"engine": plan.engine, "left_out": f"{TRTEXEC[plan.runtime]} is not on the PATH; it is part of NVIDIA's archive"}
        return
    height, width = plan.card.input.height, plan.card.input.width
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan"
        file.write_bytes(plan.plan)
        for batch in batches:
            shapes = f"--shapes=images:{batch}x{height}x{width}x3"
            command = [program, f"--loadEngine={file}", shapes, "--useCudaGraph", "--duration=3", "--warmUp=500"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
            figures = trtexec_figures(done.stdout, batch)
            lines = (done.stderr or done.stdout).strip().splitlines()
            yield {"engine": plan.engine, "batch": batch, **(figures or {"left_out": (lines or ["no output"])[-1]})}


def trtexec_figures(text: str, batch: int) -> dict[str, float]:
    """Parse the output of trtexec; return nothing if it is incomplete."""
    throughput, latency, compute = (pattern.search(text) for pattern in (_THROUGHPUT, _LATENCY, _COMPUTE))
    if throughput is None or latency is None or compute is None:
        return {}
    return {
        "fps": round(float(throughput[1]) * batch, 1),
        "p50_ms": float(latency[1]),
        "p95_ms": float(latency[2]),
        "compute_p50_ms": float(compute[1]),
    }
