"""Colors for each matrix, range and depth, declared or not, compared with bars computed from the formulas of the standards."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stream.test_stream_range import read
from tests.support import odd_files
from tests.support.odd_files import BARS, bars_clip, bars_frame, bars_seen
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.stream.image import VideoImage

LEVELS = 3
"""The tolerance of 256 levels, for the rounding from 8 bits to YUV and back."""


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", list(odd_files.WEIGHTS))
def test_a_stream_with_a_declared_matrix(matrix: str, full: bool, bits: int) -> None:
    """The size contradicts it: SD for BT.709, HD for BT.601."""
    width, height = (1280, 720) if matrix == "bt601" else (320, 240)
    (frame,) = read(bars_clip(width, height, matrix, full, bits, marked=True))[1]
    assert np.abs(bars_seen(frame.image.to_rgb()) - BARS).max() <= LEVELS


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize(
    ("width", "height", "matrix"),
    [(640, 480, "bt601"), (720, 576, "bt601"), (1280, 720, "bt709"), (1920, 1080, "bt709"), (640, 640, "bt709")],
)
def test_a_stream_without_a_matrix_is_handled_as_players_do(width: int, height: int, matrix: str, bits: int) -> None:
    (frame,) = read(bars_clip(width, height, matrix, full=False, bits=bits, marked=False))[1]
    assert np.abs(bars_seen(frame.image.to_rgb()) - BARS).max() <= LEVELS


@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
def test_hdr_gets_the_correct_matrix_and_no_tone_mapping(transfer: int) -> None:
    (frame,) = read(bars_clip(320, 240, "bt2020", False, 10, marked=True, transfer=transfer))[1]
    assert np.abs(bars_seen(frame.image.to_rgb()) - BARS).max() <= LEVELS


def test_the_slot_has_the_same_colors() -> None:
    (frame,) = read(bars_clip(1280, 720, "bt709", False, 8, marked=False))[1]
    slot = HostSlot(np.zeros((320, 320, 3), np.uint8))
    box = letterbox(frame.image.size, Size(320, 320), "center", (0, 0, 0))
    frame.image.write_into(slot, box)
    assert np.abs(bars_seen(slot.pixels[box.y : box.y + box.content.height]) - BARS).max() <= LEVELS


@pytest.mark.parametrize("mark", [0, 3, 8, 11, 14, 200])
def test_an_unsupported_matrix_is_ignored(mark: int) -> None:
    """FFmpeg's scaler rejects such frames: RGB on a YUV frame, reserved numbers, and unsupported matrices."""
    frame = bars_frame(320, 240, "bt601", False, 8)
    frame.colorspace = mark
    assert np.abs(bars_seen(VideoImage(frame).to_rgb()) - BARS).max() <= LEVELS


def test_bt2020_by_its_primaries_and_with_constant_luminance() -> None:
    frame = bars_frame(320, 240, "bt2020", False, 10)
    frame.color_primaries = 9
    assert np.abs(bars_seen(VideoImage(frame).to_rgb()) - BARS).max() <= LEVELS
    frame = bars_frame(320, 240, "bt2020", False, 10)
    frame.colorspace = 10
    assert np.abs(bars_seen(VideoImage(frame).to_rgb()) - BARS).max() <= LEVELS
