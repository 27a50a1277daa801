"""The sound of the source in the annotated video: unmodified if MP4 supports it, else as AAC, never affecting the frames."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.sink.results import frames_of
from tests.support import media
from tests.support.media import Clip, Sound
from vision_infer.core.description import Description
from vision_infer.core.detections import Detections
from vision_infer.sink.files.video import VideoSink
from vision_infer.sink.sink import OutputSpec

MKV = Clip(suffix=".mkv")


def plain(rgb: NDArray[np.uint8], detections: Detections, description: Description | None) -> NDArray[np.uint8]:
    return rgb


def copy(source: Path, to: Path, frames: int | None = None) -> int:
    """Write a clip with its sound, or only ``frames`` of it, as if stopped; return the number of written frames."""
    info, given = frames_of(source)
    sink = VideoSink(OutputSpec("video", str(to)), plain, str(source), info.frame_rate, info.time_base)
    written = 0
    for one in given:
        if written == frames:
            break
        sink.write(one, None)
        written += 1
    sink.close(frames is None)
    return written


def sound(path: Path) -> tuple[str, int, int, float, float]:
    """Return codec, rate, channels, start and duration (seconds) of the decoded sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        heard = [one for one in container.decode(stream) if one.pts is not None]
        first, last = heard[0], heard[-1]
        assert first.time is not None
        assert last.time is not None
        name = stream.codec_context.codec.canonical_name
        length = last.time + last.samples / last.sample_rate - first.time
        return name, stream.rate, stream.codec_context.channels, float(first.time), length


AS_IT_IS = {
    "aac": media.WITH_AAC,
    "aac stereo in mkv": replace(MKV, sound=Sound(channels=2)),
    "mp3": replace(MKV, sound=Sound("libmp3lame", 44_100)),
    "ac3": replace(MKV, sound=Sound("ac3")),
    "opus": media.WITH_OPUS,
    "flac": media.WITH_FLAC,
    "alac": replace(Clip(suffix=".mov"), sound=Sound("alac", 44_100)),
}


@pytest.mark.parametrize("recipe", AS_IT_IS.values(), ids=AS_IT_IS.keys())
def test_packets_are_copied_bit_for_bit(tmp_path: Path, recipe: Clip) -> None:
    source, path = media.clip(recipe), tmp_path / "out.mp4"
    assert copy(source, path) == recipe.frames
    assert media.sound_packets(path) == media.sound_packets(source)
    assert len(media.decoded(path)) == recipe.frames
    assert sound(path)[:3] == sound(source)[:3]
    assert sound(path)[3:] == pytest.approx(sound(source)[3:], abs=0.03)


def test_aac_of_a_transport_stream(tmp_path: Path) -> None:
    """Its packets have headers that MP4 stores elsewhere: the same sound, other bytes."""
    source, path = media.clip(replace(media.WITH_AAC, suffix=".ts")), tmp_path / "out.mp4"
    assert copy(source, path) == 25
    assert sound(path)[:3] == ("aac", 48_000, 1)
    assert len(media.sound_packets(path)) == len(media.sound_packets(source))


AS_AAC = {
    "pcm in mkv": (media.WITH_PCM, 44_100, 1),
    "pcm stereo in avi": (media.WITH_PCM_AVI, 22_050, 2),
    "pcm of a rate that AAC has not, above": (replace(MKV, sound=Sound("pcm_s16le", 192_000)), 96_000, 1),
    "pcm of a rate that AAC has not, below": (replace(MKV, sound=Sound("pcm_s16le", 6_000)), 7_350, 1),
    "adpcm in avi": (replace(media.WITH_PCM_AVI, sound=Sound("adpcm_ms", 44_100)), 44_100, 1),
}


@pytest.mark.parametrize(("recipe", "rate", "channels"), AS_AAC.values(), ids=AS_AAC.keys())
def test_other_sound_becomes_aac(tmp_path: Path, recipe: Clip, rate: int, channels: int) -> None:
    path = tmp_path / "out.mp4"
    assert copy(media.clip(recipe), path) == recipe.frames
    codec, seen_rate, seen_channels, begin, length = sound(path)
    assert (codec, seen_rate, seen_channels) == ("aac", rate, channels)
    assert abs(begin) < 0.05
    assert length == pytest.approx(1.0, abs=2048 / rate + 0.05)
    with av.open(str(path)) as container:
        wave = np.concatenate([one.to_ndarray()[0] for one in container.decode(container.streams.audio[0])])
    assert np.abs(wave).max() > 0.1  # the sine, not silence
    spectrum = np.abs(np.fft.rfft(wave[: rate // 2] * np.hanning(rate // 2)))
    assert np.argmax(spectrum) * 2 == pytest.approx(440, abs=6)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_and_frames_that_begin_late_stay_in_sync(tmp_path: Path, codec: str) -> None:
    source = media.clip(replace(media.LATE_START, sound=Sound(codec, start_s=5.0)))
    path = tmp_path / "out.mp4"
    copy(source, path)
    assert media.decoded(path)[0].time == 5.0
    assert sound(path)[3] == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_in_a_stopped_run_the_sound_ends_with_the_frames(tmp_path: Path, codec: str) -> None:
    source = media.clip(replace(MKV, frames=75, sound=Sound(codec, 44_100, seconds=3.0)))
    path = tmp_path / "out.mp4"
    assert copy(source, path, frames=25) == 25
    assert len(media.decoded(path)) == 25
    assert sound(path)[4] == pytest.approx(1.0, abs=0.1)


def test_longer_sound_is_kept_in_a_complete_run(tmp_path: Path) -> None:
    source = media.clip(replace(media.WITH_AAC, sound=Sound(seconds=2.0)))
    path = tmp_path / "out.mp4"
    copy(source, path)
    assert media.sound_packets(path) == media.sound_packets(source)


@pytest.mark.parametrize("how", ["cut", "holes"])
@pytest.mark.parametrize("codec", ["aac", "pcm_s16le", "libopus"])
def test_damaged_sound_does_not_affect_the_frames(tmp_path: Path, how: str, codec: str) -> None:
    source = media.changed(replace(MKV, sound=Sound(codec)), how)
    path = tmp_path / "out.mp4"
    written = copy(source, path)
    assert written > 0
    assert len(media.decoded(path)) == written


def test_times_that_jump_back(tmp_path: Path) -> None:
    """Two recordings joined byte by byte, as transport streams often are: sound that goes back in time is dropped."""
    one = media.clip(replace(media.WITH_AAC, suffix=".ts")).read_bytes()
    source, path = tmp_path / "joined.ts", tmp_path / "out.mp4"
    source.write_bytes(one + one)
    written = copy(source, path)
    assert written > 25
    assert len(media.decoded(path)) == written
    assert sound(path)[0] == "aac"


def test_a_deleted_source_gives_no_sound(tmp_path: Path) -> None:
    info, frames = frames_of(media.clip(media.H264))
    path = tmp_path / "out.mp4"
    sink = VideoSink(OutputSpec("video", str(path)), plain, str(tmp_path / "gone.mp4"), info.frame_rate, info.time_base)
    for one in frames:
        sink.write(one, None)
    sink.close(True)
    with av.open(str(path)) as container:
        assert not container.streams.audio
        assert container.streams.video[0].frames == 25


def test_a_source_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    assert copy(media.clip(media.H264), path) == 25
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].average_rate == Fraction(25)
