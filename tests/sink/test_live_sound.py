"""The sound of a live source waits for the frames of its time, within limits."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from tests.sink.test_sound import tone
from tests.support.hand_clock import HandClock
from vision_infer.core.packet import EncodedPacket, SoundFormat, SoundPacket, VideoFormat
from vision_infer.sink.files.audio import LiveSoundCopy
from vision_infer.sink.live_sound import LiveSound

SECOND = 1_000_000_000
ALAW = VideoFormat("h264", sound=SoundFormat("pcm_alaw", 8000, 1))


def video(pts_ns: int, captured_ns: int | None) -> EncodedPacket:
    return EncodedPacket(memoryview(b""), pts_ns, True, captured_ns)


def sound(pts_ns: int) -> SoundPacket:
    return SoundPacket(memoryview(bytes(160)), pts_ns)


def test_sound_gets_the_capture_time_of_the_video_and_waits_for_it() -> None:
    clock = HandClock(now=100 * SECOND)
    live = LiveSound(clock)
    live.sound(sound(0))  # before a connection
    live.opened(ALAW)
    live.sound(sound(0))  # before the video
    live.packet(video(5 * SECOND, 90 * SECOND))
    live.sound(sound(5 * SECOND + 7))
    live.packet(video(6 * SECOND, None))
    live.sound(sound(6 * SECOND + 9))
    for wrong in (10**18, -(10**18), 9 * SECOND):
        live.sound(sound(wrong))
    assert [packet.pts_ns for _, packet in live.take(90 * SECOND + 6)] == []
    assert [packet.pts_ns for _, packet in live.take(90 * SECOND + 7)] == [90 * SECOND + 7]
    assert [packet.pts_ns for _, packet in live.take(float("inf"))] == [100 * SECOND + 9]


def test_the_buffer_is_bounded() -> None:
    live = LiveSound(HandClock())
    live.opened(ALAW)
    live.packet(video(0, SECOND))
    for number in range(3000):
        live.sound(sound(number))
    assert [packet.pts_ns - SECOND for _, packet in live.take(float("inf"))] == list(range(1976, 3000))


@pytest.mark.parametrize("later", [ALAW, VideoFormat("h264", sound=SoundFormat("pcm_mulaw", 8000, 1)), VideoFormat("h264")])
def test_after_a_reconnection_only_sound_of_the_same_format_is_written(tmp_path: Path, later: VideoFormat) -> None:
    live = LiveSound(HandClock())
    live.opened(ALAW)
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        copy = LiveSoundCopy(live, output, 50 * SECOND)
        for connection, (opened, begin_s) in enumerate(((ALAW, 50), (later, 53))):
            live.opened(opened)
            for packet in tone(8000, 2.0):
                live.packet(video(packet.pts_ns, begin_s * SECOND + packet.pts_ns))
                live.sound(packet)
            copy.copy_until(3.0 * connection + 2)
        copy.close()
    with av.open(str(tmp_path / "sound.mp4")) as written:
        times = [float(frame.time or 0) for frame in written.decode(audio=0)]
    assert times[0] == pytest.approx(0, abs=0.15)
    assert times[-1] == pytest.approx(4.8 if later is ALAW else 1.8, abs=0.2)
