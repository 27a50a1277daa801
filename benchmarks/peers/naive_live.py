# mypy: ignore-errors
"""A simple program for cameras as many users write it: a thread for each, OpenCV, one session of ONNX Runtime, all frames.

python benchmarks/peers/naive_live.py --model GRAPH.onnx --seconds S URL...
"""

import argparse
import json
import os
import sys
import threading

import cv2
import numpy as np
import onnxruntime as ort

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from live_meter import Meter

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--seconds", type=float, required=True)
parser.add_argument("urls", nargs="+")
args = parser.parse_args()

session = ort.InferenceSession(args.model, providers=["CPUExecutionProvider"])
card = json.loads(session.get_modelmeta().custom_metadata_map["vision_infer.card"])
input_w, input_h = card["input"]["width"], card["input"]["height"]
captures = [cv2.VideoCapture(url) for url in args.urls]
meter = Meter(args.seconds)


def watch(url: str, capture: cv2.VideoCapture) -> None:
    """Infer every frame of a camera in order."""
    while not meter.over:
        ok, image = capture.read()
        if not ok:
            break
        height, width = image.shape[:2]
        scale = min(input_w / width, input_h / height)
        w, h = round(width * scale), round(height * scale)
        x, y = (input_w - w) // 2, (input_h - h) // 2
        images = np.full((1, input_h, input_w, 3), card["fill"], np.uint8)
        images[0, y : y + h, x : x + w] = cv2.cvtColor(cv2.resize(image, (w, h)), cv2.COLOR_BGR2RGB)
        boxes, scores, class_ids = (output[0] for output in session.run(["boxes", "scores", "class_ids"], {"images": images}))
        sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        cv2.dnn.NMSBoxesBatched(sizes.tolist(), scores.tolist(), class_ids.tolist(), 0.35, 0.6)
        meter.done(url, image[:, :, 1])


threads = [threading.Thread(target=watch, args=pair) for pair in zip(args.urls, captures, strict=True)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
meter.report()
