"""Damaged, foreign, too new or too old files: a clear error each, and no files left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support import raw_networks as raw
from vision_infer.core.errors import ModelError
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.model.network import prepare_network
from vision_infer.model.reading import read_onnx


def refused(path: Path, folder: Path, message: str, head: str | None = None) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        import_model(ImportRequest(path, "mine", head=head, model_dir=folder / "models"))
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert not (folder / "models").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_an_incomplete_file_is_refused(share: float, tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, tmp_path, "not an ONNX file|is not whole")


def test_a_file_that_ends_between_two_parts_is_refused(tmp_path: Path) -> None:
    """Protobuf reads such a file without an error."""
    path = raw.yolov8(tmp_path / "raw.onnx")
    model = onnx.load(path)
    del model.graph.output[:]
    path.write_bytes(model.SerializeToString())
    refused(path, tmp_path, "the file is incomplete: it has no inputs or no outputs")
    model = onnx.load(raw.yolov8(path))
    del model.graph.node[-1]
    path.write_bytes(model.SerializeToString())
    refused(path, tmp_path, "the file is incomplete: no node computes its output 'output0'")


def test_a_newer_operator_set_is_refused(tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx", metadata={"task": "detect"})
    model = onnx.load(path)
    model.opset_import[0].version = 99
    onnx.save(model, path)
    refused(path, tmp_path, r"needs operator set 99, but the installed package onnx supports at most \d+")


def test_an_operator_outside_its_operator_set_is_refused(tmp_path: Path) -> None:
    """ReduceMax takes its axes as an attribute up to set 17, and as an input from 18 on."""
    path = raw.yolov8(tmp_path / "raw.onnx", chosen=True)
    model = onnx.load(path)
    model.opset_import[0].version = 18
    onnx.save(model, path)
    refused(path, tmp_path, "the shapes are inconsistent|not valid ONNX")


def test_an_unknown_operator(tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx")
    model = onnx.load(path)
    model.graph.node[4].op_type = "Convolve"
    onnx.save(model, path)
    refused(path, tmp_path, r"node '.*' has the unknown operator 'Convolve'")


def test_a_model_without_an_image_input_is_refused(tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, path)
    refused(path, tmp_path, "no single input takes images")


def test_a_reshape_with_allowzero_becomes_dynamic(tmp_path: Path) -> None:
    """Newer exporters set allowzero, with which 0 would not copy the batch."""
    path = raw.yolox(tmp_path / "raw.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            node.attribute.append(helper.make_attribute("allowzero", 1))
    onnx.save(model, path)
    network = prepare_network(read_onnx(path), "raw.onnx")
    reshapes = [node for node in network.model.graph.node if node.op_type == "Reshape"]
    shapes = [network.constant(node.input[1]) for node in reshapes]
    assert [int(shape[0]) for shape in shapes if shape is not None] == [0, 0, 0]
    assert not any(node.attribute for node in reshapes)


def test_a_resize_with_a_fixed_batch_becomes_dynamic(tmp_path: Path, run: Any) -> None:
    graph = import_model(ImportRequest(raw.yolox(tmp_path / "raw.onnx", batch=1), "mine", model_dir=tmp_path))
    model = onnx.load(graph)
    resize = next(node for node in model.graph.node if node.op_type == "Resize")
    made = {name: node for node in model.graph.node for name in node.output}
    assert [made[made[resize.input[3]].input[0]].op_type] == ["Shape"]
    pictures = np.random.default_rng(0).integers(0, 256, (3, raw.SIZE.height, raw.SIZE.width, 3), np.uint8)
    together = run(model, {"images": pictures})
    for index in range(3):
        alone = run(model, {"images": pictures[index : index + 1]})
        np.testing.assert_allclose(together["scores"][index], alone["scores"][0], atol=1e-6)


def test_a_batch_that_cannot_become_dynamic_is_reported(tmp_path: Path) -> None:
    """Batch and rows are one number here, and no Reshape begins with the batch."""
    net = raw.Network(batch=2)
    rows = net.reshape(net.op("Transpose", net.features()[2], perm=[1, 0, 2, 3]), 16, 2 * 15)
    file = net.save(tmp_path / "raw.onnx", {"embedding": net.op("Transpose", rows, perm=[1, 0])})
    refused(file, tmp_path, r"the batch of 'embedding' is fixed \(30\)")


def test_constants_of_other_types_are_not_changed(tmp_path: Path) -> None:
    path = raw.yolox(tmp_path / "raw.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1.0, 2.0]), "unread"))
    onnx.save(model, path)
    import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))
