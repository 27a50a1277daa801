"""Imports proved: each family's graph against its network, and each way in which a proof fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support import raw_networks as raw
from tests.support.assets import RAW_MODELS, photographs, raw_model
from tests.support.exported import NAMES, exported
from vision_infer.core.errors import ModelError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.heads import head_names
from vision_infer.model.importing import Proposal, import_model
from vision_infer.precision.verification.import_check import Proof, made_up_pictures, prove_import, read_pictures
from vision_infer.precision.verification.reference_heads import DETECTORS, VECTORS

pytest.importorskip("onnxruntime")


def proved(file: Path, models: Path, head: str | None = None, pictures: Path | None = None, **options: Any) -> list[Proof]:
    """Import a network as the command does; what was proved."""
    found: list[Proof] = []
    shown = None if pictures is None else read_pictures(pictures)
    import_model(file, "mine", head, model_dir=models, prove=lambda one: found.extend(prove_import(one, shown)), **options)
    return found


def labels(folder: Path, count: int) -> Path:
    path = folder / "labels.txt"
    path.write_text("\n".join(f"thing {number}" for number in range(count)))
    return path


def test_every_head_has_a_reference() -> None:
    assert sorted([*DETECTORS, *VECTORS]) == list(head_names())


@pytest.mark.parametrize("batch", [1, 3, "n"])
@pytest.mark.parametrize(
    ("make", "options", "head", "given"),
    [
        (raw.yolov8, {}, None, {}),
        (raw.yolov8, {"transposed": True}, None, {}),
        (raw.yolov8, {"more": "chosen"}, None, {}),
        (raw.yolov8, {"more": "chosen"}, None, {"candidates": 7}),
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
        (raw.detr, {}, None, {"scores": "softmax"}),
        (raw.detr, {}, None, {"scores": "sigmoid", "candidates": 11}),
        (raw.vector, {"end": "Softmax"}, None, {}),
        (raw.vector, {"name": "logits"}, None, {"labels": 10}),
        (raw.vector, {"name": "logits"}, None, {"scores": "sigmoid"}),
        (raw.vector, {"spatial": True}, "embed", {}),
        (raw.vector, {"end": "Div"}, None, {}),
    ],
)
def test_a_family_gives_what_its_network_gives(
    make: Callable[..., Path], options: dict[str, Any], head: str | None, given: dict[str, Any], batch: int | str, tmp_path: Path
) -> None:
    if "labels" in given:
        given = {**given, "labels": labels(tmp_path, given["labels"])}
    file = make(tmp_path / "raw.onnx", batch=batch, **options)
    (proof,) = proved(file, tmp_path / "models", head, **given)
    assert (proof.against, proof.size) == ("the network as it came", raw.SIZE)
    assert proof.boxes <= 1e-2
    assert proof.values <= 1e-5
    card = onnx.load(tmp_path / "models" / "mine" / "model.onnx")
    assert [info.type.tensor_type.shape.dim[0].dim_param for info in card.graph.output] == ["batch"] * len(card.graph.output)


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_torchvision_are_proved_on_photographs(name: str, tmp_path: Path) -> None:
    (proof,) = proved(exported(name), tmp_path / "models", pictures=photographs())
    assert proof.boxes <= 1e-2
    assert proof.values <= 1e-5
    assert "on 5 pictures" in str(proof)


@pytest.mark.parametrize("head", RAW_MODELS)
def test_raw_models_are_verified_on_photographs(head: str, tmp_path: Path) -> None:
    (proof,) = proved(raw_model(head), tmp_path / "models", labels="coco", pictures=photographs())
    assert proof.boxes <= 1e-2
    assert proof.values <= 1e-5


@pytest.mark.parametrize("make", [raw.yolox, raw.nanodet_plus])
def test_each_input_size_is_proved_and_the_files_own_too(make: Callable[..., Path], tmp_path: Path) -> None:
    wide, small = Size(320, 192), Size(96, 160)
    proofs = proved(make(tmp_path / "raw.onnx"), tmp_path / "models", inputs=(wide, small))
    assert [proof.size for proof in proofs] == [wide, small, raw.SIZE]
    rewritten = "the network, rewritten for this size"
    assert [proof.against for proof in proofs] == [rewritten, rewritten, "the network as it came"]
    assert sorted(path.name for path in (tmp_path / "models" / "mine").iterdir()) == [
        "model-160x96.onnx",
        "model.onnx",
        "model.yaml",
    ]


@pytest.mark.parametrize("make", [raw.yolox, raw.yolov8])  # the second computes its anchors from the shapes that come
def test_a_network_with_an_open_size_is_itself_proved_at_each(make: Callable[..., Path], tmp_path: Path) -> None:
    file = make(tmp_path / "raw.onnx", open_size=True, batch="n")
    proofs = proved(file, tmp_path / "models", inputs=(Size(320, 192), Size(96, 160)))
    assert [(proof.size, proof.against) for proof in proofs] == [
        (Size(320, 192), "the network as it came"),
        (Size(96, 160), "the network as it came"),
    ]


def test_a_deployment_graph_is_proved_against_itself(tmp_path: Path) -> None:
    proved(raw.yolov8(tmp_path / "raw.onnx"), tmp_path / "models")
    (proof,) = proved(tmp_path / "models" / "mine" / "model.onnx", tmp_path / "others")
    assert proof.against == "itself alone, for it came as a deployment graph"


def refused(file: Path, folder: Path, head: str | None, message: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        proved(file, folder / "models", head, **options)
    assert "\n" not in str(caught.value)
    assert not (folder / "models").exists(), "something is left behind"


def test_a_wrong_head_is_found_out_by_its_values(tmp_path: Path) -> None:
    # Logits taken for probabilities.
    refused(raw.vector(tmp_path / "raw.onnx"), tmp_path, "classify", "and no probabilities", scores="probabilities")
    # Probabilities taken for logits: the reference sees that they are probabilities, where nobody told it otherwise.
    file = raw.vector(tmp_path / "raw.onnx", end="Softmax")

    def spoil(proposal: Proposal) -> None:
        model = onnx.load(proposal.graphs[raw.SIZE])
        end = next(node for node in model.graph.node if node.output[0] == "scores")
        end.op_type = "Softmax"
        onnx.save(model, proposal.graphs[raw.SIZE])
        prove_import(proposal)

    with pytest.raises(ModelError, match=r"does not give what the network gives .*values by 0\.\d"):
        import_model(file, "mine", model_dir=tmp_path / "models", prove=spoil)
    assert not (tmp_path / "models").exists()


def test_boxes_that_are_not_those_of_the_network_are_found_out(tmp_path: Path) -> None:
    def spoil(proposal: Proposal) -> None:
        model = onnx.load(proposal.graphs[raw.SIZE])
        half = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("vision_infer/half"))
        half.CopyFrom(numpy_helper.from_array(np.array(0.51, np.float32), half.name))
        onnx.save(model, proposal.graphs[raw.SIZE])
        prove_import(proposal)

    with pytest.raises(ModelError, match=r"boxes differ by .* px, values by 0: is it of head 'yolov8'"):
        import_model(raw.yolov8(tmp_path / "raw.onnx"), "mine", model_dir=tmp_path / "models", prove=spoil)
    assert not (tmp_path / "models").exists()


def test_a_batch_that_is_fixed_inside_is_found_out(tmp_path: Path) -> None:
    """The mean over the batch is part of each picture's scores: alone nothing is wrong."""
    net = raw.Network(batch="n")
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    mixed = net.op("Sub", net.linear(pooled, 16, 10), net.op("ReduceMean", net.linear(pooled, 16, 10), axes=[0], keepdims=1))
    file = net.save(tmp_path / "raw.onnx", {"logits": mixed})
    refused(file, tmp_path, "classify", r"something else in a batch of 2 than for each picture alone", scores="softmax")


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    net = raw.Network()
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    file = net.save(tmp_path / "raw.onnx", {"logits": net.linear(net.op("Log", net.op("Neg", pooled)), 16, 10)})
    refused(file, tmp_path, "classify", r"holds values that are no numbers \(NaN\)")


