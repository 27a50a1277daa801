"""Segments of a long file between key frames: together they are the file, frame by frame."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from tests.support.media import B_FRAMES, H264, LATE_START, NTSC, REFRESH, Clip, clip
from vision_infer.core.errors import StreamError
from vision_infer.stream.files.segments import Segment, cut
from vision_infer.stream.files.video_file import VideoFileSource
from vision_infer.stream.source import SourceSpec

OPEN_GOP = Clip(options=(("preset", "veryfast"), ("bf", "3"), ("g", "12"), ("x264-params", "open-gop=1:b-adapt=0")), frames=60)
HEVC = Clip(codec="libx265", options=(("preset", "ultrafast"), ("x265-params", "keyint=12:log-level=none")), frames=60)
MPEG2 = Clip(suffix=".ts", codec="mpeg2video", options=(("g", "12"), ("bf", "2")), frames=60)
VP8 = Clip(suffix=".webm", codec="libvpx", options=(("g", "12"), ("auto-alt-ref", "1"), ("lag-in-frames", "10")), frames=60)
VARIABLE_RATE = Clip(
    time_base=Fraction(1, 1000), pts=tuple(40 * number + 17 * (number % 3) for number in range(60)), frames=60, suffix=".mkv"
)
AVI = Clip(suffix=".avi", codec="mpeg4", options=(("g", "12"), ("bf", "2")), frames=60)


def frames_of(spec: SourceSpec) -> list[tuple[int, float | None, bytes]]:
    with VideoFileSource(spec) as source:
        return [(frame.index, frame.pts_s, frame.image.to_rgb().tobytes()) for frame in source.frames()]


def read_segment(spec: SourceSpec, segment: Segment) -> list[tuple[int, float | None, bytes]]:
    return frames_of(replace(spec, read=segment.options(spec.read)))


@pytest.mark.parametrize("recipe", [H264, B_FRAMES, OPEN_GOP, HEVC, NTSC, LATE_START, VARIABLE_RATE, MPEG2, VP8])
def test_the_segments_are_the_file(recipe: Clip) -> None:
    spec = SourceSpec("film", "video", (str(clip(recipe)),))
    segments = cut(spec, 0.4)
    assert len(segments) >= 2
    read = [read_segment(spec, segment) for segment in segments]
    assert [len(frames) for frames in read] == [segment.frames for segment in segments]
    assert [frame for frames in read for frame in frames] == frames_of(spec)


def test_key_frames_that_refer_to_earlier_frames_are_noticed() -> None:
    spec = SourceSpec("film", "video", (str(clip(REFRESH)),))
    segments = cut(spec, 0.4)
    assert len(read_segment(spec, segments[0])) == segments[0].frames
    with pytest.raises(StreamError, match="no frame between"):
        read_segment(spec, segments[1])


def test_a_short_file_is_not_cut() -> None:
    assert cut(SourceSpec("film", "video", (str(clip(H264)),)), 0.6) == ()


def test_a_file_that_must_be_read_as_a_whole_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    for path in (clip(AVI), tmp_path / "empty.mp4", tmp_path / "missing.mp4"):
        assert cut(SourceSpec("film", "video", (str(path),)), 0.4) == ()
    assert cut(SourceSpec("film", "video", ("http://127.0.0.1:9/film.mp4",)), 0.4) == ()
