"""Measure what the motion gate saves, and which detections it misses.

Each clip runs twice, with and without ``--gate motion``. A detection of the ungated run with a score of at least 0.5 is missed if
the same frame of the gated run has no detection of its class with an IoU of at least 0.5. The clips are real clips, and scenes
composed of photographs: a still room with grain that a person enters and leaves, a slowly moving person, and a light that is
switched on. The cost of the gate is measured frame by frame, next to that of decoding.

    python -m benchmarks.gate
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import ASSETS, MEDIA, RESULTS, InputMissingError, bikes, clip
from benchmarks.machine import describe_machine, source_line
from vision_infer.analyze.matching import box_overlap
from vision_infer.config.run import run_settings
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.workers.gating import StreamGate
from vision_infer.stream.image import VideoImage

SCORE = 0.5
IOU = 0.5
FPS = 10
SECONDS = 40
ROOM, VISITOR, VISITOR_AT = "000000397133.jpg", "000000252219.jpg", (500, 165, 632, 390)
PHOTOS = ASSETS / "images" / "coco_val_ccby" / "images"
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Outcome:
    """The result of one clip."""

    name: str
    frames: int
    inferred: int
    cpu_s: tuple[float, float]
    """The CPU time without the gate, and with it."""
    found: int
    """The number of detections without the gate."""
    missed: int
    """The number of these that are missing with the gate."""


def clips() -> Iterator[tuple[str, Path]]:
    """Yield the clips that are available here; print the others."""
    for name, file in (
        ("a person walks through a room", "person_h264_10s.mp4"),
        ("the same as H.265", "person_h265_10s.mp4"),
    ):
        if (ASSETS / "videos" / file).is_file():
            yield name, ASSETS / "videos" / file
        else:
            print(f"left out: {file} is not here: looked in {ASSETS / 'videos'}")
    try:
        yield "bicycles in traffic, everything moves", bikes()
    except InputMissingError as error:
        print(f"left out: {error}")
    if not (PHOTOS / ROOM).is_file():
        print(f"left out: the scenes composed of photographs: {ROOM} is not here: looked in {PHOTOS}")
        return
    for name, where in SCENES.items():
        yield name, scene(name, where)


def _enters_and_stops(at_s: float) -> tuple[float, float]:
    """Return the position of the visitor in pixels from the left (1000 is outside the image), and the brightness."""
    if at_s < 12 or at_s > 34:
        return 1000, 1.0
    if at_s < 18:
        return 640 - (at_s - 12) * 75, 1.0
    return (190, 1.0) if at_s < 28 else (190 + (at_s - 28) * 75, 1.0)


SCENES: dict[str, Callable[[float], tuple[float, float]]] = {
    "a still room with grain": lambda _: (1000, 1.0),
    "a person enters, stops for ten seconds, leaves": _enters_and_stops,
    "a person moves 4 pixels per second": lambda at_s: (200 + 4 * at_s, 1.0),
    "a person moves 1 pixel per second": lambda at_s: (200 + at_s, 1.0),
    "the light is switched on": lambda at_s: (200, 0.45 if at_s < 20 else 1.0),
}


def scene(name: str, where: Callable[[float], tuple[float, float]]) -> Path:
    """Return a clip of a photograph with grain into which a visitor is pasted at a moving position; H.264, made once."""
    path = MEDIA / f"gate-{list(SCENES).index(name)}.mp4"
    if path.is_file():
        return path
    MEDIA.mkdir(parents=True, exist_ok=True)
    room: Image = np.asarray(cv2.imread(str(PHOTOS / ROOM)), np.uint8)[:416, :640]
    x1, y1, x2, y2 = VISITOR_AT
    visitor: Image = np.asarray(cv2.imread(str(PHOTOS / VISITOR)), np.uint8)[y1:y2, x1:x2]
    random = np.random.default_rng(1)
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(FPS), options={"preset": "veryfast", "crf": "23", "g": "30"})
        stream.width, stream.height, stream.pix_fmt = room.shape[1], room.shape[0], "yuv420p"
        for number in range(SECONDS * FPS):
            left, light = where(number / FPS)
            image = room.copy()
            _paste(image, visitor, left)
            grainy = image * light + random.normal(0, 4, image.shape[:2])[..., None]
            frame = av.VideoFrame.from_ndarray(np.clip(grainy, 0, 255).astype(np.uint8), "bgr24").reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    part.rename(path)
    return path


def _paste(image: Image, visitor: Image, left: float) -> None:
    """Paste an image into another at a position with subpixel precision."""
    height, width = visitor.shape[:2]
    shift = np.array([[1, 0, left], [0, 1, 150]], np.float32)
    size = (image.shape[1], image.shape[0])
    mask = cv2.warpAffine(np.ones((height, width), np.float32), shift, size)[..., None]
    pasted = cv2.warpAffine(visitor, shift, size)
    image[:] = (image * (1 - mask) + pasted * mask).astype(np.uint8)


def compare(name: str, path: Path) -> Outcome:
    """Run a clip without the gate and with it."""
    with tempfile.TemporaryDirectory() as folder:
        rows: list[list[dict[str, Any]]] = []
        cpu, inferred = [], 0
        for gate in (None, "motion"):
            out = Path(folder) / f"{gate}.jsonl"
            settings = run_settings(sources=(str(path),), out=(str(out),), engine="onnxruntime-cpu-fp32", gate=gate)
            summary = run(settings, threading.Event())
            rows.append([json.loads(line) for line in out.read_text().splitlines()])
            cpu.append(summary.cpu_seconds)
            inferred = summary.frames
    plain, gated = rows
    assert [row["frame"] for row in plain] == [row["frame"] for row in gated]
    found = missed = 0
    for row, other in zip(plain, gated, strict=True):
        good = [detection for detection in row["detections"] if detection["score"] >= SCORE]
        found += len(good)
        missed += sum(not _matched(detection, other["detections"]) for detection in good)
    return Outcome(name, len(plain), inferred, (cpu[0], cpu[1]), found, missed)


def _matched(detection: dict[str, Any], others: list[dict[str, Any]]) -> bool:
    boxes = [other["box"] for other in others if other["class_id"] == detection["class_id"]]
    return bool(boxes) and float(box_overlap(np.array([detection["box"]]), np.array(boxes)).max()) >= IOU


def cost() -> list[tuple[str, float, float]]:
    """Return the CPU microseconds per frame of decoding and of the gate by clip size, at 25 frames/s."""
    found = []
    for name in ("768x432", "1080p"):
        gate = StreamGate(5.0, None)
        decoding: list[int] = []
        gating: list[int] = []
        with av.open(str(clip(name))) as container:
            container.streams.video[0].thread_type = "NONE"
            frames = container.decode(video=0)
            while True:
                begin = time.thread_time_ns()
                frame = next(frames, None)
                decoded = time.thread_time_ns()
                if frame is None:
                    break
                gate.wants(VideoImage(frame), len(gating) * 40_000_000)
                gating.append(time.thread_time_ns() - decoded)
                decoding.append(decoded - begin)
        found.append((name, statistics.mean(decoding) / 1e3, statistics.mean(gating) / 1e3))
    return found


def table(outcomes: list[Outcome]) -> str:
    """Return the table of the documentation."""
    lines = ["| Clip | Frames | Inferred | CPU | Detections | Missed |", "| --- | --- | --- | --- | --- | --- |"]
    for row in outcomes:
        saved = 1 - row.cpu_s[1] / row.cpu_s[0]
        missed = f"{row.missed} ({row.missed / row.found:.1%})" if row.found else "–"
        lines.append(
            f"| {row.name} | {row.frames} | {row.inferred} ({row.inferred / row.frames:.0%}) | "
            f"{row.cpu_s[0]:.1f} → {row.cpu_s[1]:.1f} s ({-saved:+.0%}) | {row.found} | {missed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all clips, print the tables, and write ``gate.json``."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    machine = describe_machine()
    print(f"{source_line(machine)} Load before: {machine['load_before']}\n")
    outcomes = []
    for name, path in clips():
        outcomes.append(compare(name, path))
        print(f"  {outcomes[-1]}", flush=True)
    print("\n" + table(outcomes) + "\n")
    costs = cost()
    for name, decoding, gating in costs:
        print(f"{name}: decoding {decoding:.0f} µs per frame, the gate {gating:.0f} µs ({gating / decoding:.1%})")
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "clips": [asdict(outcome) for outcome in outcomes], "cost_us": costs}
    (RESULTS / "gate.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
