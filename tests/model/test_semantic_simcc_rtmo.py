"""Graphs of semantic segmentation and of the keypoints of one object: decoding, verification, and FP32 against other engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support import raw_networks as raw
from vision_infer.core.details import ClassMap
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.model.reading import read_deployment_card
from vision_infer.precision.verification.comparison import normalize
from vision_infer.precision.verification.import_check import verify_import
from vision_infer.precision.verification.vectors import compare_keypoints, compare_maps

pytest.importorskip("onnxruntime")
MODELS: list[Callable[[Path], Path]] = [
    raw.semantic,
    partial(raw.semantic, last=True, aux=True),
    partial(raw.semantic, chosen=True),
    raw.simcc,
    partial(raw.simcc, steps=1),
    raw.rtmo,
    partial(raw.rtmo, dynamic=True),
    raw.movenet,
    raw.dbnet,
    lambda path: raw.integers(raw.movenet(path)),
    lambda path: raw.integers(raw.channels_last(raw.movenet(path)), TensorProto.UINT8),
]


@pytest.mark.parametrize("make", MODELS)
def test_the_graph_agrees_with_the_raw_model(make: Callable[[Path], Path], tmp_path: Path) -> None:
    found = []
    import_model(
        ImportRequest(make(tmp_path / "raw.onnx"), "mine", model_dir=tmp_path / "models"),
        verify=lambda one: found.extend(verify_import(one)),
    )
    assert found[0].values <= 1e-3
    assert "verified at 160x96" in str(found[0])


@pytest.mark.parametrize("name", ["onnxruntime-cpu-fp32", "openvino-cpu-fp32"])
def test_an_engine_returns_the_best_class_of_each_pixel(name: str, tmp_path: Path) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    path = raw.semantic(tmp_path / "raw.onnx")
    graph = import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    with open_engine(graph, EngineRequest(name, "cpu")) as engine:
        loan = engine.lend(1)
        loan.slots[0].pixels[:] = pixels
        classes = engine.collect(engine.submit(loan)).outputs["classes"]
    best = RawSession(path).run({"images": normalize(pixels, read_deployment_card(graph))[None]})["out"].argmax(axis=1)
    assert classes.dtype == np.uint8
    assert (classes == best).mean() >= 0.99
    assert len(np.unique(classes)) > 1


def test_a_file_may_have_an_input_of_integers(tmp_path: Path) -> None:
    paths = [raw.movenet(tmp_path / "a.onnx"), raw.integers(raw.movenet(tmp_path / "b.onnx"))]
    graphs = [import_model(ImportRequest(path, path.stem, model_dir=tmp_path / "models")) for path in paths]
    pixels = np.random.default_rng(0).integers(0, 255, (2, 96, 160, 3), np.uint8)
    a, b = (RawSession(graph).run({"images": pixels})["keypoints"] for graph in graphs)
    np.testing.assert_array_equal(a, b)
    assert a[..., 0].max() > 1


def test_positions_of_keypoints_are_those_of_the_best_scores(tmp_path: Path) -> None:
    path = raw.simcc(tmp_path / "raw.onnx")
    graph = import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))
    assert [info.name for info in onnx.load(graph).graph.output] == ["keypoints"]
    pixels = np.random.default_rng(0).integers(0, 255, (1, 96, 160, 3), np.uint8)
    points = RawSession(graph).run({"images": pixels})["keypoints"]
    assert points.shape == (1, 1, 17, 3)
    raws = RawSession(path).run({"images": normalize(pixels[0], read_deployment_card(graph))[None]})
    x, y = raws["simcc_x"], raws["simcc_y"]
    np.testing.assert_allclose(points[0, 0, :, 0], x[0].argmax(axis=1) / 2)
    np.testing.assert_allclose(points[0, 0, :, 1], y[0].argmax(axis=1) / 2)
    np.testing.assert_allclose(points[0, 0, :, 2], np.minimum(x[0].max(axis=1), y[0].max(axis=1)), atol=1e-4)


@pytest.mark.parametrize(("fit", "size"), [("center", Size(64, 64)), ("top_left", Size(32, 64)), ("stretch", Size(128, 32))])
def test_a_map_covers_the_image_and_not_what_is_around_it(fit: str, size: Size) -> None:
    box = letterbox(size, Size(128, 64), fit, (0, 0, 0))  # type: ignore[arg-type]
    whole = np.full((32, 64), 9, np.uint8)
    x, y, content = box.x // 2, box.y // 2, box.content
    height, width = content.height // 2, content.width // 2
    whole[y : y + height, x : x + width] = 1
    whole[y : y + height // 2, x : x + width] = 2
    found = ClassMap.from_slot(whole, box, ("a", "b", "c"))
    assert found.classes.shape == (height, width)
    assert found.class_ids == [1, 2]
    pixels = found.pixels(size)
    assert (pixels[: size.height // 2] == 2).all()
    assert (pixels[size.height // 2 :] == 1).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_rows_of_a_map_are_run_lengths_of_each_class() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    classes = np.random.default_rng(0).integers(0, 3, (12, 20), np.uint8)
    found = ClassMap(classes, ("background", "road", "car"))
    rows = found.rows()
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-3)
    for row in rows:
        np.testing.assert_array_equal(mask.decode(row["mask"]), classes == row["class_id"])
    assert {row["label"] for row in rows} == {"background", "road", "car"}
    assert {found.label_of(number) for number in found.shown_ids} == {"road", "car"}


def test_engines_are_compared_by_pixels_and_distances() -> None:
    ours = [{"classes": np.zeros((1, 4, 5), np.uint8)}]
    theirs = [{"classes": np.array([[[1] * 5] + [[0] * 5] * 3], np.uint8)}]
    found = compare_maps(ours, theirs)
    assert found.lost == pytest.approx([25])
    assert found.figures["mean_iou"] == pytest.approx(0.75)
    points = np.zeros((1, 1, 4, 3), np.float32)
    moved = points.copy()
    moved[0, 0, 0] = 3, 4, 0
    found = compare_keypoints([{"keypoints": points}], [{"keypoints": moved}])
    assert found.lost == pytest.approx([25])
    assert found.figures["largest_distance"] == pytest.approx(5)


def test_labels_must_name_all_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(ModelError, match="the model has 7 classes, but there are 2 labels"):
        import_model(
            ImportRequest(raw.semantic(tmp_path / "raw.onnx"), "mine", labels=tmp_path / "labels.txt", model_dir=tmp_path / "m")
        )


@pytest.mark.parametrize("name", ["onnxruntime-cpu-fp32", "openvino-cpu-fp32"])
def test_an_engine_returns_the_probability_of_text(name: str, tmp_path: Path) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    path = raw.dbnet(tmp_path / "raw.onnx")
    graph = import_model(ImportRequest(path, "mine", model_dir=tmp_path / "models"))
    card = read_deployment_card(graph)
    assert (card.head, card.detail, card.labels, card.outputs) == ("dbnet", "rotated_boxes", ("text",), ("probabilities",))
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    with open_engine(graph, EngineRequest(name, "cpu")) as engine:
        loan = engine.lend(1)
        loan.slots[0].pixels[:] = pixels
        found = engine.collect(engine.submit(loan)).outputs["probabilities"]
    expected = RawSession(path).run({"images": normalize(pixels, card)[None]})["out"][:, 0]
    assert found.dtype == np.uint8
    assert found.max() > found.min()
    np.testing.assert_allclose(found / 255, expected, atol=0.01 if name.startswith("openvino") else 0.5 / 255 + 1e-6)


def test_a_map_of_one_class_is_not_text_without_the_end_of_dbnet(tmp_path: Path) -> None:
    path = raw.dbnet(tmp_path / "raw.onnx", deconvolutions=0)
    with pytest.raises(ModelError, match="is not one of a class score for each pixel"):
        import_model(ImportRequest(path, "mine", model_dir=tmp_path / "m"))
    stretched = ImportRequest(raw.dbnet(tmp_path / "text.onnx"), "mine", model_dir=tmp_path / "m", fit="stretch")
    with pytest.raises(ModelError, match="rotated boxes are not rectangles in a stretched image"):
        import_model(stretched)
