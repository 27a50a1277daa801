# mypy: ignore-errors
"""Makes the network that all are measured with: YOLO11n, as PyTorch weights and FP32 ONNX; run by Ultralytics' own interpreter.

    PYTHON ultralytics_export.py FOLDER

The weights are random, for trained ones are not part of any package: the arithmetic is the same, and nothing is found. Who has
``yolo11n.pt`` puts it into FOLDER before.
"""

import shutil
import sys
from pathlib import Path

import torch
from ultralytics import YOLO

folder = Path(sys.argv[1])
weights = folder / "yolo11n.pt"
if not weights.is_file():
    torch.manual_seed(0)
    YOLO("yolo11n.yaml").save(weights)
for name, size, dynamic in (
    ("yolo11n-640x640", 640, False),
    ("yolo11n-384x640", [384, 640], False),
    ("yolo11n-batches", [384, 640], True),
):
    made = YOLO(weights).export(format="onnx", imgsz=size, dynamic=dynamic, opset=17, verbose=False)
    shutil.move(made, folder / f"{name}.onnx")
