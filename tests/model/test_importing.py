"""Import: the written folder, its card, and all failures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.assets import RAW_MODELS, raw_model
from tests.support.raw_networks import deployment_graph
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.catalog import read_card_file, resolve_model
from vision_infer.model.graph import read_card
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.model.labels import read_labels
from vision_infer.model.model_folder import card_to_yaml

YOLOX = {"output": np.ones((84, 8))}


def raw_yolox(fabricate: Any, *size: Any, **options: Any) -> Path:
    """A YOLOX: boxes straight from linear layers, objectness and classes after a Sigmoid each."""
    parts = {"output": ((4, "MatMul"), (1, "Sigmoid"), (3, "Sigmoid"))}
    path: Path = fabricate(YOLOX, *size, parts=parts, **options)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def folders(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir()) if models.is_dir() else []


def test_a_raw_model_becomes_a_folder_with_graph_and_card(fabricate: Any, models: Path) -> None:
    file = raw_yolox(fabricate)
    messages: list[str] = []
    graph = import_model(ImportRequest(file, "mine", model_dir=models), on_message=messages.append)
    assert graph == models / "mine" / "model.onnx" == resolve_model("mine", models)
    assert messages == [
        "raw.onnx: head 'yolox', because it has one output of 84 anchors, for the strides 8/16/32, with 5 + 3 values each, "
        "boxes straight from convolutions",
        "raw.onnx: no labels, so results have class numbers; add --labels FILE (one per line) or --labels coco",
    ]
    card = read_card_file(models / "mine" / "model.yaml")
    assert card == read_card(onnx.load(graph), "x")
    assert (card.name, card.head, card.input_size, card.labels) == ("mine", "yolox", Size(64, 64), None)
    assert (card.color, card.fit, card.fill, card.iou) == ("bgr", "top_left", (114, 114, 114), 0.45)
    assert card.weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert folders(models) == ["mine"]


def test_options_override_the_family(fabricate: Any, models: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n dog \nthing\n\n")
    graph = import_model(
        ImportRequest(
            raw_yolox(fabricate, ("h", "w"), batch="n"),
            "mine",
            head="yolox",
            labels=tmp_path / "labels.txt",
            fit="center",
            fill=(1, 2, 3),
            color="rgb",
            mean=(1.0, 2.0, 3.0),
            std=(4.0, 5.0, 6.0),
            inputs=(Size(64, 64),),
            model_dir=models,
            candidates=7,
        )
    )
    card = read_card(onnx.load(graph), "x")
    assert card is not None
    assert card.labels == ("cat", "dog", "thing")
    assert (card.fit, card.fill, card.color, card.mean, card.std) == ("center", (1, 2, 3), "rgb", (1, 2, 3), (4, 5, 6))
    assert onnx.load(graph).graph.output[1].type.tensor_type.shape.dim[1].dim_value == 7


def test_a_file_with_an_open_size_gets_the_default_of_its_family(fabricate: Any, models: Path) -> None:
    file = fabricate({"output": np.ones((8400, 8))}, ("h", "w"), batch="n")
    import_model(ImportRequest(file, "mine", head="yolox", model_dir=models))
    assert read_card_file(models / "mine" / "model.yaml").input_size == Size(640, 640)
    with pytest.raises(ModelError, match="the input size is not fixed"):
        import_model(ImportRequest(file, "other", model_dir=models))


def test_a_deployment_graph_is_imported_unchanged(fabricate: Any, models: Path, tmp_path: Path) -> None:
    first = import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=models))
    same = import_model(ImportRequest(first, "mine", model_dir=tmp_path / "same"))
    assert same.read_bytes() == first.read_bytes()
    renamed = onnx.load(import_model(ImportRequest(first, "other", model_dir=models)))
    card = read_card(renamed, "x")
    assert card is not None
    assert card.name == "other"
    assert renamed.graph == onnx.load(first).graph
    with pytest.raises(ModelError, match="is already a deployment graph"):
        import_model(ImportRequest(first, "third", labels="coco", model_dir=models))
    with pytest.raises(ModelError, match="is already a deployment graph"):
        import_model(ImportRequest(first, "third", mean=(1.0, 1.0, 1.0), model_dir=models))


def test_a_graph_with_a_card_must_keep_the_contract(fabricate: Any, models: Path) -> None:
    graph = import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=models))
    model = onnx.load(graph)
    del model.graph.output[2:]
    onnx.save(model, graph)
    with pytest.raises(ModelError, match="not a deployment graph"):
        import_model(ImportRequest(graph, "other", model_dir=models))


def test_a_name_that_is_taken_needs_overwrite(fabricate: Any, models: Path) -> None:
    import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=models))
    with pytest.raises(ModelError, match=r"'mine' already exists in .*Add --overwrite to replace it"):
        import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=models))
    import_model(ImportRequest(raw_yolox(fabricate), "mine", fit="stretch", model_dir=models, overwrite=True))
    assert read_card_file(models / "mine" / "model.yaml").fit == "stretch"
    assert folders(models) == ["mine"]


def test_a_model_created_in_the_meantime_is_not_replaced(fabricate: Any, models: Path) -> None:
    path = raw_yolox(fabricate)
    first = {}

    def meanwhile(_: Any) -> None:
        first["graph"] = import_model(ImportRequest(path, "mine", fit="stretch", model_dir=models))

    with pytest.raises(ModelError, match=r"'mine' already exists in .*Add --overwrite to replace it"):
        import_model(ImportRequest(path, "mine", fit="center", model_dir=models), verify=meanwhile)
    assert read_card_file(models / "mine" / "model.yaml").fit == "stretch"
    assert folders(models) == ["mine"]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "x" * 101])
def test_an_invalid_name_is_refused(fabricate: Any, models: Path, name: str) -> None:
    with pytest.raises(ModelError, match="model name"):
        import_model(ImportRequest(raw_yolox(fabricate), name, model_dir=models))
    assert folders(models) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "nanodet"}, "does not fit head 'nanodet'"),
        ({"head": "none"}, "unknown head 'none'"),
        ({"labels": "coco"}, "has 3 classes, but there are 80 labels"),
        ({"labels": "none.txt"}, "cannot be read as labels"),
        ({"std": (1.0, 0.0, 1.0)}, "field 'std'"),
        ({"fill": (0, 0, 256)}, "field 'fill.2'"),
        ({"inputs": (Size(32, 32),)}, "no head fits"),
        ({"candidates": 0}, "0 candidates are not possible"),
    ],
)
def test_a_refused_import_leaves_no_files(fabricate: Any, models: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=models, **options))
    assert "\n" not in str(caught.value)
    assert folders(models) == []


def test_a_folder_that_cannot_be_written(fabricate: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"model 'mine' cannot be written to .*file"):
        import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=tmp_path / "file"))


def test_a_failure_at_the_last_step_keeps_the_old_model(fabricate: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=models))
    content, rename = graph.read_bytes(), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.parent.parent.name.startswith(".importing-") and self.name == "mine":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ModelError, match="No space left on device"):
        import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=models, overwrite=True))
    assert graph.read_bytes() == content
    assert folders(models) == ["mine"]


def test_a_new_model_that_cannot_be_moved_leaves_no_files(fabricate: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ModelError, match="No space left on device"):
        import_model(ImportRequest(raw_yolox(fabricate), "mine", model_dir=models))
    assert folders(models) == []


def test_folders_of_imports_that_were_killed_are_removed(fabricate: Any, models: Path) -> None:
    abandoned = models / ".importing-abc"
    (abandoned / "made").mkdir(parents=True)
    (abandoned / "made" / "model.onnx").write_bytes(b"unfinished")
    seen: list[list[str]] = []

    def during(_: Any) -> None:
        seen.append(folders(models))
        import_model(ImportRequest(raw_yolox(fabricate), "second", model_dir=models))  # must not remove the first one's

    import_model(ImportRequest(raw_yolox(fabricate), "first", model_dir=models), verify=during)
    assert ".importing-abc" not in seen[0]
    assert folders(models) == ["first", "second"]


def test_labels(tmp_path: Path) -> None:
    coco = read_labels("coco")
    assert coco is not None
    assert (len(coco), coco[0], coco[79]) == (80, "person", "toothbrush")
    assert read_labels(None) is None
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="the file has no labels"):
        read_labels(tmp_path / "empty.txt")
    with pytest.raises(ModelError, match="cannot be read as labels"):
        read_labels(tmp_path / "binary.txt")


def test_the_data_file_of_labels_is_inside_the_package() -> None:
    """The wheel contains the files of the package only."""
    from vision_infer.model import labels

    assert labels.COCO_FILE.is_file()
    assert labels.COCO_FILE.parent == Path(labels.__file__).parent


@pytest.mark.parametrize("head", RAW_MODELS)
def test_raw_models_are_recognized(models: Path, head: str) -> None:
    import_model(ImportRequest(raw_model(head), "mine", labels="coco", model_dir=models))
    card = read_card_file(models / "mine" / "model.yaml")
    assert (card.head, card.input_size, card.labels) == (head, Size(416, 416), read_labels("coco"))
    assert deployment_graph(raw_model(head), card) == onnx.load(models / "mine" / "model.onnx")
    assert "labels:" in card_to_yaml(card)
