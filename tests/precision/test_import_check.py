"""Verification of imports: the graph of each family against its raw model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.precision.import_cases import labels, refused, verified
from tests.support import raw_networks as raw
from tests.support.assets import RAW_MODELS, photographs, raw_model
from tests.support.exported import exported
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.model import heads
from vision_infer.model.heads import embed, find_head, head_names
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.model.reference import RawOutputs
from vision_infer.precision.verification.comparison import GraphVerification
from vision_infer.precision.verification.import_check import verify_import

pytest.importorskip("onnxruntime")


def test_every_head_has_a_reference() -> None:
    assert all(callable(find_head(name).reference) for name in head_names())


TOY_HEAD = """
from dataclasses import replace

import numpy as np

from vision_infer.model.decode import as_float
from vision_infer.model.head import HeadOutputs
from vision_infer.model.heads import embed

DEFAULTS = replace(embed.DEFAULTS, fit="center")


def recognize(network):
    return "an output named 'toy'" if network.outputs[0].name == "toy" else None


def append(builder, network, card, candidates):
    values = as_float(builder, network.outputs[0])
    top = builder.reduce_max(values, 1, "best")
    column = builder.add("Unsqueeze", top, builder.ints("axis", 1), name="column")
    return HeadOutputs({"embedding": builder.add("Div", column, builder.add("Abs", column, name="size"), name="sign")})


def reference(raw):
    return np.sign(raw.outputs["toy"].max(axis=1, keepdims=True)) * FACTOR
"""


@pytest.mark.parametrize("factor", [1, 2])
def test_one_file_adds_a_model_family(factor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is found by its name, and its reference verifies the import."""
    (tmp_path / "toy.py").write_text(TOY_HEAD.replace("FACTOR", str(factor)))
    monkeypatch.setattr(heads, "__path__", [*heads.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vision_infer.model.heads.toy", raising=False)
    file = raw.vector(tmp_path / "raw.onnx", name="toy")
    if factor == 2:
        with pytest.raises(ModelError, match="differ from those of the raw model"):
            verified(file, tmp_path / "models", "toy")
        return
    (result,) = verified(file, tmp_path / "models", "toy")
    assert (result.against, result.task, result.values) == ("the raw model", "embed", 0)


@pytest.mark.parametrize("batch", [1, 3, "n"])
@pytest.mark.parametrize(
    ("make", "options", "head", "given"),
    [
        (raw.yolov8, {}, None, {}),
        (raw.yolov8, {"transposed": True}, None, {}),
        (raw.yolov8, {"chosen": True}, None, {}),
        (raw.yolov8, {"more": "pose"}, None, {}),
        (raw.yolov8, {"more": "pose", "transposed": True, "classes": 1}, None, {"candidates": 20}),
        (raw.yolov8, {"more": "segment"}, None, {}),
        (raw.yolov8, {"more": "segment", "transposed": True}, None, {}),
        (raw.yolov8, {"more": "obb"}, None, {}),
        (raw.yolov8, {"more": "obb", "transposed": True}, None, {}),
        (raw.yolov8, {"chosen": True}, None, {"candidates": 7}),
        (raw.yolov8, {"chosen": True, "more": "pose"}, None, {"candidates": 7}),
        (raw.yolov8, {"chosen": True, "more": "obb"}, None, {}),
        (raw.yolov8, {"chosen": True, "more": "segment"}, None, {"candidates": 7}),
        (raw.yolov5, {}, None, {}),
        (raw.yolov5, {"maps": True}, None, {}),
        (raw.yolox, {}, None, {}),
        (raw.yolox, {"decoded": True}, "yolov5", {}),
        (raw.nanodet_plus, {}, None, {}),
        (raw.nanodet_plus, {"sigmoid": False}, "nanodet", {"labels": 7}),
        (raw.detr, {"end": "Sigmoid"}, None, {}),
        (raw.detr, {"end": "Softmax"}, None, {}),
        (raw.detr, {}, None, {"labels": 7}),
        (raw.detr, {}, None, {"labels": 6}),
        (raw.detr, {"masks": 60}, None, {"labels": 7}),
        (raw.detr, {"masks": 60, "end": "Softmax"}, None, {"candidates": 11}),
        (raw.detr, {}, None, {"scores": "softmax"}),
        (raw.detr, {}, None, {"scores": "sigmoid", "candidates": 11}),
        (raw.vector, {"end": "Softmax"}, None, {}),
        (raw.vector, {"name": "logits"}, None, {"labels": 10}),
        (raw.vector, {"name": "logits"}, None, {"scores": "sigmoid"}),
        (raw.vector, {"spatial": True}, "embed", {}),
        (raw.vector, {"end": "Div"}, None, {}),
    ],
)
def test_the_graph_gives_the_results_of_the_raw_model(
    make: Callable[..., Path], options: dict[str, Any], head: str | None, given: dict[str, Any], batch: int | str, tmp_path: Path
) -> None:
    if "labels" in given:
        given = {**given, "labels": labels(tmp_path, given["labels"])}
    file = make(tmp_path / "raw.onnx", batch=batch, **options)
    (result,) = verified(file, tmp_path / "models", head, **given)
    assert (result.against, result.size) == ("the raw model", raw.SIZE)
    assert result.boxes <= 1e-2
    assert result.values <= 1e-5
    card = onnx.load(tmp_path / "models" / "mine" / "model.onnx")
    assert [info.type.tensor_type.shape.dim[0].dim_param for info in card.graph.output] == ["batch"] * len(card.graph.output)


@pytest.mark.parametrize(
    ("more", "change"),
    [
        ("pose", lambda found: found.details["keypoints"][..., 3, 0].__iadd__(0.1)),  # the x of one keypoint, pixels
        ("pose", lambda found: found.details["keypoints"][..., 3, 2].__iadd__(1e-3)),  # its score
        ("segment", lambda found: found.details["coefficients"][..., 5].__iadd__(0.01)),
        ("segment", lambda found: found.prototypes[:, 5, 3, 3].__iadd__(0.01)),
        ("obb", lambda found: found.details["rotated_boxes"][..., 4].__iadd__(0.01)),
    ],
)
def test_a_difference_of_the_details_alone_is_found(
    more: Any, change: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = find_head({"pose": "yolov8_pose", "segment": "yolov8_seg", "obb": "yolov8_obb"}[more])
    original = head.reference

    def changed(outputs: RawOutputs) -> Any:
        found = original(outputs)
        change(found)
        return found

    monkeypatch.setattr(head, "reference", changed)
    with pytest.raises(ModelError, match="differ from those of the raw model"):
        verified(raw.yolov8(tmp_path / "raw.onnx", more=more), tmp_path / "models")


@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(name, marks=pytest.mark.slow) for name in ("ssdlite", "retinanet", "fcos", "mobilenet")
        ),  # exported in 8 s each
        "embedder",
    ],
)
def test_torchvision_models_are_verified_on_photographs(name: str, tmp_path: Path) -> None:
    (result,) = verified(exported(name), tmp_path / "models", pictures=photographs())
    assert result.boxes <= 1e-2
    assert result.values <= 1e-5
    assert "on 5 images" in str(result)


