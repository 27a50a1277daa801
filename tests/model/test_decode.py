"""The top K against brute force, and the pre-processing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from vision_infer.core.card import InputSize, ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.decode import grid, grid_counts, normalize_images, top_pairs
from vision_infer.model.graph import GraphBuilder, tensor_info


def graph_of(builder: GraphBuilder, given: onnx.ValueInfoProto, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    graph = helper.make_graph(builder.nodes, "part", [given], outputs, builder.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", builder.opset)], ir_version=8)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    anchors=st.integers(1, 40),
    classes=st.integers(1, 7),
    candidates=st.integers(1, 60),
    levels=st.sampled_from([3, 20, 100_000]),
    seed=st.integers(0, 2**16),
    opset=st.sampled_from([17, 18]),
)
def test_top_pairs_are_the_exact_k_best_of_all_pairs(
    run: Any, batch: int, anchors: int, classes: int, candidates: int, levels: int, seed: int, opset: int
) -> None:
    # Few levels make many ties, of which any may be chosen: scores are compared, and each pair has to have its score.
    scores = np.random.default_rng(seed).integers(0, levels, (batch, anchors, classes)).astype(np.float32)
    builder = GraphBuilder(opset)
    top = top_pairs(builder, "scores", anchors, classes, candidates)
    outputs = [
        tensor_info(top.scores, TensorProto.FLOAT, "batch", top.count),
        tensor_info(top.class_ids, TensorProto.INT32, "batch", top.count),
        tensor_info(top.anchors, TensorProto.INT64, "batch", top.count),
    ]
    model = graph_of(builder, tensor_info("scores", TensorProto.FLOAT, "batch", anchors, classes), outputs)
    found = run(model, {"scores": scores})
    values, class_ids, chosen = found[top.scores], found[top.class_ids], found[top.anchors]
    assert top.count == min(candidates, anchors * classes)
    for index in range(batch):
        best = np.sort(scores[index].ravel())[::-1][: top.count]
        assert np.array_equal(values[index], best)
        assert np.array_equal(scores[index][chosen[index], class_ids[index]], best)
        assert len(set(zip(chosen[index].tolist(), class_ids[index].tolist(), strict=True))) == top.count


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize(("mean", "std"), [((0, 0, 0), (1, 1, 1)), ((1, 2, 3), (10, 20, 30))])
def test_normalize_images(run: Any, color: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    card = ModelCard.model_validate(
        {"name": "x", "input": InputSize(width=5, height=4), "color": color, "mean": mean, "std": std}
    )
    builder = GraphBuilder()
    name = normalize_images(builder, "images", card, TensorProto.FLOAT)
    model = graph_of(
        builder, tensor_info("images", TensorProto.UINT8, 2, 4, 5, 3), [tensor_info(name, TensorProto.FLOAT, 2, 3, 4, 5)]
    )
    pictures = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    ordered = pictures[..., ::-1] if color == "bgr" else pictures
    expected = ((ordered - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(run(model, {"images": pictures})[name], expected, rtol=1e-6, atol=1e-6)
    operators = [node.op_type for node in builder.nodes]
    assert operators == ["Cast", "Transpose"] + ["Gather"] * (color == "bgr") + ["Sub", "Mul"] * (mean[0] != 0)


def test_the_grid_is_row_by_row_and_includes_partial_cells() -> None:
    cells, steps = grid(Size(20, 9), (8, 16))
    assert grid_counts(Size(20, 9), (8, 16)) == (6, 2)
    assert cells.tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [0, 0], [1, 0]]
    assert steps.ravel().tolist() == [8] * 6 + [16] * 2


def test_a_builder_gives_each_node_a_unique_name() -> None:
    builder = GraphBuilder()
    first, second = builder.add("Relu", "x", name="same"), builder.add("Relu", "x", name="same")
    assert (first, second) == ("vision_infer/same", "vision_infer/same_2")
    builder.rename(second, "out")
    assert [node.output[0] for node in builder.take_nodes()] == [first, "out"]
    assert builder.nodes == []
