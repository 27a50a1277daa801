"""Recognition of heads from the graph; and models that are refused or need an option."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support import raw_networks as raw
from tests.support.exported import exported
from vision_infer.core.errors import ModelError
from vision_infer.model.catalog import read_card_file
from vision_infer.model.heads import find_head
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.model.network import RawNetwork, prepare_network
from vision_infer.model.reading import read_onnx
from vision_infer.model.recognize import recognize_head


def prepared(path: Path) -> RawNetwork:
    return prepare_network(read_onnx(path), path.name)


@pytest.mark.parametrize(
    ("make", "options", "head", "reason"),
    [
        (raw.yolov8, {}, "yolov8", r"\(4 \+ 7\) x 315.*decoded boxes, and scores after a Sigmoid without objectness"),
        (raw.yolov8, {"transposed": True}, "yolov8", r"315 x \(4 \+ 7\)"),
        (raw.yolov8, {"classes": 1, "transposed": True}, "yolov8", r"315 x \(4 \+ 1\)"),
        (raw.yolov8, {"more": "pose"}, "yolov8_pose", r"\(4 \+ 7 \+ 51\) x 315, with 51 values of keypoints after the 7 class"),
        (raw.yolov8, {"more": "pose", "points": 1, "transposed": True}, "yolov8_pose", r"315 x \(4 \+ 7 \+ 3\)"),
        (raw.yolov8, {"more": "segment"}, "yolov8_seg", r"\(4 \+ 7 \+ 32\) x 315.*prototypes output1\[1, 32, 12, 20\]"),
        (raw.yolov8, {"more": "obb"}, "yolov8_obb", r"\(4 \+ 7 \+ 1\) x 315, with an angle after the 7 class scores"),
        (raw.yolov8, {"chosen": True}, "end2end", r"20 boxes, selected inside \(TopK\)"),
        (raw.yolov8, {"chosen": True, "more": "pose"}, "end2end", r"and 51 values after them \(keypoints\)"),
        (raw.yolov8, {"chosen": True, "more": "obb"}, "end2end", r"and 1 values after them \(an angle\)"),
        (raw.yolov8, {"chosen": True, "more": "segment"}, "end2end", r"\(coefficients of masks\), and their prototypes output1"),
        (raw.yolov5, {}, "yolov5", r"945 anchors, 3 for each cell.*5 \+ 7"),
        (raw.yolov5, {"classes": 1}, "yolov5", r"5 \+ 1"),
        (raw.yolox, {}, "yolox", r"315 anchors.*boxes straight from convolutions"),
        (raw.nanodet_plus, {}, "nanodet", r"7 scores after a Sigmoid and 4 x 8"),
        (raw.detr, {}, "detr", r"'logits' of 7 class scores and 'pred_boxes' of a box for each of 60 queries"),
        (raw.detr, {"hidden": True, "end": "Sigmoid"}, "detr", "'logits'"),
        (raw.detr, {"masks": 60}, "detr", "and 'pred_masks' of a mask for each of 60 queries"),
        (raw.semantic, {}, "semantic", r"one output out\[1, 7, 12, 20\] of 7 class scores for each pixel"),
        (raw.semantic, {"last": True, "classes": 21}, "semantic", r"out\[1, 12, 20, 21\] of 21 class scores"),
        (raw.semantic, {"aux": True}, "semantic", r"of 7 class scores"),
        (raw.semantic, {"chosen": True}, "semantic", r"out\[1, 12, 20\] of a class number for each pixel"),
        (raw.rtmo, {}, "rtmo", r"dets\[1, 60, 5\] of corners and score, and keypoints\[1, 60, 17, 3\] of 17 keypoints"),
        (raw.rtmo, {"dynamic": True}, "rtmo", r"dets\[1, \?, 5\]"),
        (raw.movenet, {}, "movenet", r"one output output_0\[1, 1, 17, 3\] of 17 keypoints"),
        (raw.simcc, {}, "simcc", r"simcc_x\[1, 17, 320\] and simcc_y\[1, 17, 192\] with 2 scores for each"),
        (raw.simcc, {"points": 5, "steps": 1}, "simcc", "of 5 keypoints"),
        (raw.vector, {"end": "Softmax"}, "classify", "end in Softmax"),
        (raw.vector, {"end": "LogSoftmax"}, "classify", "end in LogSoftmax"),
        (raw.vector, {"end": "Sigmoid"}, "classify", "end in Sigmoid"),
        (raw.vector, {"name": "class_logits"}, "classify", "name contains 'logit'"),
        (raw.vector, {"end": "Div"}, "embed", r"division by their length \(Div\)"),
        (raw.vector, {"name": "image_embeds", "spatial": True}, "embed", "name contains 'embed'"),
    ],
)
def test_a_raw_model_is_recognized_with_the_reason(
    make: Callable[..., Path], options: dict[str, Any], head: str, reason: str, tmp_path: Path
) -> None:
    found, why = recognize_head(prepared(make(tmp_path / "raw.onnx", **options)))
    assert found == head
    assert re.search(reason, why), why


@pytest.mark.parametrize(
    ("name", "head"),
    [
        pytest.param("ssdlite", "ssd", marks=pytest.mark.slow),
        pytest.param("retinanet", "retinanet", marks=pytest.mark.slow),
        pytest.param("fcos", "fcos", marks=pytest.mark.slow),
        pytest.param("mobilenet", "classify", marks=pytest.mark.slow),
        ("embedder", "embed"),
    ],
)
def test_torchvision_models_are_recognized(name: str, head: str) -> None:
    network = prepared(exported(name))
    assert recognize_head(network)[0] == head
    assert network.image.shape[0] == 1


@pytest.mark.parametrize(
    ("make", "options", "heads"),
    [
        (raw.yolox, {"decoded": True}, ("yolov5", "yolov8")),  # its last columns come as one, as those of YOLOv8 do
        (raw.vector, {}, ("classify", "embed")),
    ],
)
def test_ambiguous_models_need_an_option(
    make: Callable[..., Path], options: dict[str, Any], heads: tuple[str, ...], tmp_path: Path
) -> None:
    path = make(tmp_path / "raw.onnx", **options)
    with pytest.raises(ModelError, match="several heads fit its outputs") as caught:
        import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))
    assert all(f"--head {head} if it has" in caught.value.hint for head in heads)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()
    for head in heads:
        import_model(ImportRequest(path, head, head=head, model_dir=tmp_path / "models"))


@pytest.mark.parametrize("more", ["pose", "obb"])
def test_a_head_without_details_refuses_values_after_the_scores(more: Any, tmp_path: Path) -> None:
    count = {"pose": 51, "obb": 1}[more]
    with pytest.raises(ModelError, match=rf"does not fit head 'yolov8': {count} values follow its class scores.*yolov8_pose or"):
        import_model(
            ImportRequest(raw.yolov8(tmp_path / "raw.onnx", more=more), "mine", head="yolov8", model_dir=tmp_path / "models")
        )
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("metadata", [{}, {"task": "segment"}])
def test_masks_without_prototypes_are_refused(metadata: dict[str, str], tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx", more="segment", prototypes=0, metadata=metadata)
    for head in (None, "yolov8_seg", "yolov8_pose"):
        with pytest.raises(ModelError, match=r"32 coefficients of masks without their prototypes.*Export it with both outputs"):
            import_model(ImportRequest(path, "mine", head=head, model_dir=tmp_path / "models"))
    path = raw.yolov8(tmp_path / "raw.onnx", metadata={"task": "segment"})
    with pytest.raises(ModelError, match="masks without their prototypes"):
        recognize_head(prepared(path))


def test_prototypes_must_fit_the_coefficients(tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx", more="segment", prototypes=16)
    with pytest.raises(ModelError, match=r"the masks output1\[1, 16, 12, 20\] do not fit the other outputs output0"):
        import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))


def test_masks_of_queries_must_be_one_for_each(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the masks pred_masks\[1, 59, 12, 20\] do not fit the other outputs"):
        recognize_head(prepared(raw.detr(tmp_path / "raw.onnx", masks=59)))


@pytest.mark.parametrize("head", [None, "yolov8_pose"])
def test_keypoints_must_fit_the_card(head: str | None, tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx", more="pose", points=5)
    with pytest.raises(
        ModelError, match=r"15 values follow its class scores, but the 17 keypoints of the card need 51.*--keypoints"
    ):
        import_model(ImportRequest(path, "mine", head=head, model_dir=tmp_path / "models"))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, b, c, d, e]\nskeleton: [[0, 5]]", r"the skeleton has the line \[0, 5\], but the keypoints are 0 to 4"),
        ("names: []", "names"),
        ("labels: [a]", "keypoints"),
        ("[", "cannot be read as keypoints"),
    ],
)
def test_a_wrong_file_of_keypoints_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path, file = raw.yolov8(tmp_path / "raw.onnx", more="pose", points=5), tmp_path / "keypoints.yaml"
    file.write_text(text)
    with pytest.raises(ModelError, match=message):
        import_model(ImportRequest(path, "mine", keypoints=file, model_dir=tmp_path / "models"))


def test_keypoints_are_for_heads_with_keypoints(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"head 'yolov8' has no keypoints. Remove --keypoints"):
        import_model(
            ImportRequest(raw.yolov8(tmp_path / "raw.onnx"), "mine", keypoints=tmp_path / "x", model_dir=tmp_path / "models")
        )


def test_rotated_boxes_need_an_image_with_its_aspect_ratio(tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx", more="obb")
    with pytest.raises(ModelError, match=r"not rectangles in a stretched image.*--fit center"):
        import_model(ImportRequest(path, "mine", fit="stretch", model_dir=tmp_path / "models"))


@pytest.mark.parametrize("classes", [1, 300])
def test_a_map_needs_a_score_for_each_of_up_to_256_classes(classes: int, tmp_path: Path) -> None:
    path = raw.semantic(tmp_path / "raw.onnx", classes=classes)
    with pytest.raises(ModelError, match=r"the map out\[1, .*\] is not one of a class score for each pixel. .*2 to 256 classes"):
        recognize_head(prepared(path))


@pytest.mark.parametrize("make", [raw.simcc, raw.rtmo, raw.movenet])
def test_keypoints_of_simcc_and_rtmo_must_fit_the_card(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(tmp_path / "raw.onnx", points=5)
    with pytest.raises(ModelError, match=r"it has 5 keypoints, but the card has 17 \(see --keypoints\)"):
        import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))


@pytest.mark.parametrize("strides", [(16,), (8, 16, 32)])
def test_predictions_for_grid_cells_are_not_a_segmentation(strides: tuple[int, ...], tmp_path: Path) -> None:
    """FastestDet has one map of box, score and classes; others have one for each stride."""
    net = raw.Network()
    maps = dict(zip((8, 16, 32), net.features(), strict=True))
    path = net.save(tmp_path / "raw.onnx", {f"map{stride}": net.conv(maps[stride], 16, 85) for stride in strides})
    with pytest.raises(ModelError, match=r"no head fits its outputs map.*85.*for the cells of a grid. Export") as caught:
        recognize_head(prepared(path))
    assert "segmentation" not in str(caught.value)


def test_labels_mean_a_classifier(tmp_path: Path) -> None:
    path, labels = raw.vector(tmp_path / "raw.onnx", width=3), tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    import_model(ImportRequest(path, "mine", labels=labels, model_dir=tmp_path / "models"))
    assert read_card_file(tmp_path / "models" / "mine" / "model.yaml").head == "classify"
    with pytest.raises(ModelError, match="several heads fit") as caught:
        import_model(ImportRequest(path, "other", model_dir=tmp_path / "models"))
    assert "--head classify if it has one output of 3 class scores; --head embed if it has one output of 3 features" in (
        caught.value.hint
    )
    assert "Labels (--labels) also mean a classifier." in caught.value.hint


@pytest.mark.parametrize(
    ("width", "words", "task"), [(7, "an angle", "obb"), (9, "keypoints", "pose"), (87, "keypoints", "pose")]
)
def test_selected_boxes_with_unclear_values_need_the_head_or_the_task(fabricate: Any, width: int, words: str, task: str) -> None:
    """The values could be class scores as well, as in models that select the queries of a transformer."""
    chosen = (helper.make_node("TopK", ["mean", "axis"], ["best", "order"], axis=1),)
    path = fabricate({"output": np.ones((30, width))}, extra=chosen)
    with pytest.raises(ModelError, match=f"no head fits.*Add --head end2end if .* then {words}"):
        recognize_head(prepared(path))
    model = onnx.load(path)
    model.metadata_props.add(key="task", value=task)
    onnx.save(model, path)
    assert recognize_head(prepared(path))[0] == "end2end"


def test_the_keypoints_of_selected_boxes_must_match_the_card(tmp_path: Path) -> None:
    path = raw.yolov8(tmp_path / "raw.onnx", more="pose", points=5, chosen=True)
    with pytest.raises(ModelError, match="15 values follow its box, score and class, but the 17 keypoints of the card need 51"):
        import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))
    path = raw.yolov8(tmp_path / "raw.onnx", more="segment", chosen=True, prototypes=16)
    with pytest.raises(ModelError, match="masks output1"):
        import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))


def test_labels_in_the_file_are_used(tmp_path: Path) -> None:
    messages: list[str] = []
    names = {number: f"thing  {number}" for number in range(7)}
    path = raw.yolov8(tmp_path / "raw.onnx", metadata={"names": str(names)})
    graph = import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"), on_message=messages.append)
    assert "raw.onnx: 7 labels from the file" in messages
    assert '"thing 6"' in {entry.key: entry.value for entry in onnx.load(graph).metadata_props}["vision_infer.card"]


@pytest.mark.parametrize(
    "names", ["{0: 'a', 2: 'b'}", "__import__('os')", "[", "[1, 2]", "{}", "'text'", "{'a': 1}", "(" * 99999]
)
def test_unreadable_labels_are_ignored(names: str, tmp_path: Path) -> None:
    messages: list[str] = []
    path = raw.yolov8(tmp_path / "raw.onnx", metadata={"names": names})
    import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"), on_message=messages.append)
    assert [line for line in messages if "labels" in line] == [
        "raw.onnx: no labels, so results have class numbers; add --labels FILE (one per line) or --labels coco"
    ]


def test_scores_of_unknown_kind_need_an_option(tmp_path: Path) -> None:
    path = raw.detr(tmp_path / "raw.onnx")
    with pytest.raises(ModelError, match=r"'logits' are logits.*Add --scores .* sigmoid .* softmax.*--labels"):
        import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))
    path = raw.vector(tmp_path / "raw.onnx", end="Exp")
    with pytest.raises(ModelError, match=r"may be logits or probabilities.*Add --scores"):
        import_model(ImportRequest(path, "mine", head="classify", model_dir=tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_probabilities_get_no_second_function(tmp_path: Path) -> None:
    path = raw.detr(tmp_path / "raw.onnx", end="Sigmoid")
    with pytest.raises(ModelError, match=r"'logits' already end in Sigmoid\. Remove --scores"):
        import_model(ImportRequest(path, "mine", scores="sigmoid", model_dir=tmp_path / "models"))


def test_separate_scores_and_boxes_in_pixels_are_not_a_detr(fabricate: Any) -> None:
    path = fabricate({"boxes": np.ones((30, 4)), "scores": np.ones((30, 5))})
    with pytest.raises(ModelError, match="no head fits"):
        recognize_head(prepared(path))


@pytest.mark.parametrize(
    ("head", "make", "options", "message"),
    [
        ("yolov8", raw.yolox, {}, r"wants one output|straight from convolutions"),
        ("yolov5", raw.yolox, {}, "straight from convolutions"),
        ("yolox", raw.yolov8, {"transposed": True}, "already decoded, which needs head 'yolov5'"),
        ("yolov8", raw.detr, {}, r"\[1, 4 \+ classes, N\]"),
        ("yolov5", raw.yolov8, {}, "one or three anchors"),
        ("end2end", raw.yolov8, {}, r"\[1, K, 6\]"),
        ("yolov8_seg", raw.yolov8, {}, r"prototypes \[1, M, h, w\]"),
        ("yolov8_obb", raw.yolov8, {}, "with an angle after the class scores"),
        ("nanodet", raw.nanodet_plus, {"sigmoid": False}, "or C labels"),
        ("ssd", raw.yolov8, {}, r"where N is 510 \(SSDLite\)"),
        ("retinanet", raw.yolov8, {}, r"class logits \[1, 2907, classes\]"),
        ("fcos", raw.yolov8, {}, r"centerness \[1, 323, 1\]"),
        ("classify", raw.yolov8, {}, r"one output \[1, classes\]"),
        ("embed", raw.yolov8, {}, r"one output \[1, D\]"),
    ],
)
def test_a_specified_head_must_fit(
    head: str, make: Callable[..., Path], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"does not fit head '{head}'.*{message}"):
        import_model(ImportRequest(make(tmp_path / "raw.onnx", **options), "mine", head=head, model_dir=tmp_path / "models"))
    assert find_head(head).DEFAULTS.task in ("detect", "classify", "embed")


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize(("head", "each", "more"), [("retinanet", 9, False), ("fcos", 1, True)])
def test_torchvision_outputs_of_equal_shape_are_identified_by_name(
    fabricate: Any, classes: int, head: str, each: int, more: bool
) -> None:
    """One class is as narrow as centerness, four are as wide as a box."""
    count = each * (64 + 16 + 4 + 1 + 1)
    outputs = {"cls_logits": np.ones((count, classes)), "bbox_regression": np.ones((count, 4))}
    if more:
        outputs["bbox_ctrness"] = np.ones((count, 1))
    network = prepared(fabricate(outputs))
    assert recognize_head(network)[0] == head


@pytest.mark.parametrize("names", [("a", "b"), ("cls_logits", "logits")])
def test_ambiguous_output_names_are_refused(fabricate: Any, names: tuple[str, str]) -> None:
    path = fabricate({name: np.ones((774, 4)) for name in names})
    with pytest.raises(ModelError, match="no head fits"):
        recognize_head(prepared(path))
