"""The annotated video, read back with PyAV: the frames, times, size and rate of its source, with boxes."""

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
from vision_infer.sink.files.video import VideoSink
from vision_infer.sink.sink import OutputSpec


def plain(rgb: NDArray[np.uint8], detections: Detections, description: Description | None) -> NDArray[np.uint8]:
    return rgb


def sink_to(path: Path, rate: Fraction | None = Fraction(25), time_base: Fraction | None = Fraction(1, 12_800)) -> VideoSink:
    return VideoSink(OutputSpec("video", str(path)), Drawer(), None, rate, time_base)


def copy(source: Path, to: Path, sound: bool = False) -> list[float]:
    """Write a clip through the sink without drawing; return the times of its frames."""
    info, frames = frames_of(source)
    sink = VideoSink(OutputSpec("video", str(to)), plain, str(source) if sound else None, info.frame_rate, info.time_base)
    times = []
    for one in frames:
        sink.write(one, None)
        assert one.pts_s is not None
        times.append(one.pts_s)
    sink.close(True)
    return times


def times_of(path: Path) -> list[Fraction]:
    return [one.pts * one.time_base for one in media.decoded(path) if one.pts is not None and one.time_base is not None]


@pytest.mark.parametrize("name", ["H264", "B_FRAMES", "NTSC", "VARIABLE", "LATE_START", "ODD", "ODD_MJPEG", "WITH_PCM_AVI"])
def test_every_frame_has_its_time(tmp_path: Path, name: str) -> None:
    recipe: media.Clip = getattr(media, name)
    path = tmp_path / "out.mp4"
    source = media.clip(recipe)
    times = copy(source, path)
    info, _ = frames_of(source)
    assert info.time_base is not None
    exact = [round(Fraction(time) / info.time_base) * info.time_base for time in times]
    assert times_of(path) == exact
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert isinstance(stream, av.VideoStream)
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == (recipe.width + recipe.width % 2, recipe.height + recipe.height % 2)
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.time_base is not None
        assert (info.time_base / stream.time_base).denominator == 1  # the source's units, or finer ones
        if name != "VARIABLE":
            assert stream.average_rate == info.frame_rate


def test_the_frames_are_those_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    copy(media.clip(media.ODD), path)
    for ours, theirs in zip(media.decoded(path), media.decoded(media.clip(media.ODD)), strict=True):
        seen, wanted = ours.to_ndarray(format="rgb24"), theirs.to_ndarray(format="rgb24")
        assert np.abs(seen[:57, :101].astype(int) - wanted.astype(int)).mean() < 8
        assert np.abs(seen[57, :101].astype(int) - seen[56, :101].astype(int)).mean() < 8  # the last row again


def test_the_color_space_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    copy(media.clip(media.H264), path)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


def test_boxes_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    gray = np.full((120, 160, 3), 90, np.uint8)
    sink = sink_to(path)
    for index in range(6):
        one = frame(index, index / 25, gray.copy())
        sink.write(one, result_of(one, found(1, (20, 40, 140, 110))))
    sink.close(True)
    frames = [one.to_ndarray(format="rgb24") for one in media.decoded(path)]
    assert len(frames) == 6
    for image in frames:
        changed = np.abs(image.astype(int) - 90).max(axis=2) > 40
        for edge in (changed[110, 30:130], changed[50:100, 20], changed[50:100, 140]):
            assert edge.mean() > 0.8
        assert not changed[70:100, 40:120].any()


def test_a_frame_without_inference_shows_the_last_detections(tmp_path: Path) -> None:
    drawn: list[float] = []

    def note(rgb: NDArray[np.uint8], detections: Detections, description: Description | None) -> NDArray[np.uint8]:
        drawn.append(float(detections.boxes[0, 0]) if len(detections) else -1)
        return rgb

    sink = VideoSink(OutputSpec("video", str(tmp_path / "out.mp4")), note, None, None, None)
    for index, left in enumerate((None, 1.0, None, None, 4.0, -1.0, None)):
        one = frame(index, index / 25)
        detections = Detections.empty() if left == -1 else found(1, (left or 0, 0, 9, 9))
        sink.write(one, None if left is None else result_of(one, detections))
    sink.close(True)
    assert drawn == [-1, 1, 1, 1, 4, -1, -1]


