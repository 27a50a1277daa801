"""The size of an image is read from its header, in all formats."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.media import numbered, write_jpeg
from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size
from vision_infer.stream.files.images import decode_image, read_image
from vision_infer.stream.find import find_sources, open_source
from vision_infer.stream.image_size import image_size
from vision_infer.stream.source import ReadOptions

SUFFIXES = (".jpg", ".png", ".bmp", ".webp", ".tif")


def encoded(suffix: str, width: int, height: int) -> bytes:
    done, data = cv2.imencode(suffix, numbered(0, width, height))
    assert done
    return data.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (640, 33), (300, 2000)], ids=str)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format(suffix: str, size: tuple[int, int]) -> None:
    assert image_size(encoded(suffix, *size)) == Size(*size)


def test_lossless_webp_and_exif(tmp_path: Path) -> None:
    done, data = cv2.imencode(".webp", numbered(0, 70, 30), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert done
    assert image_size(data.tobytes()) == Size(70, 30)
    assert image_size(write_jpeg(tmp_path / "turned.jpg", numbered(0, 64, 48), orientation=6).read_bytes()) == Size(64, 48)


@given(st.sampled_from(SUFFIXES), st.integers(0, 400), st.binary(max_size=8))
def test_no_damaged_header_hides_a_larger_image(suffix: str, at: int, noise: bytes) -> None:
    data = bytearray(encoded(suffix, 20, 10))
    data[at : at + len(noise)] = noise
    for part in (bytes(data), bytes(data[:at])):
        try:
            decoded = decode_image(np.frombuffer(part, np.uint8), "image", 1000)
        except StreamError:
            continue
        size = image_size(part)
        assert size is not None
        assert decoded.shape[0] * decoded.shape[1] <= size.width * size.height <= 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_that_is_too_large_is_rejected_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"large{suffix}"
    path.write_bytes(encoded(suffix, 40, 30))
    assert read_image(str(path), 1200).shape == (30, 40, 3)
    with pytest.raises(StreamError, match=r"large.*40x30.*1199 pixels.*--max-pixels"):
        read_image(str(path), 1199)


def test_a_large_image_is_rejected_before_it_is_decoded(tmp_path: Path) -> None:
    """The header declares 2.5 gigapixels without data: decoding it would allocate the memory."""
    data = bytearray(encoded(".png", 20, 10))
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    with pytest.raises(StreamError, match="50000x50000"):
        read_image(str(path))


def test_a_large_image_in_a_folder_is_a_gap_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(".png", 40, 30))
    (tmp_path / "b.png").write_bytes(encoded(".png", 20, 10))
    (spec,) = find_sources([str(tmp_path)], read=ReadOptions(max_pixels=500)).specs
    with open_source(spec) as source:
        (frame,) = source.frames()
    assert frame.file == "b.png"
    assert source.report.gaps == 1
    assert "a.png" in source.report.warnings[0]
    assert frame.image.size == Size(20, 10)
