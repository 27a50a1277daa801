"""The facts of a graph, read from its bytes: the card, and the precision in the name of an engine."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.engine.graphs import tiny_graph
from tests.engine.runtimes import RUNTIMES, open_with
from tests.support.media import ROOT
from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine


def with_nodes(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Any] | None = None) -> Path:
    """Return the graph with additional nodes."""
    model = onnx.load(str(path))
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in (constants or {}).items())
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "x.onnx", card)


def test_the_card_and_float32(graph: Path, card: ModelCard) -> None:
    facts = read_graph_facts(graph)
    assert (facts.card, facts.precision) == (card, "fp32")


@pytest.mark.parametrize("name", ["nanodet-416", "clock"])
def test_weights_that_are_only_stored_as_float16_count_as_float32(name: str) -> None:
    facts = read_graph_facts(ROOT / "models" / name / "model.onnx")
    assert (facts.card.name, facts.precision) == (name, "fp32")


SCALE = {"scale": np.array(0.5, np.float32), "zero": np.array(3, np.uint8)}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_graph_that_quantizes_is_int8(graph: Path, runtime: str) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["share", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
    ]
    path = with_nodes(graph, nodes, SCALE)
    assert read_graph_facts(path).precision == "int8"
    with open_with(runtime, path) as engine:
        assert engine.name == f"{runtime}-cpu-int8"


def test_a_graph_that_quantizes_is_not_computed_in_bfloat16(graph: Path) -> None:
    pytest.importorskip("openvino")
    path = with_nodes(graph, [helper.make_node("QuantizeLinear", ["share", "scale", "zero"], ["q"])], SCALE)
    with pytest.raises(EngineError, match="graph in int8"):
        open_engine(path, EngineRequest("openvino", compute="bf16"))


@pytest.mark.parametrize(
    ("node", "precision"),
    [
        (helper.make_node("DequantizeLinear", ["weights8", "scale", "zero"], ["w"]), "int8"),
        (helper.make_node("QLinearConv", ["share"], ["w"]), "int8"),
        (helper.make_node("ConvInteger", ["share"], ["w"]), "int8"),
        (helper.make_node("Cast", ["share"], ["w"], to=TensorProto.FLOAT16), "fp16"),
        (helper.make_node("Cast", ["share"], ["w"], to=TensorProto.BFLOAT16), "bf16"),
        (helper.make_node("Cast", ["share"], ["w"], to=TensorProto.FLOAT), "fp32"),
        (helper.make_node("Conv", ["share", "half"], ["w"]), "fp16"),
        (helper.make_node("Cast", ["half"], ["w"], to=TensorProto.FLOAT), "fp32"),
        (helper.make_node("Identity", ["share"], ["QuantizeLinear"], name="QuantizeLinear"), "fp32"),
    ],
)
def test_the_precision_by_a_single_node(graph: Path, node: onnx.NodeProto, precision: str) -> None:
    constants = {**SCALE, "weights8": np.zeros(4, np.uint8), "half": np.zeros(4, np.float16)}
    assert read_graph_facts(with_nodes(graph, [node], constants)).precision == precision


def test_float16_with_weights_before_the_nodes(graph: Path) -> None:
    """In most files the weights follow the nodes, but not in all."""
    path = with_nodes(graph, [helper.make_node("Conv", ["share", "half"], ["w"])], {"half": np.zeros(4, np.float16)})
    content = path.read_bytes()
    model = onnx.load_from_string(content)
    tensors = onnx.GraphProto(initializer=model.graph.initializer).SerializeToString()
    del model.graph.initializer[:]
    rest = model.graph.SerializeToString()
    model.ClearField("graph")
    both = tensors + rest
    length, size = b"", len(both)
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    path.write_bytes(b"\x3a" + length + bytes([size]) + both + model.SerializeToString())
    assert onnx.load(str(path)).graph.node
    assert read_graph_facts(path).precision == "fp16"


@given(st.data())
def test_a_damaged_file_raises_only_model_errors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    card = parse_card({"name": "tiny", "input": {"width": 32, "height": 32}}, "tiny")
    path = tiny_graph(tmp_path_factory.mktemp("damage") / "x.onnx", card)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(ModelError):  # and no other error
        assert read_graph_facts(path).card.input.width >= 1
