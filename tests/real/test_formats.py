"""Common formats: each codec in each container that this build of FFmpeg can write, compared with PyAV alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError

from tests.support import media
from tests.support.media import Clip
from vision_infer.core.geometry import Size
from vision_infer.stream.find import find_sources, open_source
from vision_infer.stream.source import ReadOptions, ReadReport

H264 = Clip(options=(("preset", "veryfast"), ("bf", "2"), ("g", "12")), frames=30)
"""Most cameras and phones; with B-frames, so that decoding order and presentation order differ."""
H264_BASELINE = Clip(options=(("preset", "ultrafast"), ("profile", "baseline"), ("g", "12")), frames=30)
"""Cheap cameras: no B-frames."""
H264_HIGH_10 = Clip(pix_fmt="yuv420p10le", options=(("preset", "ultrafast"), ("g", "12")), frames=30)
"""Editing programs: 10 bits."""
H264_422 = Clip(pix_fmt="yuv422p", options=(("preset", "ultrafast"), ("g", "12")), frames=30)
"""Professional cameras: 4:2:2."""
H265 = Clip(codec="libx265", options=(("preset", "ultrafast"), ("x265-params", "keyint=12:bframes=2:log-level=none")), frames=30)
"""Newer cameras and phones."""
H265_10 = replace(H265, pix_fmt="yuv420p10le")
"""Phones that record HDR: 10 bits."""
AV1 = Clip(codec="libsvtav1", options=(("preset", "10"), ("g", "12")), frames=20)
"""Streaming services."""
AV1_10 = replace(AV1, pix_fmt="yuv420p10le")
VP9 = Clip(codec="libvpx-vp9", options=(("deadline", "realtime"), ("cpu-used", "8"), ("g", "12")), frames=20)
"""Browser recordings and web videos, with hidden frames that are never displayed."""
VP8 = Clip(codec="libvpx", options=(("deadline", "realtime"), ("cpu-used", "8"), ("g", "12")), frames=20)
"""Older browser recordings (MediaRecorder, WebRTC)."""
MJPEG = Clip(codec="mjpeg", pix_fmt="yuvj420p", options=(), frames=20)
"""Webcams and old cameras: full range, intra-only."""
MPEG2 = Clip(codec="mpeg2video", options=(("g", "12"), ("bf", "2")), frames=30)
"""DVDs and broadcasts."""
MPEG4 = Clip(codec="mpeg4", options=(("g", "12"), ("bf", "2")), frames=30)
"""DivX and Xvid; in AVI, where B-frames have no presentation times."""
PRORES = Clip(codec="prores_ks", pix_fmt="yuv422p10le", options=(), frames=10)
"""Editing programs."""
FFV1 = Clip(codec="ffv1", options=(), frames=10)
"""Archives: lossless."""


@dataclass(frozen=True)
class Format:
    """A recipe in a container."""

    clip: Clip
    container: str

    @property
    def recipe(self) -> Clip:
        return replace(self.clip, suffix=f".{self.container}")


FORMATS = {
    f"{name} in {container}": Format(clip, container)
    for name, clip, containers in (
        ("h264", H264, ("mp4", "mov", "mkv", "ts", "avi", "flv", "m4v", "3gp")),
        ("h264 baseline", H264_BASELINE, ("mp4", "mkv", "ts", "avi")),
        ("h264 10 bit", H264_HIGH_10, ("mp4", "mkv")),
        ("h264 4:2:2", H264_422, ("mov", "ts")),
        ("h265", H265, ("mp4", "mov", "mkv", "ts")),
        ("h265 10 bit", H265_10, ("mp4", "mkv", "ts")),
        ("av1", AV1, ("mp4", "mkv", "webm")),
        ("av1 10 bit", AV1_10, ("mp4", "webm")),
        ("vp9", VP9, ("webm", "mp4", "mkv")),
        ("vp8", VP8, ("webm", "mkv")),
        ("mjpeg", MJPEG, ("avi", "mov", "mkv", "mp4")),
        ("mpeg2", MPEG2, ("mpg", "ts", "mkv", "m2ts")),
        ("mpeg4", MPEG4, ("avi", "mp4", "mkv")),
        ("prores", PRORES, ("mov",)),
        ("ffv1", FFV1, ("mkv", "avi")),
    )
    for container in containers
}


def made(recipe: Clip) -> Path:
    try:
        av.Codec(recipe.codec, "w")
    except UnknownCodecError:
        pytest.skip(f"this FFmpeg has no encoder {recipe.codec}")
    return media.clip(recipe)


def alone(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        frames = list(container.decode(video=0))
    # AVI has no presentation times; the set of FFmpeg's times is correct, but in decoding order.
    for frame, pts in zip(frames, sorted(frame.pts for frame in frames if frame.pts is not None), strict=True):
        frame.pts = pts
    return frames


@pytest.mark.parametrize("one", FORMATS.values(), ids=FORMATS.keys())
def test_frames_times_and_sizes_equal_those_of_pyav(one: Format) -> None:
    path = made(one.recipe)
    (spec,) = find_sources([str(path)]).specs
    with open_source(spec) as source:
        frames = list(source.frames())
    wanted = alone(path)
    assert len(frames) == len(wanted) == one.recipe.frames
    assert [frame.pts_s for frame in frames] == [float(frame.time) for frame in wanted]
    seen = [frame.pts_s for frame in frames if frame.pts_s is not None]
    assert all(earlier < later for earlier, later in pairwise(seen))
    assert {frame.image.size for frame in frames} == {Size(one.recipe.width, one.recipe.height)} == {source.info.size}
    assert source.report == ReadReport()
    assert source.info.frame_rate is None or abs(source.info.frame_rate - 25) < 0.1
    for number in (0, len(frames) // 2, -1):
        assert np.array_equal(frames[number].image.to_rgb(), wanted[number].to_ndarray(format="rgb24"))


@pytest.mark.parametrize("one", FORMATS.values(), ids=FORMATS.keys())
def test_ranges_and_key_frames_are_exact_in_each_format(one: Format) -> None:
    path = made(one.recipe)
    wanted = alone(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.start_time is not None
        assert stream.time_base is not None
        begin = float(stream.start_time * stream.time_base)

    def times(read: ReadOptions) -> list[float | None]:
        (spec,) = find_sources([str(path)], read=read).specs
        with open_source(spec) as source:
            return [frame.pts_s for frame in source.frames()]

    part = [float(frame.time) for frame in wanted if begin + 0.14 <= frame.time < begin + 0.34]
    assert times(ReadOptions(start_s=0.14, end_s=0.34)) == part
    late = wanted[-3].time
    assert times(ReadOptions(start_s=round(late - begin, 6))) == [float(frame.time) for frame in wanted[-3:]]
    keys = [float(frame.time) for frame in wanted if frame.key_frame]
    assert times(ReadOptions(keyframes_only=True)) == keys


def test_each_known_suffix_is_tested() -> None:
    """Each known suffix is tested here, except for raw streams and formats without an encoder."""
    assert {one.container for one in FORMATS.values()} >= {"mp4", "mkv", "avi", "ts", "mov", "webm", "mpg", "flv"}
    assert {one.clip.codec for one in FORMATS.values()} >= {"libx264", "libx265", "libsvtav1", "libvpx-vp9", "mjpeg", "mpeg4"}


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_encoding_does_not_make_this_thread_a_real_time_one(tmp_path: Path) -> None:
    with media.ordinary_priority():
        media._write(replace(AV1, frames=2), tmp_path / "av1.mkv")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
