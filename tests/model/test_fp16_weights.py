"""Weights stored as float16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.assets import raw_model
from tests.support.raw_networks import deployment_graph
from vision_infer.core.card import parse_card
from vision_infer.core.geometry import Size
from vision_infer.model.fp16_weights import store_weights_fp16
from vision_infer.model.graph import read_card
from vision_infer.model.heads import find_head

NANODET = find_head("nanodet").DEFAULTS
CARD = parse_card(
    {
        "name": "nanodet",
        "head": "nanodet",
        "input": {"width": 416, "height": 416},
        "color": NANODET.color,
        "mean": NANODET.mean,
        "std": NANODET.std,
    },
    "test",
)


def test_nanodet_has_half_the_size_and_the_same_results(letterboxed: Callable[..., NDArray[np.uint8]], run: Any) -> None:
    graph = deployment_graph(raw_model("nanodet"), CARD)
    stored = store_weights_fp16(graph, tolerance=0)
    assert stored.ByteSize() < 0.53 * graph.ByteSize()
    pictures = {"images": letterboxed(2, Size(416, 416), "center", (0, 0, 0))}
    before, after = run(graph, pictures), run(stored, pictures)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert read_card(stored, "x") == CARD
    assert stored.graph.node[0].input[0] == "images"
    onnx.checker.check_model(stored, full_check=True)


def weights_model(**weights: NDArray[Any]) -> onnx.ModelProto:
    """A graph that adds its weights to its input."""
    nodes, last = [], "x"
    for name in weights:
        nodes.append(helper.make_node("Add", [last, name], [f"after_{name}"], name=f"network/{name}"))
        last = f"after_{name}"
    constants = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2048]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stored_names(model: onnx.ModelProto) -> set[str]:
    prefix = "vision_infer/fp16/"
    return {tensor.name.removeprefix(prefix) for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}


def test_only_large_tensors_are_stored_as_float16(run: Any) -> None:
    exact = np.linspace(-1, 1, 2049)[:2048].astype(np.float16).astype(np.float32)
    rounded = np.linspace(0.1, 0.7, 2048).astype(np.float32)
    odd = {"large": exact * 1e6, "nan": exact * np.nan, "one": np.ones(1, np.float32)}
    model = weights_model(exact=exact, rounded=rounded, **odd)
    model.graph.initializer.append(numpy_helper.from_array(exact, "vision_infer/centres"))
    untouched = model.SerializeToString()
    assert stored_names(store_weights_fp16(model)) == {"exact", "rounded"}
    assert stored_names(store_weights_fp16(model, tolerance=0)) == {"exact"}
    assert stored_names(store_weights_fp16(model, tolerance=1e-4)) == {"exact"}
    assert model.SerializeToString() == untouched


def test_the_rounding_stays_within_the_tolerance(run: Any) -> None:
    weights = np.random.default_rng(0).normal(0, 3, 2048).astype(np.float32)
    model = weights_model(weights=weights)
    zero = {"x": np.zeros(2048, np.float32)}
    difference = np.abs(run(store_weights_fp16(model), zero)["after_weights"] - weights).max()
    assert 0 < difference <= 2.0**-11 * np.abs(weights).max()


@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_other_types_are_not_changed(kind: type) -> None:
    model = weights_model(weights=np.ones(2048, kind))
    assert stored_names(store_weights_fp16(model)) == set()
