# mypy: ignore-errors
"""Ultralytics on files: ``predict(stream=True)``, JSON rows like the others; runs in the environment of Ultralytics.

    PYTHON ultralytics_files.py --model FILE.onnx|FILE.pt --size H W --out FILE.jsonl VIDEO...

Its best settings: results as a generator, no drawing, no saving, no output per frame. With ONNX each frame is scaled to the input
size of the model, with PyTorch weights (its default) to the smallest size that contains it.
"""

import argparse
import json
import resource
import time

import cv2
from ultralytics import YOLO

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--size", type=int, nargs=2, required=True)
parser.add_argument("--out", required=True)
parser.add_argument("videos", nargs="+")
args = parser.parse_args()

options = {
    "imgsz": args.size,
    "rect": not args.model.endswith(".onnx"),
    "conf": 0.35,
    "iou": 0.6,
    "verbose": False,
    "device": "cpu",
}
model = YOLO(args.model, task="detect")
# Every program of the comparison runs its model once before the measurement; here with an image of the size of the frames, to
# which PyTorch weights adapt their input.
_, image = cv2.VideoCapture(args.videos[0]).read()
model.predict(image, **options)
frames = detections = 0
started = time.perf_counter()
with open(args.out, "w", encoding="utf-8") as out:
    for path in args.videos:
        for index, result in enumerate(model.predict(path, stream=True, **options)):
            boxes = result.boxes
            found = [
                {"class_id": int(kind), "label": result.names[int(kind)], "score": score, "box": box}
                for box, score, kind in zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True)
            ]
            out.write(json.dumps({"stream": path, "frame": index, "detections": found}) + "\n")
            frames += 1
            detections += len(found)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"frames": frames, "seconds": seconds, "peak_rss_bytes": peak, "detections": detections}))
