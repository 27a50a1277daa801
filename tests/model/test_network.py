"""Raw models: refusals and preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.raw_networks import deployment_graph
from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.external_data import external_files
from vision_infer.model.graph import (
    assert_batch,
    check_contract,
    finish,
    infer_shapes,
    read_card,
    tensor_info,
    write_card,
)
from vision_infer.model.network import prepare_network
from vision_infer.model.reading import read_onnx

CARD = parse_card({"name": "made-up", "head": "yolox", "input": {"width": 64, "height": 64}}, "test")
YOLOX = {"output": np.ones((84, 8))}


def test_a_missing_file_and_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_onnx(tmp_path / "none.onnx")
    for number, content in enumerate((b"", b"hello, I am text", b"\x00" * 100, b"PK\x03\x04" + bytes(range(256)))):
        file = tmp_path / f"{number}.onnx"
        file.write_bytes(content)
        with pytest.raises(ModelError, match=f"{number}.onnx: not an ONNX file"):
            read_onnx(file)


def with_external_data(path: Path, location: str) -> Path:
    """Move the values of the model to an external file."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "output_values")
    (path.parent / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    helper.set_model_props(model, {})
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_next_to_the_file_becomes_part_of_the_model(fabricate: Any, run: Any) -> None:
    inside = deployment_graph(fabricate(YOLOX), CARD)
    graph = deployment_graph(with_external_data(fabricate(YOLOX), "weights.bin"), CARD)
    pictures = {"images": np.ones((1, 64, 64, 3), np.uint8)}
    assert np.array_equal(run(graph, pictures)["boxes"], run(inside, pictures)["boxes"])


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "a/../../weights.bin", "C:\\weights.bin", "..\\w", ""])
def test_external_data_outside_the_folder_is_refused(fabricate: Any, location: str) -> None:
    path = with_external_data(fabricate(YOLOX), location)
    with pytest.raises(ModelError, match="has data outside the file's folder"):
        read_onnx(path)


@pytest.mark.parametrize("location", ["w" * 6000, "a\0b"])
def test_an_impossible_name_of_external_data_is_refused(fabricate: Any, location: str) -> None:
    path = with_external_data(fabricate(YOLOX), location)
    for read, message in ((read_onnx, "has data outside the file's folder"), (external_files, "data outside its folder")):
        with pytest.raises(ModelError, match=message) as caught:
            read(path)
        assert len(str(caught.value)) < 400


def test_a_link_to_another_folder_is_refused(fabricate: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = with_external_data(fabricate(YOLOX), "link.bin")
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.bin"
    secret.write_bytes(bytes(84 * 8 * 4))
    (path.parent / "link.bin").symlink_to(secret)
    with pytest.raises(ModelError, match="has data outside the file's folder"):
        read_onnx(path)


def test_external_data_is_found_in_all_parts_of_a_file(fabricate: Any) -> None:
    """A tensor may be in a branch of a node, in a function, or in a sparse constant."""
    stray = TensorProto(name="stray", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    stray.external_data.add(key="location", value="/etc/passwd")
    constant = helper.make_node("Constant", [], ["c"], value=stray)
    branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])])
    choice = helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)
    function = helper.make_function("ours", "f", [], ["c"], [constant], [helper.make_opsetid("", 13)])
    for place in ("node", "branch", "function", "sparse"):
        path = fabricate(YOLOX)
        model = onnx.load(path)
        if place == "function":
            model.functions.append(function)
        elif place == "sparse":
            model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=stray, dims=[1]))
        else:
            model.graph.node.append(constant if place == "node" else choice)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="'stray' has data outside"):
            read_onnx(path)


def test_missing_external_data_is_reported(fabricate: Any) -> None:
    with pytest.raises(ModelError, match="external data cannot be read") as caught:
        read_onnx(with_external_data(fabricate(YOLOX), "none.bin"))
    assert "\n" not in str(caught.value)


