"""Measure the CPU cost of the pipeline itself: prepared images, an engine that computes nothing, JSON rows.

Decoding, conversion and inference are not included: the figure is the CPU time per frame of scheduling, batching, selection
(NMS), ordering, latency records and writing. The control is a plain loop with the same selection and rows but without the
pipeline; it runs in the same process, in turn with the pipeline.

    python -m benchmarks.own_cost [--frames 20000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import RESULTS
from benchmarks.machine import describe_machine, source_line
from vision_infer.analyze.select import Selector, select
from vision_infer.core.card import InputSize, ModelCard
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Slot
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace
from vision_infer.engine.engine import Engine
from vision_infer.engine.runtimes.null import NullEngine
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.files.jsonl import JsonlSink
from vision_infer.sink.sink import OutputSpec, Sink
from vision_infer.stream.source import ReadReport, SourceSpec, StreamInfo

SIZE = Size(1920, 1080)
DETECTIONS = 5
CARD = ModelCard(name="null", input=InputSize(width=416, height=416), labels=("person", "car"))


class ReadyImage:
    """An image that costs nothing."""

    size = SIZE

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Write nothing."""

    def to_rgb(self) -> NDArray[np.uint8]:
        """Fail: no sink needs the image."""
        raise AssertionError("no sink needs the image")


class ReadySource:
    """A file-like stream of prepared images in the usual format: 8 bits, 4:2:0 chroma."""

    live = False
    report = ReadReport()
    info = StreamInfo(SIZE, None, None, None, None, "none", False, bytes_per_pixel=1.5)

    def __init__(self, spec: SourceSpec, frames: int, image: ReadyImage) -> None:
        self.spec = spec
        self._frames = frames
        self._image = image

    def frames(self) -> Iterator[Frame]:
        """Yield the requested number of frames."""
        image = self._image
        for index in range(self._frames):
            yield Frame(self.spec.name, index, index / 25, image, Trace())

    def __enter__(self) -> ReadySource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


_CORNERS = np.array([[10, 100], [12, 101], [100, 150], [200, 200], [300, 120]], np.float32)
OUTPUTS: dict[str, NDArray[Any]] = {
    "boxes": np.concatenate([_CORNERS, _CORNERS + 60], axis=1).astype(np.float32),
    "scores": np.linspace(0.9, 0.5, DETECTIONS, dtype=np.float32),
    "class_ids": np.array([0, 0, 1, 0, 1], np.int32),
}
"""The outputs for each image: five boxes of two classes, one of which NMS removes."""


def make_engine(in_flight: int, batch: int) -> NullEngine:
    """Return an engine that computes nothing."""
    boxes, scores, class_ids = OUTPUTS.values()
    return NullEngine(CARD, boxes, scores, class_ids, tuple(range(1, batch + 1)), in_flight)


def pipeline_us(
    frames: int, streams: int, engine: Engine, out: Path, image: ReadyImage | None = None, sinks: Sequence[Sink] = ()
) -> tuple[float, int]:
    """Return the CPU microseconds per frame of the whole pipeline, and the number of results.

    Args:
        image: The image of each frame.
        sinks: Sinks that follow the file.
    """
    ready = image or ReadyImage()
    lane = Lane("main", engine, Selector(0.35, 0.6, label_names=CARD.labels))
    sink = JsonlSink(OutputSpec("jsonl", str(out), overwrite=True))
    begin = time.process_time()
    supervisor = Supervisor(
        [lane], [sink, *sinks], max_active=streams, open_stream=lambda spec, *_: ReadySource(spec, frames // streams, ready)
    )
    with supervisor:
        for number in range(streams):
            supervisor.add(AddStream(SourceSpec(f"stream-{number}", "video", ("none",)), "main"))
        supervisor.wait()
    used = time.process_time() - begin
    results = sum(record.results for record in supervisor.records())
    return 1e6 * used / results, results


def plain_us(frames: int, out: Path) -> float:
    """Return the CPU microseconds per frame of a plain loop with selection and rows."""
    engine = make_engine(1, 1)
    lane = Lane("main", engine, Selector(0.35, 0.6, label_names=CARD.labels))
    begin = time.process_time()
    with out.open("w", encoding="utf-8") as file:
        for index in range(frames):
            outputs = engine.collect(engine.submit(engine.lend(1))).outputs
            (found,) = select(outputs, [lane.letterbox(SIZE)], lane.selector)
            result = Result("stream-0", index, index / 25, SIZE, CARD.name, engine.name, found, Trace().latency())
            file.write(result.to_json() + "\n")
    return 1e6 * (time.process_time() - begin) / frames


def main() -> None:
    """Measure, print, and write ``own_cost.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cases = {
        "1 stream, batch 1": (1, 2, 1),
        "1 stream, batch 8": (1, 2, 8),
        "4 streams, batch 1": (4, 2, 1),
        "4 streams, batch 8": (4, 2, 8),
        "16 streams, batch 8": (16, 2, 8),
        "16 streams, batch 1": (16, 2, 1),
        "64 streams, batch 8": (64, 2, 8),
        "64 streams, batch 1": (64, 2, 1),
    }
    seen: dict[str, list[float]] = {name: [] for name in ("plain loop", *cases)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        for _ in range(args.rounds):
            seen["plain loop"].append(plain_us(args.frames, out))
            for name, (streams, in_flight, batch) in cases.items():
                seen[name].append(pipeline_us(args.frames, streams, make_engine(in_flight, batch), out)[0])
    # The speed of a machine changes from one sitting to the next, and with it all times. Ratios within a round change less.
    ratios = {name: [value / plain for value, plain in zip(seen[name], seen["plain loop"], strict=True)] for name in cases}
    for name, values in seen.items():
        text = f"{name:<22} {statistics.median(values):7.1f} µs of CPU per frame ({min(values):.1f}–{max(values):.1f})"
        if name in ratios:
            text += f", {statistics.median(ratios[name]):.2f} × the plain loop ({min(ratios[name]):.2f}–{max(ratios[name]):.2f})"
        print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    print(source_line(machine))
    report = {
        "machine": machine,
        "frames": args.frames,
        "detections": DETECTIONS - 1,
        "cpu_us_per_frame": seen,
        "ratio_to_plain_loop": ratios,
    }
    (RESULTS / "own_cost.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
