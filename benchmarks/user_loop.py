"""A simple loop as many users write it: OpenCV, ONNX Runtime with its defaults, one file after the other.

python benchmarks/user_loop.py --model FILE.onnx --out FILE.jsonl VIDEO...
"""

import argparse
import json
import resource
import sys
import time

import cv2
import numpy as np
import onnxruntime as ort

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("videos", nargs="+")
args = parser.parse_args()

session = ort.InferenceSession(args.model, providers=["CPUExecutionProvider"])
card = json.loads(session.get_modelmeta().custom_metadata_map["vision_infer.card"])
input_w, input_h = card["input"]["width"], card["input"]["height"]
frames = detections = 0
# Every program of the comparison runs its model once before the measurement.
session.run(None, {"images": np.zeros((1, input_h, input_w, 3), np.uint8)})
started = time.perf_counter()
with open(args.out, "w", encoding="utf-8") as out:
    for path in args.videos:
        capture = cv2.VideoCapture(path)
        index = 0
        while True:
            ok, image = capture.read()
            if not ok:
                break
            height, width = image.shape[:2]
            scale = min(input_w / width, input_h / height)
            w, h = round(width * scale), round(height * scale)
            x, y = ((input_w - w) // 2, (input_h - h) // 2) if card["fit"] == "center" else (0, 0)
            images = np.full((1, input_h, input_w, 3), card["fill"], np.uint8)
            images[0, y : y + h, x : x + w] = cv2.cvtColor(cv2.resize(image, (w, h)), cv2.COLOR_BGR2RGB)
            boxes, scores, class_ids = (output[0] for output in session.run(["boxes", "scores", "class_ids"], {"images": images}))
            sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            kept = cv2.dnn.NMSBoxesBatched(sizes.tolist(), scores.tolist(), class_ids.tolist(), card["confidence"], card["iou"])
            found = []
            for i in np.array(kept, int).flatten():
                box = (boxes[i] - (x, y, x, y)) / scale
                label = card["labels"][class_ids[i]] if card["labels"] else str(class_ids[i])
                found.append({"class_id": int(class_ids[i]), "label": label, "score": float(scores[i]), "box": box.tolist()})
            out.write(json.dumps({"stream": path, "frame": index, "detections": found}) + "\n")
            index += 1
            frames += 1
            detections += len(found)
        capture.release()
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
summary = {"frames": frames, "seconds": seconds, "cpu_seconds": time.process_time(), "peak_rss_bytes": peak}
print(json.dumps(summary | {"detections": detections}))
