# mypy: ignore-errors
# ruff: noqa: E402 - the package reads its settings when it is imported
"""Roboflow's ``InferencePipeline`` on files or cameras with a custom inference function; runs in a separate environment.

    PYTHON roboflow_pipeline.py --model GRAPH.onnx (--out FILE.jsonl VIDEO... | --seconds S URL...)

Its own models come from its service, which requires a key and internet access. Its pipeline also accepts a function: this one
runs the same graph as the naive loop, with all frames of a moment in one call. Files run one after the other.
"""

import argparse
import json
import os
import resource
import sys
import threading
import time
import warnings

warnings.filterwarnings("ignore")
for name in ("SAM", "SAM2", "SAM3", "GAZE", "YOLO_WORLD", "CLIP", "DOCTR", "GROUNDINGDINO"):
    os.environ.setdefault(f"CORE_MODEL_{name}_ENABLED", "False")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")

import cv2
import numpy as np
import onnxruntime as ort
from inference import InferencePipeline

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from live_meter import Meter

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--out", default=os.devnull)
parser.add_argument("--seconds", type=float)
parser.add_argument("sources", nargs="+")
args = parser.parse_args()

session = ort.InferenceSession(args.model, providers=["CPUExecutionProvider"])
card = json.loads(session.get_modelmeta().custom_metadata_map["vision_infer.card"])
input_w, input_h = card["input"]["width"], card["input"]["height"]
counts = {"frames": 0, "detections": 0}


def infer(frames):
    """Return the detections of the newest frame of each source."""
    images = np.full((len(frames), input_h, input_w, 3), card["fill"], np.uint8)
    scales = []
    for index, frame in enumerate(frames):
        height, width = frame.image.shape[:2]
        scale = min(input_w / width, input_h / height)
        w, h = round(width * scale), round(height * scale)
        x, y = ((input_w - w) // 2, (input_h - h) // 2) if card["fit"] == "center" else (0, 0)
        images[index, y : y + h, x : x + w] = cv2.cvtColor(cv2.resize(frame.image, (w, h)), cv2.COLOR_BGR2RGB)
        scales.append((x, y, scale))
    outputs = session.run(["boxes", "scores", "class_ids"], {"images": images})
    return [_select(*(output[index] for output in outputs), *scales[index]) for index in range(len(frames))]


def _select(boxes, scores, class_ids, x, y, scale):
    passing = scores >= card["confidence"]
    boxes, scores, class_ids = boxes[passing], scores[passing], class_ids[passing]
    if not len(scores):
        return []
    sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(sizes.tolist(), scores.tolist(), class_ids.tolist(), card["confidence"], card["iou"] or 1.0)
    labels = card["labels"]
    return [
        {"class_id": int(class_ids[i]), "label": labels[class_ids[i]] if labels else "", "score": float(scores[i])}
        | {"box": ((boxes[i] - (x, y, x, y)) / scale).tolist()}
        for i in np.array(kept, int).flatten()
    ]


def pairs(found, frames):
    """Return the detections and the frame of each source; a single source comes without a list."""
    together = zip(found, frames, strict=True) if isinstance(frames, list) else [(found, frames)]
    return [pair for pair in together if pair[1] is not None]


session.run(None, {"images": np.zeros((1, input_h, input_w, 3), np.uint8)})  # warm-up, as in the other programs
if args.seconds is None:
    with open(args.out, "w", encoding="utf-8") as out:

        def write(found, frame):
            """Write a row for each frame."""
            for detections, image in pairs(found, frame):
                out.write(json.dumps({"stream": source, "frame": image.frame_id, "detections": detections}) + "\n")
                counts["frames"] += 1
                counts["detections"] += len(detections)

        # Construction takes no part in the measurement, as in the other programs.
        pipelines = [
            InferencePipeline.init_with_custom_logic(path, on_video_frame=infer, on_prediction=write) for path in args.sources
        ]
        started = time.perf_counter()
        for source, pipeline in zip(args.sources, pipelines, strict=True):  # noqa: B007 - ``write`` reads ``source``
            pipeline.start()
            pipeline.join()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**counts, "seconds": seconds, "peak_rss_bytes": peak}), flush=True)
else:
    meter, over = Meter(args.seconds), threading.Event()

    def note(found, frames):
        """Record completed results."""
        for _, frame in pairs(found, frames):
            meter.done(args.sources[frame.source_id or 0], frame.image[:, :, 1])
        if meter.over:
            over.set()

    pipeline = InferencePipeline.init_with_custom_logic(args.sources, on_video_frame=infer, on_prediction=note)
    pipeline.start(use_main_thread=False)
    over.wait()
    meter.report()
sys.stdout.flush()
os._exit(0)  # its threads do not end by themselves
