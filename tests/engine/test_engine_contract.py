"""Only deployment graphs run, and only with data from their own folder; all other files give an error of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.engine.graphs import externalize, tiny_graph
from tests.engine.runtimes import RUNTIMES, open_with
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.engine.external_data import refuse_external_data_outside

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def refusal(runtime: str, path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        open_with(runtime, path)
    error = caught.value
    assert str(path) in error.message
    assert error.hint
    assert "\n" not in str(error)
    return error


def test_the_right_graph_is_accepted(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    with open_with(runtime, tiny_graph(tmp_path / "x.onnx", card), workers=2, batch=3) as engine:
        assert engine.card == card
        assert engine.name == f"{runtime}-cpu-fp32"
        assert engine.batch_sizes == (1, 2, 3)
        assert engine.in_flight == 2
        assert engine.buffer_bytes == 2 * 3 * (32 * 32 * 3 + 4 * 4 * 4 + 4 * 4 + 4 * 4)


def outputs(**others: tuple[int, tuple[int | str, ...]] | None) -> dict[str, tuple[int, tuple[int | str, ...]]]:
    right = {"boxes": (FLOAT, ("batch", 4, 4)), "scores": (FLOAT, ("batch", 4)), "class_ids": (INT32, ("batch", 4))}
    return {name: value for name, value in {**right, **others}.items() if value is not None}


BATCH = ("batch", 32, 32, 3)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "name of the input": ({"image": ("picture", TensorProto.UINT8, BATCH)}, "its inputs are"),
    "type of the input": ({"image": ("images", FLOAT, BATCH)}, "its inputs are"),
    "size of the input": ({"image": ("images", TensorProto.UINT8, ("batch", 32, 40, 3))}, "its inputs are"),
    "symbolic size": ({"image": ("images", TensorProto.UINT8, ("batch", "h", "w", 3))}, "its inputs are"),
    "fixed batch": ({"image": ("images", TensorProto.UINT8, (1, 32, 32, 3))}, "batch is fixed at 1"),
    "no boxes": ({"outputs": outputs(boxes=None)}, "'boxes' is missing"),
    "no scores": ({"outputs": outputs(scores=None)}, "'scores' is missing"),
    "no class_ids": ({"outputs": outputs(class_ids=None)}, "'class_ids' is missing"),
    "type of class_ids": ({"outputs": outputs(class_ids=(INT64, ("batch", 4)))}, "'class_ids' is int64"),
    "classes that are floats": ({"outputs": outputs(class_ids=(FLOAT, ("batch", 4)))}, "'class_ids' is float32"),
    "scores that are integers": ({"outputs": outputs(scores=(INT32, ("batch", 4)))}, "'scores' is int32"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_graphs(runtime: str, tmp_path: Path, card: ModelCard, kind: str) -> None:
    options, why = WRONG[kind]
    error = refusal(runtime, tiny_graph(tmp_path / "x.onnx", card, **options))
    assert why in error.message
    assert "model import" in error.hint


def test_boxes_of_another_shape(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    """The declared shape is the computed one, but not that of boxes."""
    path = tiny_graph(tmp_path / "x.onnx", card)
    model = onnx.load(str(path))
    (node,) = [node for node in model.graph.node if node.output[0] == "boxes"]
    node.input[0] = "plain_scores"
    info = helper.make_tensor_value_info("boxes", FLOAT, ("batch", 4))
    (at,) = [number for number, one in enumerate(model.graph.output) if one.name == "boxes"]
    model.graph.output[at].CopyFrom(info)
    path.write_bytes(model.SerializeToString())
    assert "shapes of its outputs" in refusal(runtime, path).message


def test_no_card(runtime: str, tmp_path: Path) -> None:
    assert "no card" in refusal(runtime, tiny_graph(tmp_path / "x.onnx", None)).message


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": "x", "input": {"width": 0, "height": 1}}', '{"name": "a b"}'])
def test_broken_card(runtime: str, tmp_path: Path, text: str) -> None:
    refusal(runtime, tiny_graph(tmp_path / "x.onnx", text))


@pytest.mark.parametrize(
    "content", [b"", b"just text\n" * 100, b"the location of things\n" * 100, bytes(1000), b"\x08\x07" * 40], ids=range(5)
)
def test_a_file_that_is_not_onnx(runtime: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    refusal(runtime, path)


def changed(path: Path, **change: Any) -> Path:
    model = onnx.load(str(path))
    model.graph.node[3].op_type = change.get("operator", model.graph.node[3].op_type)
    model.graph.node[3].input[1] = change.get("reads", model.graph.node[3].input[1])
    model.opset_import[0].version = change.get("operators", 17)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_unsupported_operator(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    error = refusal(runtime, changed(tiny_graph(tmp_path / "x.onnx", card), operator="Frobnicate"))
    assert "the runtime does not support the operator Frobnicate" in error.message


def test_an_operator_set_that_is_too_new(tmp_path: Path, card: ModelCard) -> None:
    """OpenVINO reads it as the newest set that it supports."""
    error = refusal("onnxruntime", changed(tiny_graph(tmp_path / "x.onnx", card), operators=99))
    assert "operator set 99 is newer than the runtime supports" in error.message


def test_shapes_that_do_not_fit(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    error = refusal(runtime, changed(tiny_graph(tmp_path / "x.onnx", card), reads="corners"))
    assert ".cpp:" not in error.message
    assert len(error.message) < 300 + len(str(tmp_path))


def test_missing_file_and_folder(runtime: str, tmp_path: Path) -> None:
    refusal(runtime, tmp_path / "none.onnx")
    refusal(runtime, tmp_path)


def test_a_truncated_file(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    path = tiny_graph(tmp_path / "x.onnx", card)
    path.write_bytes(path.read_bytes()[:-40])
    refusal(runtime, path)


@pytest.mark.parametrize("location", ["weights.bin", "below/weights.bin", "./weights.bin", "below/../weights.bin"])
def test_data_inside_the_folder_is_accepted(runtime: str, tmp_path: Path, card: ModelCard, location: str) -> None:
    path = externalize(tiny_graph(tmp_path / "x.onnx", card), location)
    refuse_external_data_outside(path)
    if ".." not in location:  # the runtimes do not accept such a path
        with open_with(runtime, path) as engine:
            engine.warm_up()
            assert engine.card == card


@pytest.mark.parametrize("location", ["../weights.bin", "below/../../weights.bin", "/absolute/weights.bin"])
def test_data_outside_the_folder_is_refused(runtime: str, tmp_path: Path, card: ModelCard, location: str) -> None:
    if location.startswith("/"):
        location = f"{tmp_path}{location}"
    folder = tmp_path / "model"
    (folder / "below").mkdir(parents=True)
    path = externalize(tiny_graph(folder / "x.onnx", card), location)
    assert "outside its folder" in refusal(runtime, path).message


def test_data_behind_a_link_is_refused(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = externalize(tiny_graph(folder / "x.onnx", card), "weights.bin")
    (folder / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    assert "outside its folder" in refusal(runtime, path).message


def hidden(where: str, tensor: onnx.TensorProto) -> onnx.ModelProto:
    """Return a graph with the tensor in a place that is easily overlooked."""
    inner = helper.make_node("Constant", [], ["inner"], value=tensor)
    out = helper.make_tensor_value_info("inner", FLOAT, (1,))
    node = inner
    functions = []
    if where == "subgraph":
        branch = helper.make_graph([inner], "branch", [], [out])
        node = helper.make_node("If", ["yes"], ["inner"], then_branch=branch, else_branch=branch)
    elif where == "function":
        functions = [helper.make_function("own", "F", [], ["inner"], [inner], [helper.make_opsetid("", 17)])]
        node = helper.make_node("F", [], ["inner"], domain="own")
    elif where == "list of tensors":
        node = helper.make_node("X", [], ["inner"], domain="own", some=[tensor, tensor])
    graph = helper.make_graph([node], "g", [], [out])
    if where == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    return helper.make_model(graph, functions=functions)


@pytest.mark.parametrize("where", ["attribute", "subgraph", "function", "list of tensors", "sparse"])
def test_external_data_is_found_everywhere_in_the_file(tmp_path: Path, where: str) -> None:
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "t")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="/etc/hostname"))
    path = tmp_path / "x.onnx"
    path.write_bytes(hidden(where, tensor).SerializeToString())
    with pytest.raises(ModelError, match="outside its folder"):
        refuse_external_data_outside(path)