def test_boxes_as_shares_of_the_input(tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx", transposed=True)
    model = onnx.load(path)
    scale = np.array([*[1 / 1000] * 4, *[1.0] * 7], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scale, "scale"))
    model.graph.node[-1].input[0] = "shares"
    before = model.graph.node[-2].output[0]
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Mul", [before, "scale"], ["shares"], name="shares"))
    onnx.save(model, path)
    refused(path, tmp_path, "yolov8", "shares of the input, and not pixels")


def test_a_vector_of_zeros_has_no_length(tmp_path: Path) -> None:
    net = raw.Network()
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    file = net.save(tmp_path / "raw.onnx", {"embedding": net.op("Mul", pooled, net.floats(0))})
    refused(file, tmp_path, "embed", "gives a vector of zeros")


def test_an_operator_that_the_runtime_does_not_know(tmp_path: Path) -> None:
    net = raw.Network()
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.features()[2]), axis=1)
    path = net.save(tmp_path / "raw.onnx", {"logits": net.linear(pooled, 16, 10)})
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("made.up", 1))
    model.graph.node.append(helper.make_node("Unheard", ["images"], ["unread"], domain="made.up", name="unheard"))
    onnx.save(model, path)
    refused(path, tmp_path, "classify", "raw.onnx: ONNX Runtime cannot load it")