def test_the_input_size(fabricate: Any) -> None:
    model = read_onnx(fabricate(YOLOX, ("h", "w"), batch="n"))
    with pytest.raises(ModelError, match="the input size is not fixed"):
        prepare_network(model, "raw.onnx")
    network = prepare_network(model, "raw.onnx", Size(96, 32))
    assert (network.size, network.image.shape) == (Size(96, 32), (1, 3, 32, 96))


def test_an_input_that_is_not_an_image_is_refused(fabricate: Any) -> None:
    model = read_onnx(fabricate(YOLOX))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    with pytest.raises(ModelError, match=r"no single input takes images.*images\[1, 1, 64, 64\]"):
        prepare_network(model, "raw.onnx")


def test_weights_listed_as_inputs_are_ignored(fabricate: Any) -> None:
    model = read_onnx(fabricate(YOLOX))
    model.graph.input.append(helper.make_tensor_value_info("output_values", TensorProto.FLOAT, [1, 84, 8]))
    assert prepare_network(model, "raw.onnx").other_inputs == ()


def test_an_old_opset_is_converted_and_nodes_without_a_name_get_one(fabricate: Any) -> None:
    network = prepare_network(read_onnx(fabricate(YOLOX, opset=13)), "raw.onnx")
    assert network.model.opset_import[0].version == 17
    assert all(node.name.startswith("network/") for node in network.model.graph.node)


def test_an_opset_that_cannot_be_converted(fabricate: Any) -> None:
    model = read_onnx(fabricate(YOLOX))
    model.graph.node.append(helper.make_node("Unheard", ["mean"], ["x"]))
    with pytest.raises(ModelError, match="node 'x' has the unknown operator 'Unheard'") as caught:
        prepare_network(model, "raw.onnx")
    assert "\n" not in str(caught.value)


def test_only_a_reshape_of_the_batch_becomes_dynamic(fabricate: Any, run: Any) -> None:
    """Weights and other shapes that begin with 1 do not change, nor does a shared shape for other nodes."""
    extra = (
        helper.make_node("Constant", [], ["row"], value=numpy_helper.from_array(np.array([1, 672]))),
        helper.make_node("Reshape", ["output_values", "row"], ["weights_row"]),
        helper.make_node("Reshape", ["output", "row"], ["output_row"]),
        helper.make_node("Add", ["weights_row", "output_row"], ["sum"]),
    )
    network = prepare_network(read_onnx(fabricate(YOLOX, extra=extra)), "raw.onnx")
    shapes = [network.constant(node.input[1]) for node in network.model.graph.node if node.op_type == "Reshape"]
    assert [shape.tolist() for shape in shapes if shape is not None] == [[0, 1, 1], [1, 672], [0, 672]]


def test_a_batch_that_stays_fixed_is_refused(fabricate: Any) -> None:
    # The mean over the batch: a batch of one, whatever goes in.
    extra = (helper.make_node("ReduceMean", ["raw"], ["output"], axes=[0], keepdims=1),)
    path = fabricate({"raw": np.ones((84, 8))}, extra=extra)
    model = onnx.load(path)
    model.graph.output[0].name = "output"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="the batch of 'boxes' is fixed"):
        deployment_graph(path, CARD)


def test_shapes_that_contradict_each_other(fabricate: Any) -> None:
    extra = (helper.make_node("MatMul", ["output", "output"], ["wrong"]),)
    with pytest.raises(ModelError, match="the shapes are inconsistent") as caught:
        prepare_network(read_onnx(fabricate(YOLOX, extra=extra, opset=17)), "raw.onnx")
    assert "\n" not in str(caught.value)


def test_finish_removes_unused_parts_and_keeps_the_card(fabricate: Any) -> None:
    graph = deployment_graph(fabricate(YOLOX), CARD)
    spoiled = onnx.ModelProto()
    spoiled.CopyFrom(graph)
    del spoiled.metadata_props[:]
    spoiled.metadata_props.add(key="other", value="stays")
    for info in spoiled.graph.value_info:
        info.type.tensor_type.shape.dim.add(dim_value=7)
    spoiled.graph.node.append(helper.make_node("Relu", ["boxes"], ["unread"]))
    spoiled.graph.initializer.append(numpy_helper.from_array(np.ones(3), "unread_too"))
    mended = finish(spoiled, CARD, "x")
    assert read_card(mended, "x") == CARD
    assert mended.graph == graph.graph
    assert {entry.key for entry in mended.metadata_props} == {"other", "vision_infer.card"}