def test_the_video_of_a_stopped_run_can_be_played(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = sink_to(path)
    for index in range(7):
        sink.write(frame(index, index / 25), None)
    assert not path.exists()
    sink.close(False)
    assert times_of(path) == [Fraction(index, 25) for index in range(7)]
    sink.close(True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_without_frames_there_is_no_file(tmp_path: Path) -> None:
    sink_to(tmp_path / "out.mp4").close(True)
    assert not list(tmp_path.iterdir())


def test_frames_of_another_size_are_fitted_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = sink_to(path)
    for index, (width, height) in enumerate([(96, 64), (48, 96), (201, 33), (96, 64)]):
        sink.write(frame(index, index / 25, media.numbered(index, width, height)), None)
    sink.close(True)
    assert {(one.width, one.height) for one in media.decoded(path)} == {(96, 64)}
    assert len(media.decoded(path)) == 4


def test_frames_without_a_time_follow_at_the_frame_rate(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = sink_to(path, Fraction(10), Fraction(1, 1000))
    for index, pts_s in enumerate([0.0, None, None, 0.5, None]):
        sink.write(frame(index, pts_s), None)
    sink.close(True)
    assert [float(time) for time in times_of(path)] == [0.0, 0.1, 0.2, 0.5, 0.6]


def test_a_source_without_rate_and_time_base(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = sink_to(path, None, None)
    for index in range(4):
        sink.write(frame(index, None), None)
    sink.close(True)
    assert [float(time) for time in times_of(path)] == pytest.approx([0, 0.04, 0.08, 0.12])


def test_times_that_do_not_increase_are_corrected(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = sink_to(path, Fraction(25), Fraction(1, 1000))
    for index, pts_s in enumerate([-0.08, -0.04, 0.0, 0.2, 0.2, 0.1, 0.3]):
        sink.write(frame(index, pts_s), None)
    sink.close(True)
    times = times_of(path)
    assert len(times) == 7
    assert times == sorted(set(times))
    assert float(times[-1]) == 0.3


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 9), (2, 2), (17, 300)])
def test_odd_and_tiny_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "out.mp4"
    sink = sink_to(path)
    for index in range(3):
        rgb = np.full((size[1], size[0], 3), 60 * index, np.uint8)
        sink.write(frame(index, index / 25, rgb), None)
    sink.close(True)
    assert {(one.width, one.height) for one in media.decoded(path)} == {(size[0] + size[0] % 2, size[1] + size[1] % 2)}


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "old.mp4").write_text("older")
    for place in (tmp_path / "file" / "out.mp4", Path("/proc/out.mp4"), tmp_path / "old.mp4", tmp_path):
        with pytest.raises(OutputError) as caught:
            sink_to(place)
        assert str(place) in caught.value.message
        assert caught.value.hint
    assert (tmp_path / "old.mp4").read_text() == "older"


def test_a_failing_write_is_an_output_error(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = sink_to(path)
    sink._file.partial.unlink()
    sink._file.partial.mkdir()
    sink.write(frame(0, 0.0), None)  # still inside the encoder
    with pytest.raises(OutputError) as caught:
        sink.close(False)
    assert str(path) in caught.value.message
    sink.close(False)
    assert not path.exists()


def test_live_video_keeps_the_time_of_capture_when_the_camera_reconnects(tmp_path: Path) -> None:
    """The PTS of a camera begin again at 0 with each connection."""
    path = tmp_path / "live.mp4"
    sink = sink_to(path, None, None)
    for pts_s, captured_s in ((0.0, 100.0), (0.1, 100.1), (0.0, 107.5), (0.1, 107.6)):
        one = frame(0, pts_s)
        one.trace.captured_ns = round(captured_s * 1e9)
        sink.write(one, None)
    sink.close(False)
    assert [float(time) for time in times_of(path)] == pytest.approx([0, 0.1, 7.5, 7.6], abs=1e-4)
