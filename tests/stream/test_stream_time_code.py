"""The time code survives the processing of frames between a camera and a model, and is not confused with other content."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.media import bikes, decoded
from vision_infer.core.geometry import Size, letterbox
from vision_infer.core.time_code import COLUMNS, MODULUS, ROWS, cells_of, column_edges, row_edges
from vision_infer.stream.time_code_reader import draw, read

moments = st.integers(0, MODULUS - 1)
SIZES = [(160, 90), (177, 101), (320, 240), (640, 360), (768, 432), (360, 640), (1280, 720)]
sizes = st.sampled_from(SIZES)


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return noise, the worst content for a codec."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def through_video(images: list[NDArray[np.uint8]], codec: str = "libx264", crf: int = 35) -> list[NDArray[np.uint8]]:
    """Encode images as 4:2:0 and decode them."""
    file = io.BytesIO()
    height, width = images[0].shape[:2]
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options={"preset": "ultrafast", "crf": str(crf)})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as encoded:
        return [rgb_of(frame) for frame in encoded.decode(video=0)]


def rgb_of(frame: av.VideoFrame) -> NDArray[np.uint8]:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


@given(moments, st.integers(160, 2000), st.integers(90, 1200), st.booleans())
@settings(max_examples=40)
@example(0, 160, 90, False)
@example(MODULUS - 1, 160, 90, True)
def test_a_drawn_time_code_can_be_read(moment: int, width: int, height: int, gray: bool) -> None:
    image = np.full((height, width) if gray else (height, width, 3), 90, np.uint8)
    assert read(image) is None
    draw(image, moment + 3 * MODULUS)
    assert read(image) == moment


@given(moments, sizes, st.integers(5, 100))
@settings(max_examples=40)
@example(MODULUS - 1, (160, 90), 5)
def test_the_time_code_survives_jpeg_of_any_quality(moment: int, size: tuple[int, int], quality: int) -> None:
    image = noise(*size)
    draw(image, moment)
    encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert encoded
    assert read(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)) == moment


@given(st.lists(moments, min_size=3, max_size=6), st.sampled_from([(160, 90), (320, 240), (640, 360)]))
@settings(max_examples=15)
def test_the_time_code_survives_h264(values: list[int], size: tuple[int, int]) -> None:
    images = [noise(*size, seed) for seed in range(len(values))]
    for image, value in zip(images, values, strict=True):
        draw(image, value)
    assert [read(image) for image in through_video(images)] == values


@given(moments)
@settings(max_examples=8)
def test_the_time_code_survives_the_lowest_h264_quality_over_a_still_image(moment: int) -> None:
    images = [np.full((360, 640, 3), (90, 110, 70), np.uint8) for _ in range(4)]
    values = [(moment + 33 * number) % MODULUS for number in range(4)]
    for image, value in zip(images, values, strict=True):
        draw(image, value)
    assert [read(image) for image in through_video(images, crf=45)] == values


@given(moments, st.sampled_from(SIZES[2:]), st.integers(160, 900), st.integers(90, 700))
@settings(max_examples=40)
def test_the_time_code_survives_scaling(moment: int, size: tuple[int, int], width: int, height: int) -> None:
    image = noise(*size)
    draw(image, moment)
    for how in (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC):
        assert read(np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)) == moment


@given(moments, sizes, st.sampled_from([Size(416, 416), Size(640, 640), Size(640, 384)]))
@settings(max_examples=30)
def test_the_time_code_in_a_letterboxed_image_can_be_read(moment: int, size: tuple[int, int], target: Size) -> None:
    image = noise(*size)
    draw(image, moment)
    box = letterbox(Size(*size), target, "center", (114, 114, 114))
    fitted = np.full((target.height, target.width, 3), 114, np.uint8)
    place = fitted[box.y : box.y + box.content.height, box.x : box.x + box.content.width]
    place[:] = cv2.resize(image, (box.content.width, box.content.height))
    assert read(place) == moment


@given(st.binary(min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS))
@settings(max_examples=300)
def test_a_time_is_only_read_from_its_own_cells(levels: bytes) -> None:
    image = np.zeros((90, 160), np.uint8)
    columns, rows = column_edges(160), row_edges(90)
    for cell, level in enumerate(levels):
        row, column = divmod(cell, COLUMNS)
        image[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = level
    moment = read(image)
    if moment is not None:
        white, black = ([level for level, cell in zip(levels, cells_of(moment), strict=True) if cell == each] for each in (1, 0))
        assert min(white) > max(black)


@given(moments, st.integers(0, ROWS * COLUMNS - 1))
def test_one_wrong_cell_is_detected(moment: int, cell: int) -> None:
    image = np.full((90, 160), 90, np.uint8)
    draw(image, moment)
    columns, rows = column_edges(160), row_edges(90)
    row, column = divmod(cell, COLUMNS)
    place = image[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
    place[:] = 255 - place
    assert read(image) is None


def test_photographs_contain_no_time_code() -> None:
    assert {read(rgb_of(frame)) for frame in decoded(bikes())[::10]} == {None}


def test_an_image_that_is_too_small_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 160x90 for a time code, got 150x90"):
        draw(np.zeros((90, 150, 3), np.uint8), 1)
