"""Compare a whole run with the limit that its stages set: cores / Σ CPU seconds per frame.

Each stage runs alone on all cores, so that its cost includes the contention for caches and memory of a whole run; the CPU time is
that of the threads. Then the whole command runs on the same files. Each round measures both.

    python -m benchmarks.stage_cost [--rounds 5] [--frames 300]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av

from benchmarks.inputs import COMMAND, FP32, RESULTS, InputMissingError, clip, copies, graph
from benchmarks.machine import describe_machine, source_line
from benchmarks.measure import measure
from vision_infer.analyze.select import select
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace
from vision_infer.engine.device import available_cpus
from vision_infer.engine.engine import Engine, RawResults
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.pipeline.lanes.lane import Lane, make_selector
from vision_infer.stream.image import VideoImage

STAGES = ("decode", "preprocess", "inference", "postprocess", "write")
Work = Callable[[int], None]
"""Runs a stage for the next frame of a thread; the argument is the number of the thread."""


def cpu_ms(make: Callable[[], Work], threads: int, frames: int) -> float:
    """Return the CPU milliseconds per frame of a stage that runs on all cores.

    Args:
        make: Creates the work of a thread.
        threads: The number of threads.
        frames: The number of frames for each thread.
    """
    spent = [0.0] * threads
    ready = threading.Barrier(threads)

    def run(number: int) -> None:
        work = make()
        for _ in range(5):
            work(number)
        ready.wait()
        begin = time.thread_time()
        for _ in range(frames):
            work(number)
        spent[number] = time.thread_time() - begin

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 1000 * sum(spent) / (threads * frames)


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    while True:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.thread_type = "NONE"
            yield from container.decode(stream)


class Stages:
    """The separate stages of a run on one clip with one engine."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._lane = Lane("main", engine, make_selector(engine.card, None, None, None))
        frames = list(itertools.islice(_decoded(path), 32))
        self._images = [VideoImage(frame) for frame in frames]
        self._size = Size(frames[0].width, frames[0].height)
        self._raws = [self._infer(image) for image in self._images]
        self._found = [self._select(raw) for raw in self._raws]

    def _letterbox(self) -> Letterbox:
        return self._lane.letterbox(self._size)

    def _infer(self, image: VideoImage) -> RawResults:
        loan = self._engine.lend(1)
        image.write_into(loan.slots[0], self._letterbox())
        return self._engine.collect(self._engine.submit(loan))

    def _select(self, raw: RawResults) -> Detections:
        outputs = raw.outputs
        return select(outputs, [self._letterbox()], self._lane.selector)[0]

    def decode(self) -> Work:
        """Decode the next frame with a separate decoder."""
        frames = _decoded(self._path)
        return lambda _: (next(frames), None)[1]

    def preprocess(self) -> Work:
        """Write an image into a slot."""
        images = itertools.cycle(self._images)

        def work(_: int) -> None:
            loan = self._engine.lend(1)
            next(images).write_into(loan.slots[0], self._letterbox())
            self._engine.release(loan)

        return work

    def inference(self) -> Work:
        """Run the engine on the content of the slot."""
        return lambda _: (self._engine.collect(self._engine.submit(self._engine.lend(1))), None)[1]

    def postprocess(self) -> Work:
        """Select the detections."""
        raws = itertools.cycle(self._raws)
        return lambda _: (self._select(next(raws)), None)[1]

    def write(self) -> Work:
        """Create a row and write it."""
        found = itertools.cycle(self._found)
        file = tempfile.TemporaryFile("w", encoding="utf-8")  # noqa: SIM115 - must stay open as long as the work

        def work(_: int) -> None:
            result = Result("clip", 0, 0.0, self._size, "model", "engine", next(found), Trace().latency())
            file.write(result.to_json() + "\n")

        return work


def whole_run(model: Path, videos: list[Path], out: Path) -> float:
    """Frames a second of the command, over its own clock: first open to last result written."""
    words = [
        str(COMMAND),
        "run",
        *map(str, videos),
        "--model",
        str(model),
        *FP32,
        "--out",
        str(out),
        "--overwrite",
        "--json",
        "--quiet",
    ]
    return float(json.loads(measure(words).stdout)["fps"])


def measure_cell(model_name: str, clip_name: str, rounds: int, frames: int) -> list[dict[str, object]]:
    """Measure the limit and the runs with one and four files for a model and a clip."""
    model, source = graph(model_name), clip(clip_name)
    cores = available_cpus()
    costs: list[dict[str, float]] = []
    speeds: dict[int, list[float]] = {1: [], 4: []}
    with tempfile.TemporaryDirectory() as folder, open_engine(model, EngineRequest(workers=cores)) as engine:
        engine.warm_up()
        stages = Stages(engine, source)
        for _ in range(rounds):
            costs.append({name: cpu_ms(getattr(stages, name), cores, frames) for name in STAGES})
            for count in speeds:
                videos = [source] if count == 1 else copies(source, count)
                speeds[count].append(whole_run(model, videos, Path(folder) / "rows.jsonl"))
    limits = [1000 * cores / sum(cost.values()) for cost in costs]
    typical = {name: statistics.median(cost[name] for cost in costs) for name in STAGES}
    return [
        {
            "network": model_name,
            "clip": clip_name,
            "files": count,
            "stage_cpu_ms": typical,
            "limit_fps": statistics.median(limits),
            "run_fps": statistics.median(seen),
            "ratio": statistics.median(speed / limit for speed, limit in zip(seen, limits, strict=True)),
            "ratios": [speed / limit for speed, limit in zip(seen, limits, strict=True)],
        }
        for count, seen in speeds.items()
    ]


def main() -> None:
    """Measure all cells, print the table, and write ``stage_cost.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=100)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    headings = "  ".join(f"{name:>11}" for name in STAGES)
    print(f"{'model':<12}{'clip':<9}{'files':>5}  {headings}  {'limit':>7} {'run':>7} {'ratio':>6}")
    for model_name, clip_name in itertools.product(("nanodet", "yolox-nano"), ("768x432", "1080p")):
        try:
            cells = measure_cell(model_name, clip_name, args.rounds, args.frames)
        except InputMissingError as error:
            print(f"{model_name}, {clip_name}: skipped: {error}")
            continue
        rows += cells
        for row in cells:
            stage_cpu_ms = row["stage_cpu_ms"]
            assert isinstance(stage_cpu_ms, dict)
            shown = "  ".join(f"{stage_cpu_ms[name]:>8.3f} ms" for name in STAGES)
            figures = f"{row['limit_fps']:>7.1f} {row['run_fps']:>7.1f} {row['ratio']:>6.3f}"
            print(f"{model_name:<12}{clip_name:<9}{row['files']:>5}  {shown}  {figures}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    print(source_line(machine))
    report = {"machine": machine, "rounds": args.rounds, "cells": rows}
    (RESULTS / "stage_cost.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
