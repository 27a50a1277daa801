"""The images of a verification, and its text."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.precision.import_cases import verified
from tests.support import raw_networks as raw
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size
from vision_infer.precision.verification.comparison import GraphVerification, read_images, synthetic_images

pytest.importorskip("onnxruntime")


def test_a_verification_as_text() -> None:
    result = GraphVerification("mine.onnx", Size(640, 384), "5 images", "the raw model", "detect", 0.00123, 4.4e-7)
    assert str(result) == (
        "mine.onnx: verified at 640x384 (width x height), in batches of 1, 2 and 5, on 5 images, against the raw model: "
        "boxes within 0.0012 px, scores within 4e-07"
    )


def test_the_five_synthetic_images_differ() -> None:
    pictures = synthetic_images()
    assert [image.shape for image in pictures] == [(240, 320, 3)] * 5
    assert all(np.array_equal(*pair) for pair in zip(pictures, synthetic_images.__wrapped__(), strict=True))
    assert all(image.std() > 30 for image in pictures)
    assert not np.array_equal(pictures[0], pictures[1])


def test_images_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--images .*No such file"):
        read_images(tmp_path / "none")
    with pytest.raises(UsageError, match="the folder has no images"):
        read_images(tmp_path)
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 30, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    assert [int(image[0, 0, 0]) for image in read_images(tmp_path)] == [0, 2, 4, 6, 8]
    (tmp_path / "4.png").write_text("broken")
    with pytest.raises(UsageError, match=r"4\.png: the image format is not supported"):
        read_images(tmp_path)


def test_one_image_is_enough(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), synthetic_images()[0])
    (result,) = verified(raw.yolov8(tmp_path / "raw.onnx"), tmp_path / "models", pictures=folder)
    assert result.images == "1 image"