@pytest.mark.parametrize("head", RAW_MODELS)
def test_raw_models_are_verified_on_photographs(head: str, tmp_path: Path) -> None:
    (result,) = verified(raw_model(head), tmp_path / "models", labels="coco", pictures=photographs())
    assert result.boxes <= 1e-2
    assert result.values <= 1e-5


@pytest.mark.parametrize("make", [raw.yolox, raw.nanodet_plus])
def test_each_input_size_and_the_files_own_size_are_verified(make: Callable[..., Path], tmp_path: Path) -> None:
    wide, small = Size(320, 192), Size(96, 160)
    results = verified(make(tmp_path / "raw.onnx"), tmp_path / "models", inputs=(wide, small))
    assert [result.size for result in results] == [wide, small, raw.SIZE]
    rewritten = "the raw model, rewritten for this size"
    assert [result.against for result in results] == [rewritten, rewritten, "the raw model"]
    assert sorted(path.name for path in (tmp_path / "models" / "mine").iterdir()) == [
        "model-160x96.onnx",
        "model.onnx",
        "model.yaml",
    ]


@pytest.mark.parametrize(
    "make",
    [  # these compute their anchors
        raw.yolox,
        raw.yolov8,
        *(pytest.param(partial(raw.yolov8, more=more), marks=pytest.mark.slow) for more in ("pose", "segment", "obb")),
    ],
)
def test_a_model_with_an_open_size_is_verified_at_each_size(make: Callable[..., Path], tmp_path: Path) -> None:
    file = make(tmp_path / "raw.onnx", open_size=True, batch="n")
    results = verified(file, tmp_path / "models", inputs=(Size(320, 192), Size(96, 160)))
    assert [(result.size, result.against) for result in results] == [
        (Size(320, 192), "the raw model"),
        (Size(96, 160), "the raw model"),
    ]


