"""Fewer and smaller frames of annotated video, and the encoder that makes them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.sink.results import found, frame, frames_of, result_of
from tests.support import media
from vision_infer.analyze.draw import Drawer
from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.core.geometry import Size
from vision_infer.sink.files.encoder import ENCODERS, X264, Encoder, choose_encoder
from vision_infer.sink.files.shrink import shrunk_size
from vision_infer.sink.files.video import VideoSink
from vision_infer.sink.sink import OutputSpec, Written

GONE = Encoder("h264_of_a_machine_that_is_not_here", "yuv420p", ())
WRONG = Encoder("libx264", "yuv420p", (("profile", "no such profile"),))


def times(path: Path) -> list[float]:
    return [round(float(one.time), 4) for one in media.decoded(path) if one.time is not None]


def write(path: Path, count: int, rate: Fraction, fps: float | None) -> list[float]:
    sink = VideoSink(OutputSpec("video", str(path), fps=fps), Drawer(), None, rate, Fraction(1, 12_800))
    for index in range(count):
        sink.write(frame(index, float(index / rate)), None)
    sink.close(True)
    return times(path)


def test_fewer_frames_keep_their_times(tmp_path: Path) -> None:
    assert write(tmp_path / "five.mp4", 25, Fraction(25), 5) == [0, 0.2, 0.4, 0.6, 0.8]
    # At 25 frames per second there is none at 0.1 s: the first one after it is written.
    assert write(tmp_path / "ten.mp4", 13, Fraction(25), 10) == [0, 0.12, 0.2, 0.32, 0.4]
    assert write(tmp_path / "slow.mp4", 100, Fraction(25), 0.5) == [0, 2]
    with av.open(str(tmp_path / "five.mp4")) as container:
        assert container.streams.video[0].average_rate == 5


@pytest.mark.parametrize("fps", [25, 30, 1000])
def test_no_more_frames_than_the_source_has(tmp_path: Path, fps: float) -> None:
    assert len(write(tmp_path / "all.mp4", 30, Fraction(25), fps)) == 30


def test_the_first_frame_is_always_written(tmp_path: Path) -> None:
    path = tmp_path / "late.mp4"
    info, frames = frames_of(media.clip(media.LATE_START))
    sink = VideoSink(OutputSpec("video", str(path), fps=5), Drawer(), None, info.frame_rate, info.time_base)
    given = []
    for one in frames:
        sink.write(one, None)
        given.append(one.pts_s)
    sink.close(True)
    assert times(path) == [pytest.approx(one, abs=1e-3) for one in given[::5]]


def test_skipped_frames_are_not_converted(tmp_path: Path) -> None:
    converted: list[int] = []

    def note(rgb: NDArray[np.uint8], detections: Detections, description: Description | None) -> NDArray[np.uint8]:
        converted.append(len(detections))
        return rgb

    sink = VideoSink(OutputSpec("video", str(tmp_path / "out.mp4"), fps=5), note, None, Fraction(25), Fraction(1, 12_800))
    for index in range(10):
        one = frame(index, index / 25)
        sink.write(one, result_of(one, found(index)) if index % 2 else None)
    sink.close(True)
    assert converted == [0, 5]


def test_sound_stays_in_sync(tmp_path: Path) -> None:
    source, path = media.clip(media.WITH_AAC), tmp_path / "out.mp4"
    info, frames = frames_of(source)
    spec = OutputSpec("video", str(path), fps=5, height=48)
    sink = VideoSink(spec, Drawer(), str(source), info.frame_rate, info.time_base)
    for one in frames:
        sink.write(one, None)
    sink.close(True)
    assert media.sound_packets(path) == media.sound_packets(source)


@pytest.mark.parametrize(
    ("size", "height", "shrunk"),
    [((640, 272), 136, (320, 136)), ((640, 272), 101, (236, 100)), ((101, 57), 20, (36, 20)), ((10, 2000), 100, (2, 100))],
)
def test_a_smaller_video_keeps_the_aspect_ratio(
    tmp_path: Path, size: tuple[int, int], height: int, shrunk: tuple[int, int]
) -> None:
    assert shrunk_size(Size(*size), height) == Size(*shrunk)
    path = tmp_path / "out.mp4"
    sink = VideoSink(OutputSpec("video", str(path), height=height), Drawer(), None, Fraction(25), None)
    for index in range(3):
        sink.write(frame(index, index / 25, media.numbered(index, *size)), None)
    sink.write(frame(3, 3 / 25, media.numbered(3, 200, 2000)), None)  # another size is fitted to the first
    sink.close(True)
    assert [(one.width, one.height) for one in media.decoded(path)] == [shrunk] * 4


@pytest.mark.parametrize("height", [64, 100])
def test_a_video_is_never_larger_than_the_source(tmp_path: Path, height: int) -> None:
    path = tmp_path / "out.mp4"
    sink = VideoSink(OutputSpec("video", str(path), height=height), Drawer(), None, Fraction(25), None)
    sink.write(frame(), None)
    sink.close(True)
    assert {(one.width, one.height) for one in media.decoded(path)} == {(96, 64)}


def test_boxes_are_scaled_to_the_smaller_image(tmp_path: Path) -> None:
    seen: list[tuple[tuple[int, ...], list[float]]] = []

    def note(rgb: NDArray[np.uint8], detections: Detections, description: Description | None) -> NDArray[np.uint8]:
        seen.append((rgb.shape, detections.boxes[0].tolist()))
        return Drawer()(rgb, detections, description)

    path = tmp_path / "out.mp4"
    sink = VideoSink(OutputSpec("video", str(path), height=120), note, None, Fraction(25), None)
    for index in range(4):
        one = frame(index, index / 25, np.full((480, 640, 3), 90, np.uint8))
        sink.write(one, result_of(one, found(1, (80, 200, 560, 440))))
    sink.close(True)
    assert seen == [((120, 160, 3), [20, 50, 140, 110])] * 4
    image = media.decoded(path)[0].to_ndarray(format="rgb24")
    changed = np.abs(image.astype(int) - 90).max(axis=2) > 40
    for edge in (changed[110, 30:130], changed[60:100, 20], changed[60:100, 140]):
        assert edge.mean() > 0.8
    assert not changed[70:100, 40:120].any()


def test_the_first_working_encoder_is_used(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    encoders = (GONE, WRONG, X264)
    sink = VideoSink(OutputSpec("video", str(path)), Drawer(), None, None, None, encoders)
    for index in range(3):
        sink.write(frame(index, index / 25), None)
    sink.close(True)
    assert sink.outputs == [Written(str(path), "libx264")]
    assert len(media.decoded(path)) == 3
    assert choose_encoder(Size(96, 64), Fraction(25), Fraction(1, 25), encoders) is X264


def test_no_encoder_at_all(tmp_path: Path) -> None:
    sink = VideoSink(OutputSpec("video", str(tmp_path / "out.mp4")), Drawer(), None, None, None, (GONE,))
    with pytest.raises(OutputError, match=GONE.name) as caught:
        sink.write(frame(), None)
    assert caught.value.hint
    sink.close(False)
    assert not list(tmp_path.iterdir())


def test_an_encoder_with_other_planes(tmp_path: Path) -> None:
    """Hardware encoders take NV12; x264 does too."""
    path = tmp_path / "out.mp4"
    other = Encoder("libx264", "nv12", X264.options)
    sink = VideoSink(OutputSpec("video", str(path)), Drawer(), None, None, None, (other,))
    plain = media.numbered(4, 96, 64)
    for index in range(3):
        sink.write(frame(index, index / 25, plain.copy()), None)
    sink.close(True)
    shown = media.decoded(path)[1].to_ndarray(format="rgb24")
    assert np.abs(shown.astype(int) - plain.astype(int)).mean() < 8


def test_x264_is_always_available() -> None:
    assert ENCODERS[-1] is X264
    assert choose_encoder(Size(2, 2), Fraction(25), Fraction(1, 25)).name in {encoder.name for encoder in ENCODERS}
