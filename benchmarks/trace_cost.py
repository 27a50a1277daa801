"""Measure what OpenTelemetry's traces cost per frame, with a receiver in another process that accepts everything.

The pipeline of ``own_cost`` runs in turn without traces (the control) and with 1 % of the frames traced: CPU of the process with
all its threads, which includes building and sending the spans. The sink is timed alone too, because a difference is noisy.

    python -m benchmarks.trace_cost [--frames 20000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.inputs import RESULTS
from benchmarks.machine import describe_machine, source_line
from benchmarks.own_cost import CARD, DETECTIONS, OUTPUTS, ReadyImage, make_engine, pipeline_us
from tests.support.otlp_receiver import OtlpReceiver
from vision_infer.config.service.telemetry import TelemetrySettings
from vision_infer.core.detections import Detections
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace
from vision_infer.sink.otlp.telemetry import Telemetry

RATIOS = (0.0, 0.01, 1.0)
TIMES = tuple(name for name in Trace.__slots__ if name.endswith("_ns"))[:10]
REQUEST = "a request (all others: per frame)"
PART = 5000
"""The number of frames between two requests: five seconds of forty streams with 25 fps."""


def _receive(to: Connection) -> None:
    with OtlpReceiver() as receiver:
        to.send(receiver.url)
        to.recv()


def sink_us(frames: int, endpoint: str, ratio: float) -> tuple[float, float]:
    """Return the CPU microseconds per frame of the sink's call alone, and with writing and sending the spans."""
    sender = Telemetry(TelemetrySettings(endpoint=endpoint, sample_ratio=ratio), {})
    boxes, scores, class_ids = (OUTPUTS[name][: DETECTIONS - 1] for name in ("boxes", "scores", "class_ids"))
    found = Detections(boxes, scores, class_ids, CARD.labels or ())
    pairs: list[tuple[Frame, Result]] = []
    for index in range(frames):
        start = time.monotonic_ns()
        trace = Trace(batch=8)
        for step, name in enumerate(TIMES):
            setattr(trace, name, start + 1000 * step)
        latency = trace.latency()
        frame = Frame("stream-0", index, None, ReadyImage(), trace)
        pairs.append((frame, Result("stream-0", index, None, ReadyImage.size, "null", "null-cpu-none", found, latency)))
    write: Callable[[Frame, Result], None] = sender.frames.write
    called, begin = 0.0, time.process_time()
    for first in range(0, frames, PART):
        start_s = time.process_time()
        for frame, result in pairs[first : first + PART]:
            write(frame, result)
        called += time.process_time() - start_s
        sender.flush(everything=True)
    total = time.process_time() - begin
    sender._client.close()
    return 1e6 * called / frames, 1e6 * total / frames


def request_us(endpoint: str) -> float:
    """Return the CPU microseconds of one request without spans."""
    sender = Telemetry(TelemetrySettings(endpoint=endpoint), {})
    sender._client.post("traces", b"")
    begin = time.process_time()
    for _ in range(100):
        sender._client.post("traces", b"")
    used = time.process_time() - begin
    sender._client.close()
    return 1e4 * used


def show(name: str, values: Sequence[float]) -> None:
    """Print the median and the range."""
    print(f"{name:<44} {statistics.median(values):8.3f} µs of CPU ({min(values):.3f}–{max(values):.3f})")


def main() -> None:
    """Measure, print, and write ``trace_cost.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    ours, theirs = get_context("spawn").Pipe()
    receiver = get_context("spawn").Process(target=_receive, args=(theirs,), daemon=True)
    receiver.start()
    endpoint: str = ours.recv()
    names = [f"{part}, {100 * ratio:g} %" for ratio in RATIOS for part in ("the sink's call", "call, spans and sending")]
    seen: dict[str, list[float]] = {
        name: [] for name in (*names, "pipeline without traces", "pipeline, 1 % traced", REQUEST, "difference")
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        for _ in range(args.rounds):
            for ratio in RATIOS:
                called, total = sink_us(args.frames, endpoint, ratio)
                seen[f"the sink's call, {100 * ratio:g} %"].append(called)
                seen[f"call, spans and sending, {100 * ratio:g} %"].append(total)
            plain = pipeline_us(args.frames, 4, make_engine(2, 8), out)[0]
            sender = Telemetry(TelemetrySettings(endpoint=endpoint), {})
            sender.start()
            traced = pipeline_us(args.frames, 4, make_engine(2, 8), out, sinks=(sender.frames,))[0]
            sender.close()
            seen["pipeline without traces"].append(plain)
            seen["pipeline, 1 % traced"].append(traced)
            seen["difference"].append(traced - plain)
            seen[REQUEST].append(request_us(endpoint))
    for name, values in seen.items():
        show(name, values)
    receiver.terminate()
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    print(source_line(machine))
    report = {"machine": machine, "frames": args.frames, "cpu_us_per_frame": seen}
    (RESULTS / "trace_cost.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
