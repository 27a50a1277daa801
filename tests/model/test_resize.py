"""A model at several input sizes: rewriting, its limits, and equal detections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support import raw_networks as raw
from tests.support.assets import raw_model
from vision_infer.core.card import InputSize
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.catalog import model_inputs, read_card_file, resolve_model
from vision_infer.model.graph import read_card
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.model.network import prepare_network
from vision_infer.model.reading import read_onnx

WIDE, SMALL = Size(320, 192), Size(96, 160)


def test_each_size_has_a_graph_and_the_first_is_the_models_own(tmp_path: Path) -> None:
    models = tmp_path / "models"
    graph = import_model(ImportRequest(raw.yolox(tmp_path / "raw.onnx"), "mine", model_dir=models, inputs=(WIDE, SMALL, WIDE)))
    assert graph == resolve_model("mine", models)
    found = model_inputs("mine", models)
    assert found == {WIDE: graph, SMALL: models / "mine" / "model-160x96.onnx"}
    assert next(iter(found)) == WIDE
    card = read_card_file(models / "mine" / "model.yaml")
    assert card.input_size == WIDE
    for size, path in found.items():
        model = onnx.load(path)
        inside = read_card(model, path.name)
        assert inside == card.model_copy(update={"input": InputSize(width=size.width, height=size.height)})
        dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        assert dims[1:] == [size.height, size.width, 3]


def test_only_constants_are_rewritten(tmp_path: Path) -> None:
    model = read_onnx(raw.yolox(tmp_path / "raw.onnx"))
    own, wide = prepare_network(model, "raw.onnx"), prepare_network(model, "raw.onnx", WIDE)
    assert own.outputs[0].shape == (1, 315, 12)
    assert wide.outputs[0].shape == (1, 1260, 12)
    assert [node.op_type for node in own.model.graph.node] == [node.op_type for node in wide.model.graph.node]
    floats = [tensor for tensor in own.model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert floats == [tensor for tensor in wide.model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert prepare_network(model, "raw.onnx", raw.SIZE).model == own.model


@pytest.mark.parametrize(
    ("make", "node"),
    [
        (raw.yolov8, r"node 'Sub_\d+' \(Sub\)"),  # the anchors are constants
        (raw.yolov5, r"node 'Add_\d+' \(Add\)"),  # so are the cells
    ],
)
def test_a_node_that_depends_on_the_size_is_reported(make: Callable[..., Path], node: str, tmp_path: Path) -> None:
    message = rf"raw.onnx: cannot be rewritten for 320x192: {node} depends on the input size 160x96"
    with pytest.raises(ModelError, match=message) as caught:
        import_model(ImportRequest(make(tmp_path / "raw.onnx"), "mine", model_dir=tmp_path / "models", inputs=(WIDE,)))
    assert "dynamic height and width" in caught.value.hint
    assert not (tmp_path / "models").exists()


def test_a_layer_over_all_pixels_depends_on_the_size(tmp_path: Path) -> None:
    net = raw.Network()
    flat = net.reshape(net.features()[2], net.first, 16 * 3 * 5)
    file = net.save(tmp_path / "raw.onnx", {"logits": net.linear(flat, 16 * 3 * 5, 10)})
    with pytest.raises(ModelError, match=r"\((MatMul|Reshape)\) depends on the input size 160x96"):
        import_model(ImportRequest(file, "mine", head="classify", model_dir=tmp_path / "models", inputs=(WIDE,)))


def test_an_impossible_size_names_possible_sizes(tmp_path: Path) -> None:
    net = raw.Network(open_size=True, batch="n")
    fine, _, coarse = net.features()
    grown = net.op("Resize", coarse, "", net.floats([1, 1, 4, 4]), mode="nearest")
    file = net.save(tmp_path / "raw.onnx", {"output": net.op("Add", fine, grown)})
    with pytest.raises(ModelError, match=r"at 100x96.*multiples of 32"):
        prepare_network(read_onnx(file), "raw.onnx", Size(100, 96))


def test_an_open_size_comes_from_the_metadata(tmp_path: Path) -> None:
    path = raw.yolox(tmp_path / "raw.onnx", open_size=True, batch="n")
    model = onnx.load(path)
    model.metadata_props.add(key="imgsz", value="[192, 320]")  # height first
    onnx.save(model, path)
    import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))
    assert list(model_inputs("mine", tmp_path / "models")) == [WIDE]


@pytest.mark.slow
def test_a_wide_model_detects_the_same_objects_as_the_square_one(
    letterboxed: Callable[..., NDArray[np.uint8]], run: Any, tmp_path: Path
) -> None:
    """The wide input is the square one without its lower part: both detect the same objects well above the edge."""
    wide, square = Size(416, 256), Size(416, 416)
    options: dict[str, Any] = {"fit": "top_left", "model_dir": tmp_path, "labels": "coco"}
    import_model(ImportRequest(raw_model("nanodet"), "mine", inputs=(square, wide), **options))
    graphs = {size: onnx.load(path) for size, path in model_inputs("mine", tmp_path).items()}
    pictures = letterboxed(24, square, "top_left", (114, 114, 114))
    pictures[:, 256:] = 114
    whole = run(graphs[square], {"images": pictures})
    cut = run(graphs[wide], {"images": np.ascontiguousarray(pictures[:, :256])})
    found = total = 0
    for image in range(len(pictures)):
        sure = (whole["scores"][image] > 0.5) & (whole["boxes"][image][:, 3] < 240)
        for box, kind in zip(whole["boxes"][image][sure], whole["class_ids"][image][sure], strict=True):
            same = (cut["class_ids"][image] == kind) & (cut["scores"][image] > 0.3)
            total += 1
            found += bool((np.abs(cut["boxes"][image][same] - box).max(axis=1, initial=0) < 8).any())
    assert total > 10
    assert found / total > 0.9
