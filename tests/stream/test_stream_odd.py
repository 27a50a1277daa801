"""Unusual but valid files: rotated, changing, tiny, interlaced; and files with wrong headers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.stream.test_stream_range import read
from tests.support import media, odd_files
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.stream.source import ReadReport

TS = replace(media.H264, suffix=".ts")


@pytest.mark.parametrize(("clockwise", "turns"), [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_a_rotated_video_is_displayed_as_by_a_player(clockwise: int, turns: int) -> None:
    _, frames, _ = read(odd_files.rotated(clockwise))
    plain = read(media.clip(media.H264))[1]
    assert len(frames) == len(plain)
    for frame, one in zip(frames[::8], plain[::8], strict=True):
        wanted = np.rot90(one.image.to_rgb(), turns)
        assert frame.image.size == Size(wanted.shape[1], wanted.shape[0])
        assert np.array_equal(frame.image.to_rgb(), wanted)


@pytest.mark.parametrize(
    "matrix",
    [(a, b, c, d) for a, d in ((1, 1), (-1, 1), (1, -1), (-1, -1)) for b, c in ((0, 0),)]
    + [(0, b, c, 0) for b in (-1, 1) for c in (-1, 1)],
    ids=str,
)
def test_each_mirroring_and_rotation(matrix: tuple[int, int, int, int]) -> None:
    """Compared pixel by pixel with the definition of the matrix; front cameras mirror."""
    coded = read(media.clip(media.H264))[1][5].image.to_rgb()
    shown = read(odd_files.displayed(matrix))[1][5].image.to_rgb()
    a, b, c, d = matrix
    height, width = coded.shape[:2]
    y, x = np.mgrid[:height, :width]
    p, q = a * x + c * y, b * x + d * y
    wanted = np.zeros_like(shown)
    wanted[q - q.min(), p - p.min()] = coded
    assert np.array_equal(shown, wanted)


def test_an_invalid_matrix_causes_no_rotation() -> None:
    assert read(odd_files.displayed((0, 0, 0, 0)))[1][0].image.size == Size(128, 96)


@pytest.mark.parametrize("clockwise", [0, 90, 180, 270])
@pytest.mark.parametrize("target", [Size(64, 48), Size(50, 70)], ids=str)
def test_a_rotated_frame_is_rotated_in_the_slot(clockwise: int, target: Size) -> None:
    """Rotating after resizing gives the same as rotating first, except for rounding."""
    image = read(odd_files.rotated(clockwise))[1][3].image
    box = letterbox(image.size, target, "center", (9, 9, 9))
    slot = HostSlot(np.zeros((target.height, target.width, 3), np.uint8))
    image.write_into(slot, box)
    content = slot.pixels[box.y : box.y + box.content.height, box.x : box.x + box.content.width]
    wanted = cv2.resize(image.to_rgb(), (box.content.width, box.content.height), interpolation=cv2.INTER_AREA)
    assert np.abs(content.astype(int) - wanted.astype(int)).mean() < 6
    assert (slot.pixels[0, 0] == 9).all() or box.content == target


def test_size_and_pixel_format_change_during_a_stream() -> None:
    path = odd_files.joined(TS, replace(TS, width=160, height=128), replace(TS, pix_fmt="yuv444p"))
    _, frames, report = read(path)
    assert [frame.image.size for frame in frames] == [Size(128, 96)] * 25 + [Size(160, 128)] * 25 + [Size(128, 96)] * 25
    assert [frame.index for frame in frames] == list(range(75))
    assert report.gaps == report.damaged == 0
    for frame, one in zip(frames[::10], media.decoded(path)[::10], strict=True):
        assert np.array_equal(frame.image.to_rgb(), one.to_ndarray(format="rgb24"))


def test_timestamps_that_jump_back_are_kept() -> None:
    _, frames, _ = read(odd_files.joined(TS, TS))
    seen = [frame.pts_s for frame in frames]
    assert None not in seen
    assert len(seen) == 50
    assert seen[:25] == sorted(seen[:25], key=lambda time: time or 0)


def test_only_missing_timestamps_are_none() -> None:
    """In a container with missing timestamps, a frame without one gets None or its decoding time; the others keep theirs."""
    _, frames, _ = read(media.clip(odd_files.HEADERLESS))
    assert len(frames) == 40
    _, late, _ = read(media.clip(media.LATE_START))
    assert late[0].pts_s == 5.0


def test_interlaced_video_is_reported() -> None:
    info, frames, report = read(media.clip(odd_files.INTERLACED))
    assert info.interlaced
    assert len(frames) == 25
    assert "interlaced" in report.warnings[0]
    info, _, report = read(media.clip(media.H264))
    assert not info.interlaced
    assert report == ReadReport()


def test_a_header_with_a_wrong_duration() -> None:
    info, frames, report = read(odd_files.lying("duration"))
    assert (info.duration_s, len(frames)) == (10.0, 25)
    assert report.warnings == ["ends at 1.00 s of 10.00 s: truncated, or its header is wrong"]


def test_a_header_with_a_wrong_size() -> None:
    """The size in the video stream is used."""
    info, frames, report = read(odd_files.lying("size"))
    assert {frame.image.size for frame in frames} == {Size(128, 96)} == {info.size}
    assert report == ReadReport()


TINY = {
    "1x1 ffv1": media.Clip(suffix=".mkv", codec="ffv1", width=1, height=1, frames=3, options=()),
    "1x1 vp9": media.Clip(suffix=".webm", codec="libvpx-vp9", width=1, height=1, frames=3, options=()),
    "3x7 mjpeg": media.Clip(suffix=".avi", codec="mjpeg", pix_fmt="yuvj420p", width=3, height=7, frames=3, options=()),
    "7x3 vp9": media.Clip(suffix=".webm", codec="libvpx-vp9", width=7, height=3, frames=3, options=()),
}
"""The smallest frames, and odd sizes, whose chroma planes end with half a pixel."""


@pytest.mark.parametrize("recipe", TINY.values(), ids=TINY.keys())
def test_tiny_frames(recipe: media.Clip) -> None:
    _, frames, _ = read(media.clip(recipe))
    assert len(frames) == 3
    target = Size(32, 32)
    for frame in frames:
        assert frame.image.size == Size(recipe.width, recipe.height)
        assert frame.image.to_rgb().shape == (recipe.height, recipe.width, 3)
        slot = HostSlot(np.zeros((32, 32, 3), np.uint8))
        frame.image.write_into(slot, letterbox(frame.image.size, target, "center", (9, 9, 9)))


def test_a_still_image_with_a_video_suffix(tmp_path: Path) -> None:
    path = media.write_jpeg(tmp_path / "still.mp4", media.numbered(0, 64, 48))
    _, frames, report = read(path)
    assert [frame.image.size for frame in frames] == [Size(64, 48)]
    assert report == ReadReport()
