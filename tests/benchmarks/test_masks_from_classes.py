"""The bundled detector, joined with a model of the classes of pixels: the masks are the pixels of the box's class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.masks_from_classes import SIDE, VOC, join
from vision_infer.core.errors import ModelError
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.importing import ImportRequest, import_model

pytest.importorskip("onnxruntime")


def classes_of_pixels(last: str = "Resize") -> onnx.ModelProto:
    """A convolution that gives 21 scores at an eighth of the size, which are enlarged before the best is chosen."""
    weight = np.random.default_rng(0).normal(0, 0.1, (len(VOC), 3, 8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["scores"], strides=[8, 8]),
        helper.make_node("Resize", ["scores", "", "scales"], ["large"], mode="linear"),
        helper.make_node("ArgMax", ["large" if last == "Resize" else "scores"], ["best"], axis=1, keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("best", TensorProto.INT64, [1, None, None])]
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([1, 1, 8, 8], np.float32), "scales")]
    graph = helper.make_graph(nodes, "classes", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_mask_is_where_the_class_of_the_box_is_the_best(tmp_path: Path) -> None:
    onnx.save(join(classes_of_pixels()), str(tmp_path / "joined.onnx"))
    path = import_model(ImportRequest(tmp_path / "joined.onnx", "masks", model_dir=tmp_path / "models"))
    images = np.random.default_rng(0).integers(0, 255, (2, 416, 416, 3), np.uint8)
    found = RawSession(path).run({"images": images})
    assert found["prototypes"].shape == (2, len(VOC), 64, 64)
    assert ((found["prototypes"] > 0).sum(axis=1) == 1).all()  # each pixel has one class
    person = found["class_ids"] == 0
    assert (found["coefficients"][person].argmax(axis=1) == VOC.index("person")).all()
    without = found["coefficients"].max(axis=2) == 0
    assert without.any()
    assert (found["scores"][without] == 0).all()


def test_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="does not end as DeepLabV3"):
        join(classes_of_pixels(last="Conv"))