def test_finish_keeps_tensors_that_only_a_branch_reads(fabricate: Any) -> None:
    graph = deployment_graph(fabricate(YOLOX), CARD)
    body = [helper.make_node("Add", ["boxes_before", "offset"], ["sum"])]
    branch = helper.make_graph(body, "branch", [], [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)])
    for node in graph.graph.node:
        node.output[:] = ["boxes_before" if name == "boxes" else name for name in node.output]
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "offset"))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    graph.graph.node.append(helper.make_node("If", ["condition"], ["boxes"], then_branch=branch, else_branch=branch))
    assert {"offset", "condition"} <= {tensor.name for tensor in finish(graph, CARD, "x").graph.initializer}


def test_other_graphs_violate_the_contract(fabricate: Any) -> None:
    graph = deployment_graph(fabricate(YOLOX), CARD)
    check_contract(graph, CARD, "x")
    other = parse_card({**CARD.model_dump(), "input": {"width": 32, "height": 64}}, "test")
    with pytest.raises(ModelError, match="not a deployment graph for detect at 32x64"):
        check_contract(graph, other, "x")
    classify: ModelCard = CARD.model_copy(update={"task": "classify"})
    with pytest.raises(ModelError, match="not a deployment graph for classify"):
        check_contract(graph, classify, "x")
    graph.graph.output[1].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(ModelError, match=r"the batch of 'scores' is fixed \(2\)"):
        assert_batch(graph, "x")


def test_an_output_that_is_not_static_is_refused(fabricate: Any) -> None:
    graph = deployment_graph(fabricate(YOLOX), CARD)
    for node in graph.graph.node:
        node.output[:] = ["scores_before" if name == "scores" else name for name in node.output]
    graph.graph.node.append(helper.make_node("NonZero", ["scores_before"], ["hits"]))
    graph.graph.node.append(helper.make_node("Cast", ["hits"], ["scores"], to=TensorProto.FLOAT))
    with pytest.raises(ModelError, match="the shape of output 'scores' is not static"):
        finish(graph, CARD, "x")


def test_a_graph_that_the_checker_refuses(fabricate: Any) -> None:
    graph = deployment_graph(fabricate(YOLOX), CARD)
    graph.graph.name = ""
    with pytest.raises(ModelError, match="not valid ONNX") as caught:
        finish(graph, CARD, "x")
    assert "\n" not in str(caught.value)


def test_cards_in_graphs() -> None:
    graph = helper.make_graph([], "g", [tensor_info("x", TensorProto.FLOAT, 1)], [tensor_info("x", TensorProto.FLOAT, 1)])
    model = helper.make_model(graph)
    assert read_card(model, "x") is None
    write_card(model, CARD)
    write_card(model, CARD)
    assert [entry.key for entry in model.metadata_props] == ["vision_infer.card"]
    model.metadata_props[0].value = "{"
    with pytest.raises(ModelError, match="the card is not valid JSON"):
        read_card(model, "x")
    infer_shapes(model, "x")


def test_every_node_has_a_unique_name(fabricate: Any, run: Any) -> None:
    model = onnx.load(fabricate(YOLOX))
    nodes = model.graph.node
    image = model.graph.input[0].name
    # An unnamed node whose generated name exists already, and two nodes with the same name.
    nodes.append(helper.make_node("Identity", [image], ["extra_a"], name=f"Identity_{len(nodes) + 2}"))
    nodes.append(helper.make_node("Identity", ["extra_a"], ["extra_b"], name="same"))
    nodes.append(helper.make_node("Identity", ["extra_b"], ["extra_c"], name=""))
    nodes.append(helper.make_node("Identity", ["extra_c"], ["extra_d"], name="same"))
    network = prepare_network(model, "test", Size(64, 64))
    names = [node.name for node in network.model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
