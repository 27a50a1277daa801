"""Video files: their frames, order and times, and errors for unreadable files."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support import media
from tests.support.assets import ENCODINGS, encoded
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.stream.find import open_source
from vision_infer.stream.source import SourceSpec, StreamInfo


def read(path: Path | str, threads: int = 1) -> tuple[StreamInfo, list[Frame], int]:
    with open_source(SourceSpec("clip", "video", (str(path),)), threads) as source:
        frames = list(source.frames())
        return source.info, frames, source.report.gaps


def failure(path: Path | str) -> StreamError:
    """Return the error that reading raises; it must be suitable for display."""
    with pytest.raises(StreamError) as caught:
        read(path)
    error = caught.value
    assert type(error) is StreamError
    assert str(path) in error.message
    assert error.hint
    assert "\n" not in str(error)
    assert "Error" not in error.message  # the name of a library's exception
    assert "0x" not in str(error)
    return error


RECIPES = {
    "h264": media.H264,
    "b-frames": media.B_FRAMES,
    "ntsc": media.NTSC,
    "variable": media.VARIABLE,
    "late start": media.LATE_START,
    "odd ffv1": media.ODD,
    "odd mjpeg": media.ODD_MJPEG,
    "aac": media.WITH_AAC,
    "pcm": media.WITH_PCM,
    "mpeg4 avi": media.WITH_PCM_AVI,
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_frames_equal_those_of_pyav_in_presentation_order(recipe: media.Clip, threads: int) -> None:
    path = media.clip(recipe)
    info, frames, gaps = read(path, threads)
    expected = media.decoded(path)
    assert len(frames) == len(expected) == recipe.frames
    assert [frame.index for frame in frames] == list(range(recipe.frames))
    assert [frame.pts_s for frame in frames] == [float(one.time) for one in expected if one.time is not None]
    times = [frame.pts_s for frame in frames if frame.pts_s is not None]
    assert times == sorted(set(times))
    assert gaps == 0
    assert {frame.stream for frame in frames} == {"clip"}
    assert {frame.image.size for frame in frames} == {Size(recipe.width, recipe.height)} == {info.size}
    for frame, one in zip(frames[::7], expected[::7], strict=True):
        assert np.array_equal(frame.image.to_rgb(), one.to_ndarray(format="rgb24"))


def test_info_contains_the_properties_of_the_container() -> None:
    info, _, _ = read(media.clip(media.NTSC))
    assert info.frame_rate == Fraction(30_000, 1_001)
    assert info.frames == 30
    assert info.duration_s == pytest.approx(1.001)
    assert info.codec == "h264"
    assert not info.has_audio
    assert read(media.clip(media.WITH_AAC))[0].has_audio


@pytest.mark.parametrize(("pix_fmt", "bytes_per_pixel"), [("yuv420p", 1.5), ("yuv444p", 3.0)])
def test_info_contains_the_memory_per_pixel(pix_fmt: str, bytes_per_pixel: float) -> None:
    info, _, _ = read(media.clip(media.Clip(pix_fmt=pix_fmt, frames=2)))
    assert info.bytes_per_pixel == bytes_per_pixel


def test_times_start_where_the_file_starts() -> None:
    _, frames, _ = read(media.clip(media.LATE_START))
    assert [frame.pts_s for frame in frames[:3]] == [5.0, 5.04, 5.08]


def test_a_variable_frame_rate_keeps_each_time() -> None:
    assert media.VARIABLE.pts is not None
    _, frames, _ = read(media.clip(media.VARIABLE))
    assert [frame.pts_s for frame in frames] == pytest.approx([pts / 1000 for pts in media.VARIABLE.pts])


@pytest.mark.parametrize("name", ENCODINGS)
def test_clips_of_other_encoders(name: str) -> None:
    path = encoded(name)
    _, frames, gaps = read(path)
    with av.open(str(path)) as container:
        times = [float(one.time) for one in container.decode(video=0) if one.time is not None]
    assert [frame.pts_s for frame in frames] == times
    assert gaps == 0


def test_bikes() -> None:
    info, frames, _ = read(media.bikes())
    assert len(frames) == 250
    assert info.size == Size(640, 272)


def test_damage_is_a_gap_and_the_remaining_frames_are_read() -> None:
    _, frames, gaps = read(media.changed(media.H264, "holes"))
    assert gaps > 0
    assert 0 < len(frames) < media.H264.frames
    assert [frame.index for frame in frames] == list(range(len(frames)))
    times = [frame.pts_s for frame in frames if frame.pts_s is not None]
    assert times == sorted(set(times))


def test_a_truncated_file_is_read_to_its_end() -> None:
    _, frames, _ = read(media.changed(media.WITH_PCM, "cut"))
    whole = read(media.clip(media.WITH_PCM))[1]
    assert 0 < len(frames) < len(whole)
    assert [frame.pts_s for frame in frames] == [frame.pts_s for frame in whole[: len(frames)]]


def test_a_truncated_mp4_has_no_index_and_is_an_error() -> None:
    assert "FFmpeg cannot read it as video" in failure(media.changed(media.H264, "cut")).message


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in failure(tmp_path / "none.mp4").message


def test_a_folder_that_is_opened_as_a_file(tmp_path: Path) -> None:
    failure(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert "empty" in failure(path).message


@pytest.mark.parametrize("content", [b"just some text\n" * 50, bytes(5000), b"\x00\x00\x00\x20ftypisom" + bytes(64)])
def test_files_without_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    failure(path)


def test_a_file_with_only_audio() -> None:
    assert "only audio" in failure(media.clip(media.ONLY_SOUND)).message


def test_the_cover_image_of_a_song_is_not_a_video() -> None:
    path = media.clip(media.SONG)
    with av.open(str(path)) as container:
        assert container.streams.video  # FFmpeg treats it as a video track
    assert "only audio" in failure(path).message


def test_packets_without_a_frame(tmp_path: Path) -> None:
    """An H.264 file without slices can be opened but contains no frame."""
    with av.open(str(media.clip(media.H264))) as container:
        stream = container.streams.video[0]
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as output:
            copy = output.add_stream_from_template(stream)
            for packet in container.demux(stream):
                if packet.dts is None:
                    continue
                broken = av.Packet(b"\x00\x00\x00\x02\x06\x05")
                broken.pts, broken.dts, broken.time_base, broken.stream = packet.pts, packet.dts, packet.time_base, copy
                output.mux(broken)
    path = tmp_path / "hollow.mp4"
    path.write_bytes(buffer.getvalue())
    assert "no frame could be decoded" in failure(path).message


def test_a_playlist_must_not_name_hosts(tmp_path: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    failure(path)


def test_names_with_a_colon_and_with_percent(tmp_path: Path) -> None:
    for name in ("a:b.mp4", "http:x.mp4", "%03d.mp4", "with space & ümlaut.mp4"):
        path = tmp_path / name
        path.write_bytes(media.clip(media.H264).read_bytes())
        assert len(read(path)[1]) == 25


def test_a_url_instead_of_a_file_does_not_reveal_its_password() -> None:
    with pytest.raises(StreamError) as caught:
        read("rtsp://user:secret@camera/x?token=hidden")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_leaving_early_closes_the_file() -> None:
    with open_source(SourceSpec("clip", "video", (str(media.clip(media.H264)),)), 1) as source:
        frames = source.frames()
        first = next(frames)
    assert first.image.to_rgb().shape == (96, 128, 3)  # an image can be used after its file is closed
