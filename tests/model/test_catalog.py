"""Search for models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.catalog import bundled_dir, graph_file, list_models, model_dir, model_inputs, resolve_model

CARD = "name: {name}\ninput: {{width: 32, height: 32}}\n"


def add(folder: Path, name: str, card: str | bytes = CARD, graph: bool = True) -> Path:
    model = folder / name
    model.mkdir(parents=True)
    content = card.format(name=name).encode() if isinstance(card, str) else card
    (model / "model.yaml").write_bytes(content)
    if graph:
        (model / "model.onnx").write_bytes(b"")
    return model / "model.onnx"


@pytest.fixture
def user(tmp_path: Path) -> Path:
    return tmp_path / "user"


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    return tmp_path / "bundled"


def test_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert model_dir(Path("here"), {"VISION_INFER_HOME": "/there"}) == Path("here")
    assert model_dir(None, {"VISION_INFER_HOME": "/there"}) == Path("/there/models")
    assert model_dir(None, {"VISION_INFER_HOME": "~/there"}) == Path("/home/someone/there/models")
    assert model_dir(None, {"VISION_INFER_HOME": ""}) == model_dir(None, {})
    assert model_dir(None, {}) == Path("/home/someone/.local/share/vision-infer/models")


def test_the_environment_of_the_process_is_read_when_asked(user: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = add(user / "models", "mine")
    monkeypatch.setenv("VISION_INFER_HOME", str(user))
    assert resolve_model("mine", bundled=bundled) == graph


def test_bundled_models_are_in_the_package_or_at_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    assert bundled_dir() in (root / "models", root / "vision_infer" / "bundled")
    monkeypatch.setattr("vision_infer.model.catalog.__file__", str(tmp_path / "site" / "vision_infer" / "model" / "catalog.py"))
    assert bundled_dir() == tmp_path / "site" / "models"
    (tmp_path / "site" / "vision_infer" / "bundled").mkdir(parents=True)
    assert bundled_dir() == tmp_path / "site" / "vision_infer" / "bundled"


def test_models_are_listed_by_name_and_the_users_models_take_precedence(user: Path, bundled: Path) -> None:
    add(bundled, "b")
    hidden = add(bundled, "c")
    own, first = add(user, "c"), add(user, "a")
    add(user, ".importing-x")
    (user / "no-model").mkdir()
    entries = list_models(user, {}, bundled)
    assert [(entry.name, entry.origin) for entry in entries] == [("a", "user"), ("b", "bundled"), ("c", "user")]
    assert [entry.path for entry in entries] == [first, bundled / "b" / "model.onnx", own]
    assert all(entry.card is not None and entry.card.name == entry.name and not entry.error for entry in entries)
    assert resolve_model("c", user, {}, bundled) == own != hidden


def test_missing_folders_have_no_models(user: Path, bundled: Path) -> None:
    assert list_models(user, {}, bundled) == []
    with pytest.raises(ModelError, match=r"unknown model 'x'\. Installed models: none"):
        resolve_model("x", user, {}, bundled)


@pytest.mark.parametrize(
    ("card", "error"),
    [
        (b"name: [", "broken/model.yaml: not valid YAML"),
        (b"\xff\xfe", "broken/model.yaml: cannot be read"),
        (b"", "broken/model.yaml: field 'card'"),
        (b"name: x\ninput: {width: 0, height: 1}\n", "field 'input.width'"),
    ],
)
def test_an_invalid_card_is_listed_with_its_error(user: Path, bundled: Path, card: bytes, error: str) -> None:
    add(user, "broken", card)
    add(user, "whole")
    broken, whole = list_models(user, {}, bundled)
    assert (broken.card, whole.error) == (None, "")
    assert error in broken.error
    with pytest.raises(ModelError, match="model 'broken' cannot be used"):
        resolve_model("broken", user, {}, bundled)
    assert resolve_model("whole", user, {}, bundled) == whole.path


def test_a_card_without_its_graph(user: Path, bundled: Path) -> None:
    add(user, "half", graph=False)
    (entry,) = list_models(user, {}, bundled)
    assert entry.card is not None
    with pytest.raises(ModelError, match=r"half/model.onnx is missing"):
        resolve_model("half", user, {}, bundled)


def test_an_unknown_name_suggests_the_nearest(user: Path, bundled: Path) -> None:
    add(user, "nanodet-416")
    add(user, "yolox-nano")
    with pytest.raises(ModelError, match=r"unknown model 'nanodet'\. Did you mean 'nanodet-416'\?"):
        resolve_model("nanodet", user, {}, bundled)
    with pytest.raises(ModelError, match=r"unknown model 'qqq'\. Installed models: nanodet-416, yolox-nano"):
        resolve_model("qqq", user, {}, bundled)


def test_a_file_is_found_by_its_path(user: Path, bundled: Path) -> None:
    graph = add(user, "mine")
    assert resolve_model(graph, user, {}, bundled) == graph
    assert resolve_model(str(graph), user, {}, bundled) == graph
    with pytest.raises(ModelError, match=r"none.onnx: no such file"):
        resolve_model("none.onnx", user, {}, bundled)


def test_graphs_of_other_input_sizes_are_found_by_name(user: Path, bundled: Path) -> None:
    graph = add(user, "mine")
    for name in ("model-384x640.onnx", "model-32x32.onnx", "model-0x5.onnx", "model-1x2x3.onnx", "model-ax5.onnx", "notes.txt"):
        graph.with_name(name).write_bytes(b"")
    found = model_inputs("mine", user, {}, bundled)
    assert found == {Size(32, 32): graph, Size(640, 384): graph.with_name("model-384x640.onnx")}
    assert next(iter(found.values())) == resolve_model("mine", user, {}, bundled)
    assert [graph_file(size, Size(32, 32)) for size in found] == [path.name for path in found.values()]
    (entry,) = list_models(user, {}, bundled)
    assert entry.other_sizes == (Size(640, 384),)


def test_a_file_has_the_size_of_its_card() -> None:
    graph = bundled_dir() / "nanodet-416" / "model.onnx"
    assert model_inputs(graph) == {Size(416, 416): graph}
    assert model_inputs("nanodet-416", Path("nowhere"), {}) == {
        Size(416, 416): graph,
        Size(416, 256): graph.with_name("model-256x416.onnx"),
    }


def test_listing_models_does_not_import_onnx() -> None:
    """Importing onnx takes longer than the rest of the command."""
    code = "import sys, vision_infer.model.catalog as c; c.list_models(); print('onnx' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
