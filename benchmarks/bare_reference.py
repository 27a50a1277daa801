"""The best plain program for one machine: the reference for the cost that the package adds.

It has one decoding thread for each file, one bounded queue, several single-threaded ONNX Runtime sessions (two by default), one
scaler for each worker, NMS in NumPy, and writes rows in the order of each file. It has no options, statistics, live streams or
recovery. It uses the contract of the deployment graph and nothing else of the package.

    python benchmarks/bare_reference.py --model FILE.onnx --out FILE.jsonl VIDEO...
"""

import argparse
import json
import os
import queue
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import av
import numpy as np
import onnxruntime as ort
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

Item = tuple[str, int, av.VideoFrame]


class Writer:
    """Writes rows in the order of each file; workers may deliver them in any order."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.lock = out, threading.Lock()
        self.next: dict[str, int] = {}
        self.early: dict[tuple[str, int], str] = {}
        self.frames = self.detections = 0

    def put(self, name: str, index: int, row: str, detections: int) -> None:
        with self.lock:
            self.frames += 1
            self.detections += detections
            self.early[name, index] = row
            turn = self.next.get(name, 0)
            while (ready := self.early.pop((name, turn), None)) is not None:
                self.out.write(ready)
                turn += 1
            self.next[name] = turn


def make_session(model: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def decode(name: str, path: str, frames: queue.Queue[Item | None]) -> None:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            frames.put((name, index, frame))


def nms(boxes: NDArray[np.float32], class_ids: NDArray[np.int32], iou: float) -> list[int]:
    """Return the indices that class-aware greedy NMS keeps; boxes are sorted by descending score."""
    x1, y1, x2, y2 = (boxes.astype(np.float64) + class_ids[:, None] * 8192.0).T
    area = (x2 - x1) * (y2 - y1)
    remaining, kept = np.arange(len(boxes)), []
    while remaining.size:
        best, remaining = remaining[0], remaining[1:]
        kept.append(int(best))
        width = np.minimum(x2[best], x2[remaining]) - np.maximum(x1[best], x1[remaining])
        height = np.minimum(y2[best], y2[remaining]) - np.maximum(y1[best], y1[remaining])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        remaining = remaining[overlap <= iou * (area[best] + area[remaining] - overlap)]
    return kept


class Worker:
    """A thread's session, scaler and input buffer."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.card: dict[str, Any] = json.loads(self.session.get_modelmeta().custom_metadata_map["vision_infer.card"])
        self.width, self.height = self.card["input"]["width"], self.card["input"]["height"]
        self.labels = {number: json.dumps(label) for number, label in enumerate(self.card["labels"] or ())}
        self.scaler = VideoReformatter()
        self.images = np.zeros((1, self.height, self.width, 3), np.uint8)
        self.layout: tuple[int, int, int, int] | None = None

    def preprocess(self, frame: av.VideoFrame) -> tuple[int, int, int, int]:
        scale = min(self.width / frame.width, self.height / frame.height)
        width, height = round(frame.width * scale), round(frame.height * scale)
        if self.card["fit"] == "stretch":
            width, height = self.width, self.height
        centered = self.card["fit"] == "center"
        x, y = ((self.width - width) // 2, (self.height - height) // 2) if centered else (0, 0)
        if self.layout != (x, y, width, height):
            self.layout = (x, y, width, height)
            self.images[:] = self.card["fill"]
        small = self.scaler.reformat(frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1)
        plane = small.planes[0]
        pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)[:, : width * 3]
        self.images[0, y : y + height, x : x + width] = pixels.reshape(height, width, 3)
        return self.layout

    def row(self, name: str, index: int, frame: av.VideoFrame) -> tuple[str, int]:
        x, y, width, height = self.preprocess(frame)
        outputs = self.session.run(["boxes", "scores", "class_ids"], {"images": self.images})
        passing = outputs[1][0] >= self.card["confidence"]
        boxes, scores, class_ids = (output[0][passing] for output in outputs)
        order = np.argsort(-scores, kind="stable")
        boxes, scores, class_ids = boxes[order], scores[order], class_ids[order]
        if self.card["iou"] is not None:
            kept = nms(boxes, class_ids, self.card["iou"])
            boxes, scores, class_ids = boxes[kept], scores[kept], class_ids[kept]
        scale = (frame.width / width, frame.height / height) * 2
        boxes = ((boxes - (x, y, x, y)) * scale).clip(0, (frame.width, frame.height) * 2)
        found = ", ".join(
            '{"class_id": %d, "label": %s, "score": %.4f, "box": [%.2f, %.2f, %.2f, %.2f]}'
            % (c, self.labels.get(c) or f'"{c}"', s, *box)
            for c, s, box in zip(class_ids.tolist(), scores.tolist(), boxes.tolist(), strict=True)
        )
        head = f'{{"stream": "{name}", "frame": {index}, "pts_s": {frame.time}, "width": {frame.width}, "height": {frame.height}'
        return f'{head}, "detections": [{found}]}}\n', len(scores)

    def work(self, frames: queue.Queue[Item | None], writer: Writer) -> None:
        while (item := frames.get()) is not None:
            row, detections = self.row(*item)
            writer.put(item[0], item[1], row, detections)


def exit_on_error(error: threading.ExceptHookArgs) -> None:
    """End the program when a thread fails; otherwise the other threads would wait forever."""
    print(f"{error.exc_type.__name__}: {error.exc_value}", file=sys.stderr, flush=True)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sessions", type=int, default=2, help="Number of sessions; workers share them if there are fewer.")
    parser.add_argument("videos", nargs="+")
    args = parser.parse_args()
    threading.excepthook = exit_on_error
    sessions = [make_session(args.model) for _ in range(args.sessions)]
    workers = [Worker(sessions[number % args.sessions]) for number in range(args.workers)]
    frames: queue.Queue[Item | None] = queue.Queue(maxsize=4)
    for worker in workers:  # every program of the comparison runs its model once before the measurement
        worker.session.run(None, {"images": worker.images})
    started = time.perf_counter()
    with open(args.out, "w", encoding="utf-8") as out:
        writer = Writer(out)
        decoding = [threading.Thread(target=decode, args=(Path(path).stem, path, frames)) for path in args.videos]
        working = [threading.Thread(target=worker.work, args=(frames, writer)) for worker in workers]
        for thread in decoding + working:
            thread.start()
        for thread in decoding:
            thread.join()
        for _ in working:
            frames.put(None)
        for thread in working:
            thread.join()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    summary = {"frames": writer.frames, "seconds": seconds, "cpu_seconds": time.process_time(), "peak_rss_bytes": peak}
    print(json.dumps(summary | {"detections": writer.detections}))


if __name__ == "__main__":
    main()
