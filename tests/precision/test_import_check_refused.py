"""Each way in which the verification of an import fails."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.precision.import_cases import refused, verified
from tests.support import raw_networks as raw
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.importing import ImportRequest, Proposal, import_model
from vision_infer.precision.verification.import_check import verify_import

pytest.importorskip("onnxruntime")


def test_scores_of_keypoints_must_be_probabilities(tmp_path: Path) -> None:
    """Six pairs of x and y are as many values as four keypoints with scores."""
    path, file = raw.yolov8(tmp_path / "raw.onnx", more="pose", points=6, keypoint_values=2), tmp_path / "keypoints.yaml"
    file.write_text("names: [a, b, c, d]")
    with pytest.raises(ModelError, match=r"the scores of keypoints are between .*, not 0 to 1.*--keypoints"):
        verified(path, tmp_path / "models", keypoints=file)


def test_wrong_values_reveal_a_wrong_head(tmp_path: Path) -> None:
    # Logits taken for probabilities.
    refused(raw.vector(tmp_path / "raw.onnx"), tmp_path, "classify", "so they are not probabilities", scores="probabilities")
    # Probabilities taken for logits: the reference sees from their values that they are probabilities.
    file = raw.vector(tmp_path / "raw.onnx", end="Softmax")

    def spoil(proposal: Proposal) -> None:
        model = onnx.load(proposal.graphs[raw.SIZE])
        end = next(node for node in model.graph.node if node.output[0] == "scores")
        end.op_type = "Softmax"
        onnx.save(model, proposal.graphs[raw.SIZE])
        verify_import(proposal)

    with pytest.raises(ModelError, match=r"differ from those of the raw model .*values differ by 0\.\d"):
        import_model(ImportRequest(file, "mine", model_dir=tmp_path / "models"), verify=spoil)
    assert not (tmp_path / "models").exists()


def test_wrong_boxes_are_detected(tmp_path: Path) -> None:
    def spoil(proposal: Proposal) -> None:
        model = onnx.load(proposal.graphs[raw.SIZE])
        half = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("vision_infer/half"))
        half.CopyFrom(numpy_helper.from_array(np.array(0.51, np.float32), half.name))
        onnx.save(model, proposal.graphs[raw.SIZE])
        verify_import(proposal)

    with pytest.raises(ModelError, match=r"boxes differ by .* px, values by 0\. Check that the model is of head 'yolov8'"):
        import_model(ImportRequest(raw.yolov8(tmp_path / "raw.onnx"), "mine", model_dir=tmp_path / "models"), verify=spoil)
    assert not (tmp_path / "models").exists()


def test_a_verification_that_takes_too_long_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop of 10^12 steps between the input and the scores."""
    net = raw.Network()
    scores = net.linear(net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1), 16, 10)
    kinds = [("step", onnx.TensorProto.INT64), ("going", onnx.TensorProto.BOOL), ("value", onnx.TensorProto.FLOAT)]
    infos = [helper.make_tensor_value_info(name, kind, [] if kind != onnx.TensorProto.FLOAT else None) for name, kind in kinds]
    steps = [
        helper.make_node("Identity", ["going"], ["on"], name="on"),
        helper.make_node("Neg", ["value"], ["next"], name="next"),
    ]
    ends = [
        helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, None),
    ]
    body = helper.make_graph(steps, "body", infos, ends)
    looped = net.op("Loop", net.constant(np.array(10**12)), net.constant(np.array(True)), scores, body=body)
    file = net.save(tmp_path / "raw.onnx", {"logits": looped})
    session = RawSession(file)
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"raw.onnx: one run takes more than 0\.2 s"):
        session.run({"images": np.zeros((1, 3, 96, 160), np.float32)}, limit_s=0.2)
    assert time.monotonic() - began < 20


def test_nan_values_are_detected(tmp_path: Path) -> None:
    net = raw.Network()
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    file = net.save(tmp_path / "raw.onnx", {"logits": net.linear(net.op("Log", net.op("Neg", pooled)), 16, 10)})
    refused(file, tmp_path, "classify", r"contains NaN")


def test_boxes_as_fractions_of_the_input_are_detected(tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx", transposed=True)
    model = onnx.load(path)
    scale = np.array([*[1 / 1000] * 4, *[1.0] * 7], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scale, "scale"))
    model.graph.node[-1].input[0] = "shares"
    before = model.graph.node[-2].output[0]
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Mul", [before, "scale"], ["shares"], name="shares"))
    onnx.save(model, path)
    refused(path, tmp_path, "yolov8", "fractions of the input instead of pixels")


def test_a_vector_of_zeros_is_detected(tmp_path: Path) -> None:
    net = raw.Network()
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    file = net.save(tmp_path / "raw.onnx", {"embedding": net.op("Mul", pooled, net.floats(0))})
    refused(file, tmp_path, "embed", "is a vector of zeros")


def test_an_unknown_operator_is_reported(tmp_path: Path) -> None:
    net = raw.Network()
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    path = net.save(tmp_path / "raw.onnx", {"logits": net.linear(pooled, 16, 10)})
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("made.up", 1))
    model.graph.node.append(helper.make_node("Unheard", ["images"], ["unread"], domain="made.up", name="unheard"))
    onnx.save(model, path)
    refused(path, tmp_path, "classify", "raw.onnx: ONNX Runtime cannot load it")


def test_a_missing_class_is_reported(tmp_path: Path) -> None:
    def spoil(proposal: Proposal) -> None:
        model = onnx.load(proposal.graphs[raw.SIZE])
        for node in model.graph.node:
            node.output[:] = ["ids_before" if name == "class_ids" else name for name in node.output]
        model.graph.initializer.append(numpy_helper.from_array(np.array(50, np.int32), "far"))
        model.graph.node.append(helper.make_node("Add", ["ids_before", "far"], ["class_ids"], name="spoilt"))
        onnx.save(model, proposal.graphs[raw.SIZE])
        verify_import(proposal)

    with pytest.raises(ModelError, match="a class is missing"):
        import_model(ImportRequest(raw.yolov8(tmp_path / "raw.onnx"), "mine", model_dir=tmp_path / "models"), verify=spoil)


def test_outputs_that_the_reference_cannot_read_are_reported(tmp_path: Path) -> None:
    def spoil(proposal: Proposal) -> None:
        other = raw.yolox(tmp_path / "other.onnx", size=Size(160, 128))
        model = onnx.load(other)
        for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (96, 160), strict=True):
            dim.dim_value = side
        onnx.save(model, proposal.raws[raw.SIZE])
        verify_import(proposal)

    with pytest.raises(ModelError, match=r"cannot be read as those of head 'yolox'|fails on a batch|cannot load"):
        import_model(ImportRequest(raw.yolox(tmp_path / "raw.onnx"), "mine", model_dir=tmp_path / "models"), verify=spoil)
