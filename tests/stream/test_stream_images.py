"""Still images are read in their displayed orientation; unreadable images are gaps or errors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.media import numbered, write_jpeg
from vision_infer.core.errors import StreamError
from vision_infer.stream.files.images import read_image
from vision_infer.stream.find import find_sources, open_source
from vision_infer.stream.source import SourceSpec


def quarters() -> NDArray[np.uint8]:
    """Return quarters in red, green, blue and white: each rotation looks different."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, :30], image[20:, 30:] = (
        (250, 0, 0),
        (0, 250, 0),
        (0, 0, 250),
        (250, 250, 250),
    )
    return image


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(tmp_path: Path, orientation: int) -> None:
    path = write_jpeg(tmp_path / "turned.jpg", quarters(), orientation)
    seen = read_image(str(path))
    expected = UPRIGHT[orientation](quarters())
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected.astype(int)).mean() < 12  # the artifacts of JPEG at edges


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_every_format_is_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    assert cv2.imwrite(str(path), quarters()[..., ::-1].copy())
    seen = read_image(str(path))
    assert seen.dtype == np.uint8
    assert seen.shape == (40, 60, 3)
    assert seen[5, 5, 0] > 200 > 60 > seen[5, 5, 2]


@pytest.mark.parametrize(
    "stored", [np.full((9, 7), 130, np.uint8), np.full((9, 7, 4), 130, np.uint8), np.full((9, 7, 3), 130 * 257, np.uint16)]
)
def test_gray_alpha_and_sixteen_bits_become_rgb(tmp_path: Path, stored: NDArray[np.uint8]) -> None:
    path = tmp_path / "image.png"
    assert cv2.imwrite(str(path), stored)
    seen = read_image(str(path))
    assert seen.shape == (9, 7, 3)
    assert seen.dtype == np.uint8
    assert (np.abs(seen.astype(int) - 130) <= 1).all()


def broken_files(folder: Path) -> dict[str, Path]:
    whole = write_jpeg(folder / "whole.jpg", numbered(1, 320, 240)).read_bytes()
    files = {
        "missing": folder / "missing.jpg",
        "empty": folder / "empty.jpg",
        "text": folder / "text.png",
        "cut": folder / "cut.jpg",
        "folder": folder / "folder.jpg",
    }
    files["empty"].touch()
    files["text"].write_text("not an image\n" * 20)
    files["cut"].write_bytes(whole[: len(whole) // 2])
    files["folder"].mkdir()
    return files


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "folder"])
def test_unreadable_images(tmp_path: Path, kind: str) -> None:
    path = broken_files(tmp_path)[kind]
    with pytest.raises(StreamError) as caught:
        read_image(str(path))
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    spec = SourceSpec("one", "images", (str(path),))
    with open_source(spec) as source, pytest.raises(StreamError):
        list(source.frames())


def test_a_folder_continues_after_a_broken_image(tmp_path: Path) -> None:
    for number, name in enumerate(("a.jpg", "b.JPG", "c.jpeg")):
        write_jpeg(tmp_path / name, numbered(number, 40 + number, 30))
    (tmp_path / "aa.png").write_text("broken")
    (spec,) = find_sources([str(tmp_path)]).specs
    with open_source(spec) as source:
        frames = list(source.frames())
        assert source.report.gaps == 1
        assert source.info.frames == 4
    assert [frame.file for frame in frames] == ["a.jpg", "b.JPG", "c.jpeg"]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.pts_s for frame in frames] == [None] * 3
    assert [frame.image.size.width for frame in frames] == [40, 41, 42]


def test_a_single_image_does_not_name_its_file(tmp_path: Path) -> None:
    path = write_jpeg(tmp_path / "a.jpg", numbered(0, 40, 30))
    (spec,) = find_sources([str(path)]).specs
    with open_source(spec) as source:
        (frame,) = source.frames()
    assert frame.file is None
    assert frame.stream == "a"


def test_opencv_writes_nothing_to_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cv2.imread(str(tmp_path / "missing.png"))
    assert capfd.readouterr().err == ""
