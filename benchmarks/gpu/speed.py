"""Measure engines: correctness, then latency and throughput by batch size, with and without CUDA graphs, compared with trtexec.

Each engine is opened once, and all are measured in turns.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.engines import Make
from benchmarks.gpu.graphs import Inputs
from benchmarks.gpu.plan import Row, Step
from vision_infer.core.errors import VisionInferError
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import estimate, measure_speed
from vision_infer.engine.tensorrt.plan_file import PlanFile

BATCHES = (1, 2, 4, 8, 16, 32)
MIN_AGREEMENT = {"fp32": (99.0, 0.99), "fp16": (97.0, 0.97), "int8": (80.0, 0.8)}
"""By precision: the minimum percentage of FP32's detections that the engine finds again, and their minimum mean IoU."""
TRTEXEC = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}
_TIMEOUT_S = 120
_THROUGHPUT = re.compile(r"Throughput: ([\d.]+) qps")
_LATENCY = re.compile(r"\bLatency: .*?median = ([\d.]+) ms.*?percentile\(95%\) = ([\d.]+) ms")
_COMPUTE = re.compile(r"GPU Compute Time: .*?median = ([\d.]+) ms")


class Measured:
    """The engines of a part, from their opening to its end.

    Args:
        stack: Closes the engines.
    """

    def __init__(self, inputs: Inputs, stack: ExitStack, rounds: int, round_s: float) -> None:
        self.plans: list[PlanFile] = []
        """The plans that were opened."""
        self._inputs = inputs
        self._stack = stack
        self._rounds = rounds
        self._round_s = round_s
        self._engines: dict[tuple[str, bool | None], Engine] = {}
        self._fps: dict[tuple[str, int], float] = {}

    def open(self, make: Make) -> Iterator[Row]:
        """Open an engine with and without CUDA graphs; yield how long that took, or why it is left out."""
        try:
            contender = make(self._inputs)
            for graphs in (True, False) if contender.has_graphs else (None,):
                began = time.monotonic()
                engine = self._stack.enter_context(contender.open(graphs is not False))
                opened = time.monotonic()
                engine.warm_up()
                self._engines[contender.name, graphs] = engine
                seconds = {"open_s": round(opened - began, 2), "warm_up_s": round(time.monotonic() - opened, 2)}
                yield {"engine": contender.name, "cuda_graphs": graphs, **seconds, "batch_sizes": str(engine.batch_sizes)}
        except (VisionInferError, ImportError) as error:
            yield {"engine": make.__doc__, "left_out": str(error)}
            return
        if contender.plan is not None:
            self.plans.append(contender.plan)

    def compare(self) -> Iterator[Row]:
        """Yield how well each engine agrees with FP32 on ONNX Runtime."""
        for (name, graphs), engine in self._engines.items():
            if graphs is not False:
                yield {"engine": name, **compared(self._inputs, engine, name.rpartition("-")[2])}

    def batch(self, batch: int) -> Iterator[Row]:
        """Yield the latency of one batch at a time, and the images/s with all in flight, of each engine that runs this size."""
        engines = {key: engine for key, engine in self._engines.items() if batch in engine.batch_sizes}
        alone = self._speeds({key: _OneAtATime(engine) for key, engine in engines.items()}, batch)
        together = self._speeds(engines, batch)
        for (name, graphs), single in alone.items():
            fps = estimate(together[name, graphs].fps)
            self._fps[name, batch] = max(fps.median, self._fps.get((name, batch), 0.0))
            yield {
                "engine": name,
                "cuda_graphs": graphs,
                "batch": batch,
                "p50_ms": round(single.percentile_ms(0.5), 3),
                "p95_ms": round(single.percentile_ms(0.95), 3),
                "fps": round(fps.median, 1),
                "fps_low": round(fps.low, 1),
                "fps_high": round(fps.high, 1),
                "cpu_ms_a_picture": round(estimate(together[name, graphs].cpu_ms).median, 4),
            }

    def trtexec(self, plan: PlanFile, batch: int) -> Iterator[Row]:
        """Yield the figures of NVIDIA's program for a plan, and the part of its throughput that the engine reaches."""
        found = trtexec_row(plan, batch)
        ours = self._fps.get((plan.engine, batch))
        ratio = round(ours / found["fps"], 3) if ours and found.get("fps") else None
        yield {"engine": plan.engine, "batch": batch, **found, "engine_fps": ours, "ratio": ratio}

    def _speeds(self, engines: dict[tuple[str, bool | None], Any], batch: int) -> dict[tuple[str, bool | None], Any]:
        keys = {str(key): key for key in engines}
        images = self._inputs.frames.pixels
        found = measure_speed(
            {name: engines[key] for name, key in keys.items()}, images, batch=batch, rounds=self._rounds, round_s=self._round_s
        )
        return {keys[name]: result for name, result in found.items()}


def steps(
    makes: Iterable[Make], inputs: Inputs, batches: Sequence[int] = BATCHES, rounds: int = 5, round_s: float = 0.3
) -> Iterator[Step]:
    """Yield the steps: open each engine, compare them with FP32, measure each batch size, run trtexec on the plans."""
    with ExitStack() as stack:
        measured = Measured(inputs, stack, rounds, round_s)
        for make in makes:
            yield f"open {make.__doc__}", partial(measured.open, make)
        yield "compare", measured.compare
        for batch in batches:
            yield f"batch {batch}", partial(measured.batch, batch)
        for plan in measured.plans:
            for batch in batches:
                yield f"trtexec, batch {batch}", partial(measured.trtexec, plan, batch)


def compared(inputs: Inputs, engine: Engine, precision: str) -> Row:
    """Return how well an engine agrees with FP32 on ONNX Runtime on the same images."""
    found = inputs.judge.compare(engine)
    min_percent, min_iou = MIN_AGREEMENT[precision]
    good = found.figures["found_again"] >= min_percent and found.figures["mean_iou"] >= min_iou
    return {**found.to_dict(), "as_it_should_be": bool(good)}


def trtexec_row(plan: PlanFile, batch: int) -> Row:
    """Return the figures of NVIDIA's program for a plan, with two batches in flight; or the reason why there are none."""
    program = shutil.which(TRTEXEC[plan.runtime])
    if program is None:
        return {"left_out": f"{TRTEXEC[plan.runtime]} is not on the PATH; it is part of NVIDIA's archive"}
    height, width = plan.card.input.height, plan.card.input.width
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan"
        file.write_bytes(plan.plan)
        shapes = f"--shapes=images:{batch}x{height}x{width}x3"
        command = [program, f"--loadEngine={file}", shapes, "--useCudaGraph", "--infStreams=2", "--duration=3", "--warmUp=500"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return trtexec_figures(done.stdout, batch) or {"left_out": (lines or ["no output"])[-1]}


def trtexec_figures(text: str, batch: int) -> Row:
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


class _OneAtATime:
    """An engine of which only one batch is in flight."""

    in_flight = 1

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
