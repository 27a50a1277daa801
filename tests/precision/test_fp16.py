"""FP16 graphs: which nodes compute in half precision, and equal results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.precision.tiny import CARD, frame_set, noise_frames, tiny_model
from vision_infer.core.errors import ModelError
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.model.graph import PREFIX, check_contract, finish, infer_shapes, read_card
from vision_infer.precision.quantization.fp16 import float_tensors, large_tensors, to_half
from vision_infer.precision.quantization.int8 import simplify
from vision_infer.precision.quantization.ranges import Activations
from vision_infer.precision.verification.agreement import Judge
from vision_infer.precision.verification.engine_check import open_reference

pytest.importorskip("onnxruntime")

SIMPLE = simplify(tiny_model(), "tiny")


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = infer_shapes(model, "x")
    found = {info.name: info.type.tensor_type.elem_type for info in (*inferred.graph.value_info, *inferred.graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}


def test_the_model_is_half_and_its_border_is_not() -> None:
    half = to_half(SIMPLE, frozenset(), "tiny")
    types = types_of(half.model)
    for node in half.model.graph.node:
        if node.op_type == "Conv":
            assert {types[name] for name in (*node.input, *node.output) if name} == {TensorProto.FLOAT16}, node.name
        elif node.name.startswith(PREFIX) and node.op_type != "Cast":
            assert {types[name] for name in node.output} == {TensorProto.FLOAT}, node.name
    assert half.kept == ()
    assert half.model.ByteSize() < SIMPLE.ByteSize()


def test_the_card_is_kept_and_the_results_agree(tmp_path: Path) -> None:
    half = to_half(SIMPLE, frozenset(), "tiny").model
    assert read_card(half, "x") == CARD.model_copy(update={"precision": "fp16"})
    check_contract(half, CARD, "x")
    onnx.save(half, tmp_path / "half.onnx")
    onnx.save(SIMPLE, tmp_path / "fp32.onnx")
    assert read_graph_facts(tmp_path / "half.onnx").precision == "fp16"
    with open_reference(tmp_path / "fp32.onnx") as fp32, open_reference(tmp_path / "half.onnx") as engine:
        agreement = Judge(fp32, frame_set(noise_frames(100))).compare(engine)
    assert agreement.figures["top1_agreement"] >= 99
    assert agreement.figures["score_difference"] < 1e-3


def test_large_values_stay_in_fp32() -> None:
    seen = {
        "network/conv2": Activations(-1e5, 3.0, np.zeros(1, np.float32)),
        "network/conv3": Activations(-1, 1, np.zeros(1, np.float32)),
    }
    assert large_tensors(seen) == {"network/conv2"}
    half = to_half(SIMPLE, large_tensors(seen), "tiny")
    types = types_of(half.model)
    assert set(half.kept) == {"network/conv2", "network/leaky2"}
    assert types["network/conv2"] == TensorProto.FLOAT
    assert types["network/conv3"] == TensorProto.FLOAT16


def test_weights_that_do_not_fit_stay_in_fp32() -> None:
    half = to_half(simplify(tiny_model(scale=1e6), "tiny"), frozenset(), "tiny")
    assert "network/conv2" in half.kept
    assert types_of(half.model)["network/conv2"] == TensorProto.FLOAT


def test_sums_and_positions_stay_in_fp32() -> None:
    infos = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])]
    scores = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])]
    nodes = [
        helper.make_node("Cast", ["images"], ["vision_infer/x"], "vision_infer/x", to=TensorProto.FLOAT),
        helper.make_node("Relu", ["vision_infer/x"], ["network/r"], "network/r"),
        helper.make_node("Resize", ["network/r", "", "network/scales"], ["network/big"], "network/big", mode="nearest"),
        helper.make_node("ReduceSum", ["network/big", "network/axes"], ["scores"], "network/sum", keepdims=0),
    ]
    constants = [
        helper.make_tensor("network/scales", TensorProto.FLOAT, [4], [1, 2, 2, 1]),
        helper.make_tensor("network/axes", TensorProto.INT64, [2], [1, 2]),
    ]
    graph = helper.make_graph(nodes, "g", infos, scores, constants)
    model = finish(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), CARD, "x")
    half = to_half(model, frozenset(), "x").model
    types = types_of(half)
    assert types["network/scales"] == TensorProto.FLOAT
    assert types["network/big"] == TensorProto.FLOAT16
    assert types["scores"] == TensorProto.FLOAT
    summed = next(node for node in half.graph.node if node.op_type == "ReduceSum")
    assert types[summed.input[0]] == TensorProto.FLOAT


def test_an_output_of_the_raw_model_keeps_its_name_and_type() -> None:
    model = tiny_model()
    model.graph.node[-1].name = "network/softmax"  # as of a network whose head adds nothing
    model.graph.node[-1].op_type = "Sigmoid"
    del model.graph.node[-1].attribute[:]
    half = to_half(model, frozenset(), "x").model
    assert types_of(half)["scores"] == TensorProto.FLOAT
    assert float_tensors(SIMPLE)[0] == "network/conv1"


def test_a_graph_without_nodes_for_fp16_is_an_error() -> None:
    model = tiny_model()
    for node in model.graph.node:
        node.name = f"{PREFIX}{node.name}"
    with pytest.raises(ModelError, match="no node can compute in FP16"):
        to_half(model, frozenset(), "x")