def test_a_head_of_ones_own_is_proved_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(DETECTORS, "yolov8")
    (proof,) = proved(raw.yolov8(tmp_path / "raw.onnx"), tmp_path / "models")
    assert proof.against == "itself alone, for head 'yolov8' has no reference"


def test_what_a_proof_says() -> None:
    proof = Proof("mine.onnx", Size(640, 384), "5 pictures", "the network as it came", 0.00123, 4.4e-7, "detect")
    assert str(proof) == (
        "mine.onnx: proved 640 wide and 384 high, in batches of 1, 2 and 5, on 5 pictures, against the network as it came: "
        "boxes within 0.0012 px, scores within 4e-07"
    )


def test_made_up_pictures_are_five_and_differ() -> None:
    pictures = made_up_pictures()
    assert [image.shape for image in pictures] == [(240, 320, 3)] * 5
    assert all(np.array_equal(*pair) for pair in zip(pictures, made_up_pictures.__wrapped__(), strict=True))
    assert all(image.std() > 30 for image in pictures)
    assert not np.array_equal(pictures[0], pictures[1])


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--pictures .*No such file"):
        read_pictures(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no pictures"):
        read_pictures(tmp_path)
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 30, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    assert [int(image[0, 0, 0]) for image in read_pictures(tmp_path)] == [0, 2, 4, 6, 8]
    (tmp_path / "4.png").write_text("broken")
    with pytest.raises(UsageError, match=r"4\.png: no picture that can be read"):
        read_pictures(tmp_path)


def test_one_picture_is_enough(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), made_up_pictures()[0])
    (proof,) = proved(raw.yolov8(tmp_path / "raw.onnx"), tmp_path / "models", pictures=folder)
    assert proof.pictures == "1 picture"


def test_a_class_that_is_never_there_is_told(tmp_path: Path) -> None:
    def spoil(proposal: Proposal) -> None:
        model = onnx.load(proposal.graphs[raw.SIZE])
        for node in model.graph.node:
            node.output[:] = ["ids_before" if name == "class_ids" else name for name in node.output]
        model.graph.initializer.append(numpy_helper.from_array(np.array(50, np.int32), "far"))
        model.graph.node.append(helper.make_node("Add", ["ids_before", "far"], ["class_ids"], name="spoilt"))
        onnx.save(model, proposal.graphs[raw.SIZE])
        prove_import(proposal)

    with pytest.raises(ModelError, match="a class of it is missing"):
        import_model(raw.yolov8(tmp_path / "raw.onnx"), "mine", model_dir=tmp_path / "models", prove=spoil)


def test_outputs_that_the_reference_cannot_read_are_told(tmp_path: Path) -> None:
    def spoil(proposal: Proposal) -> None:
        other = raw.yolox(tmp_path / "other.onnx", size=Size(160, 128))
        model = onnx.load(other)
        for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (96, 160), strict=True):
            dim.dim_value = side
        onnx.save(model, proposal.raws[raw.SIZE])
        prove_import(proposal)

    with pytest.raises(ModelError, match=r"cannot be read as those of head 'yolox'|fails on a batch|cannot load"):
        import_model(raw.yolox(tmp_path / "raw.onnx"), "mine", model_dir=tmp_path / "models", prove=spoil)


def in_float16(path: Path) -> Path:
    """The same network, computing in float16 from end to end."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("make", [raw.yolov8, raw.yolov5, raw.yolox, raw.nanodet_plus])
def test_a_network_in_float16_is_proved_as_far_as_float16_goes(make: Callable[..., Path], tmp_path: Path) -> None:
    (proof,) = proved(in_float16(make(tmp_path / "raw.onnx")), tmp_path / "models")
    assert proof.boxes <= max(raw.SIZE.width, raw.SIZE.height) / 128
    assert proof.values <= 4e-3
