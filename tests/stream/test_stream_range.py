"""Parts of a video: time ranges exact to the frame, key frames only, another track, and frames that are too large."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import media, odd_files
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.stream.find import open_source
from vision_infer.stream.source import ReadOptions, ReadReport, SourceSpec, StreamInfo

OPEN_GOP = replace(media.B_FRAMES, options=(("preset", "veryfast"), ("bf", "3"), ("g", "12"), ("x264-params", "open-gop=1")))
"""Key frames that are followed by frames displayed before them."""
RANGED = {
    "mp4 with B-frames": media.B_FRAMES,
    "open groups": OPEN_GOP,
    "one key frame": odd_files.LONG_GOP,
    "transport stream": odd_files.LATE_TS,
    "matroska that begins at 5 s": media.LATE_START,
    "avi": replace(media.B_FRAMES, suffix=".avi"),
    "flash": replace(media.B_FRAMES, suffix=".flv"),
    "variable rate": media.VARIABLE,
    "29.97": media.NTSC,
}


def read(path: Path, **options: float | bool | None) -> tuple[StreamInfo, list[Frame], ReadReport]:
    with open_source(SourceSpec("clip", "video", (str(path),), read=ReadOptions(**options))) as source:  # type: ignore[arg-type]
        return source.info, list(source.frames()), source.report


def times(path: Path) -> list[float]:
    return [float(one.time) for one in media.decoded(path)]


def beginning(path: Path) -> float:
    """Return the start time of the video in its container."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.start_time is not None
        assert stream.time_base is not None
        return float(stream.start_time * stream.time_base)


@pytest.mark.parametrize("recipe", RANGED.values(), ids=RANGED.keys())
@given(data=st.data())
@settings(max_examples=12)
def test_exactly_the_frames_of_the_range(recipe: media.Clip, data: st.DataObject) -> None:
    """The frames and their pixels do not depend on the container's index or the position of its key frames."""
    path = media.clip(recipe)
    whole = media.decoded(path)
    for frame, pts in zip(whole, sorted(frame.pts for frame in whole if frame.pts is not None), strict=True):
        frame.pts = pts  # without this, PyAV returns the times of an AVI in decoding order
    first, last = beginning(path), float(whole[-1].time)
    # Whole milliseconds: a library in the same process may have disabled denormal floats.
    longest = round((last - first) * 1000)
    start = data.draw(st.integers(0, longest)) / 1000
    end = data.draw(st.none() | st.integers(1, longest + 1000).map(lambda value: round(start + value / 1000, 3)))
    wanted = [one for one in whole if one.time - first >= start - 1e-6 and (end is None or one.time - first < end - 1e-6)]
    if not wanted:
        with pytest.raises(StreamError, match="no frame between --start and --end"):
            read(path, start_s=start, end_s=end)
        return
    _, frames, report = read(path, start_s=start, end_s=end)
    assert [frame.pts_s for frame in frames] == [float(one.time) for one in wanted]
    assert [frame.index for frame in frames] == list(range(len(wanted)))
    for place in (0, -1):
        assert np.array_equal(frames[place].image.to_rgb(), wanted[place].to_ndarray(format="rgb24"))
    assert report == ReadReport()


def test_consecutive_ranges_contain_each_frame_once() -> None:
    path = media.clip(media.B_FRAMES)
    cuts = (0.0, 0.3, 0.52, 1.0, 9.0)
    seen: list[float | None] = []
    for start, end in pairwise(cuts):
        seen += [frame.pts_s for frame in read(path, start_s=start, end_s=end)[1]]
    assert seen == times(path)


def test_a_start_after_the_end_reports_the_duration() -> None:
    with pytest.raises(StreamError, match=r"no frame between.*ends at 1\.00 s"):
        read(media.clip(media.H264), start_s=7.0)


def test_a_stream_without_timestamps_has_no_range() -> None:
    path = media.clip(odd_files.HEADERLESS)
    assert {frame.pts_s for frame in read(path)[1]} == {None}
    with pytest.raises(StreamError, match="no times"):
        read(path, start_s=0.5)
    _, frames, report = read(path, end_s=0.5)
    assert len(frames) == 40
    assert "no times" in report.warnings[0]


def test_the_expected_number_of_frames() -> None:
    path = media.clip(media.B_FRAMES)
    assert read(path)[0].frames == 40
    assert read(path, start_s=0.4)[0].frames == 30
    assert read(path, start_s=0.4, end_s=0.6)[0].frames == 5
    assert read(path, end_s=99.0)[0].frames == 40
    assert read(path, keyframes_only=True)[0].frames is None


def test_audio_is_available_if_the_whole_file_is_read() -> None:
    path = media.clip(media.WITH_AAC)
    assert read(path)[0].has_audio
    for part in ({"start_s": 0.1}, {"end_s": 0.5}, {"keyframes_only": True}):
        assert not read(path, **part)[0].has_audio


def test_key_frames_only() -> None:
    for recipe in (media.H264, media.B_FRAMES, OPEN_GOP, odd_files.LATE_TS, replace(media.B_FRAMES, suffix=".mkv")):
        path = media.clip(recipe)
        _, frames, report = read(path, keyframes_only=True)
        keys = [one for one in media.decoded(path) if one.key_frame]
        assert [frame.pts_s for frame in frames] == [float(one.time) for one in keys]
        assert [frame.index for frame in frames] == list(range(len(keys)))
        assert report == ReadReport()
        for frame, one in zip(frames, keys, strict=True):
            assert np.array_equal(frame.image.to_rgb(), one.to_ndarray(format="rgb24"))


def test_key_frames_of_a_range() -> None:
    path = media.clip(media.B_FRAMES)
    _, frames, _ = read(path, keyframes_only=True, start_s=0.4, end_s=1.2)
    keys = [float(one.time) for one in media.decoded(path) if one.key_frame]
    assert [frame.pts_s for frame in frames] == [time for time in keys if 0.4 <= time < 1.2]


def test_another_track() -> None:
    path = odd_files.two_tracks()
    assert {frame.image.size for frame in read(path)[1]} == {Size(128, 96)}
    info, frames, _ = read(path, track_index=1)
    assert len(frames) == 20
    assert {frame.image.size for frame in frames} == {Size(64, 48)} == {info.size}
    with pytest.raises(StreamError, match="no video track 2: it has 2 video tracks"):
        read(path, track_index=2)
    with pytest.raises(StreamError, match="no video track 1: it has 1 video track"):
        read(media.clip(media.H264), track_index=1)


def test_a_video_that_is_too_large_is_rejected_by_name() -> None:
    path = media.clip(media.H264)
    assert len(read(path, max_pixels=128 * 96)[1]) == 25
    with pytest.raises(StreamError, match=r"128x96 exceed the limit of 12287 pixels.*--max-pixels"):
        read(path, max_pixels=128 * 96 - 1)


def test_a_video_that_becomes_too_large_fails_there() -> None:
    small = replace(media.H264, suffix=".ts")
    path = odd_files.joined(small, replace(small, width=320, height=240))
    seen: list[Size] = []
    with (
        pytest.raises(StreamError, match="later images exceed the limit of 12288 pixels"),
        open_source(SourceSpec("clip", "video", (str(path),), read=ReadOptions(max_pixels=128 * 96))) as source,
    ):
        seen.extend(frame.image.size for frame in source.frames())
    assert seen == [Size(128, 96)] * len(seen)
    assert len(seen) >= 24
