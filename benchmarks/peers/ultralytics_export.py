# mypy: ignore-errors
"""Export the model of the comparison: YOLO11n, as PyTorch weights and FP32 ONNX; runs in the environment of Ultralytics.

    PYTHON ultralytics_export.py FOLDER

The weights are random, because trained weights are not part of any package: the arithmetic is the same, but there are no
detections. To use trained weights, put ``yolo11n.pt`` into FOLDER first.
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
