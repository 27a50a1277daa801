# mypy: ignore-errors
"""Ultralytics on cameras: ``predict(stream=True)`` with a file of streams; runs in the environment of Ultralytics.

    PYTHON ultralytics_live.py --model FILE --size H W --seconds S URL...

Its best settings: the newest frame of each camera (``stream_buffer=False``), all cameras in one batch, no drawing, no output.
"""

import argparse
import os
import sys
import tempfile

from ultralytics import YOLO

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from live_meter import Meter

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--size", type=int, nargs=2, required=True)
parser.add_argument("--seconds", type=float, required=True)
parser.add_argument("urls", nargs="+")
args = parser.parse_args()

os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
with tempfile.NamedTemporaryFile("w", suffix=".streams") as streams:
    streams.write("\n".join(args.urls))
    streams.flush()
    model = YOLO(args.model, task="detect")
    results = model.predict(streams.name, stream=True, imgsz=args.size, conf=0.35, iou=0.6, verbose=False, device="cpu")
    meter = Meter(args.seconds)
    for count, result in enumerate(results):  # camera after camera, in the order of the file
        meter.done(args.urls[count % len(args.urls)], result.orig_img[:, :, 1])
        if meter.over:
            break
    meter.report()
sys.stdout.flush()
os._exit(0)  # its reading threads do not end by themselves