@pytest.mark.parametrize("more", ["", "pose", "segment", "obb"])
def test_a_deployment_graph_is_verified_against_itself(more: Any, tmp_path: Path) -> None:
    verified(raw.yolov8(tmp_path / "raw.onnx", more=more), tmp_path / "models")
    (result,) = verified(tmp_path / "models" / "mine" / "model.onnx", tmp_path / "others")
    assert result.against == "its own results on single images, because the file is a deployment graph"


def test_a_batch_that_is_fixed_inside_runs_one_image_at_a_time(tmp_path: Path) -> None:
    """The mean over the batch is part of each image's scores, so single images are correct."""
    net = raw.Network(batch="n")
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    mixed = net.op("Sub", net.linear(pooled, 16, 10), net.op("ReduceMean", net.linear(pooled, 16, 10), axes=[0], keepdims=1))
    file = net.save(tmp_path / "raw.onnx", {"logits": mixed})
    said: list[str] = []
    found: list[GraphVerification] = []
    request = ImportRequest(file, "mine", head="classify", scores="softmax", model_dir=tmp_path / "models")
    graph = import_model(request, said.append, lambda one: found.extend(verify_import(one)))
    assert any("in a batch of 2 differ from those of single images" in line for line in said)
    assert said[-1].startswith("raw.onnx: the model runs one image at a time. For larger batches, export it")
    assert_single(graph, found)


def assert_single(graph: Path, found: list[GraphVerification]) -> None:
    """Check a model that runs one image at a time: its card, and that an engine for larger batches runs single images."""
    assert [one.batches for one in found] == [(1,)]
    assert "in batches of 1, on 5 synthetic images" in str(found[0])
    assert read_graph_facts(graph).card.max_batch == 1
    with open_engine(graph, EngineRequest("onnxruntime-cpu-fp32", batch=4)) as engine:
        assert engine.batch_sizes == (1,)
        engine.warm_up()


def test_a_batch_of_one_that_cannot_be_made_dynamic_is_kept(tmp_path: Path) -> None:
    """The class scores are added to a constant of one row, and reshaped through the flat list of all values."""
    net = raw.Network(batch=1)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    scores = net.reshape(net.reshape(net.linear(pooled, 16, 10), -1), 1, 10)
    file = net.save(tmp_path / "raw.onnx", {"logits": scores})
    found: list[GraphVerification] = []
    request = ImportRequest(file, "mine", head="classify", model_dir=tmp_path / "models")
    assert_single(import_model(request, verify=lambda one: found.extend(verify_import(one))), found)


@pytest.mark.parametrize("batch", [1, "n"])
def test_channels_last_are_imported(batch: int | str, tmp_path: Path) -> None:
    file = raw.channels_last(raw.vector(tmp_path / "raw.onnx", name="embedding", batch=batch))
    assert [dim.dim_value for dim in onnx.load(file).graph.input[0].type.tensor_type.shape.dim][1:] == [96, 160, 3]
    (result,) = verified(file, tmp_path / "models")
    assert (result.size, result.task, result.batches) == (raw.SIZE, "embed", (1, 2, 5))
    assert result.against == "the raw model"


def test_an_embedding_may_differ_by_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep embedders round to 2.5e-5 for each element, which changes no comparison of vectors."""
    reference = embed.reference
    monkeypatch.setattr(embed, "reference", lambda found: reference(found) + 2.5e-5)
    file = raw.vector(tmp_path / "raw.onnx", name="embedding", width=256)
    (result,) = verified(file, tmp_path / "models")
    assert 0 < result.values < 1e-3
    monkeypatch.setattr(embed, "reference", lambda found: reference(found) + 2.5e-3)
    refused(file, tmp_path / "other", "embed", r"values differ by 0\.0\d+ of the largest\. Check that the model is of head")


def in_float16(path: Path) -> Path:
    """Convert a model to compute in float16 from end to end."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("make", [raw.yolov8, raw.yolov5, raw.yolox, raw.nanodet_plus])
def test_a_model_in_float16_is_verified_with_the_tolerance_of_float16(make: Callable[..., Path], tmp_path: Path) -> None:
    (result,) = verified(in_float16(make(tmp_path / "raw.onnx")), tmp_path / "models")
    assert result.boxes <= max(raw.SIZE.width, raw.SIZE.height) / 128
    assert result.values <= 4e-3
