"""Sound next to the video of a live source: read only while it is wanted, and never at the cost of the video."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import pytest
from av.packet import Packet

from tests.support.cameras import ClockMount, RtspServer
from tests.support.media import Clip, clip
from vision_infer.core.errors import StreamError
from vision_infer.core.packet import EncodedPacket, SoundPacket, VideoFormat
from vision_infer.preview.sound.sound_feed import _opus_encoder
from vision_infer.sink.sound import Recoder
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.source import LiveOptions, SourceSpec

CAMERAS = (
    ClockMount("/heard", 320, 180, 25, sound="pcmu"),
    ClockMount("/stops", 320, 180, 25, sound="pcmu", stop_after=40),
)


class Tap:
    """Records what a source shows."""

    def __init__(self, wants: bool) -> None:
        self.wants = wants
        self.formats: list[VideoFormat] = []
        self.video: dict[int, int] = {}
        """The time of arrival by presentation time, nanoseconds."""
        self.heard: list[SoundPacket] = []
        self.heard_ns: list[int] = []
        """The time of arrival of each packet of sound."""
        self.frames = 0

    def opened(self, video: VideoFormat) -> None:
        self.formats.append(video)

    def packet(self, packet: EncodedPacket) -> None:
        self.video[packet.pts_ns or 0] = time.monotonic_ns()

    def frame(self, frame: object) -> None:
        self.frames += 1

    def sound(self, packet: SoundPacket) -> None:
        self.heard.append(packet)
        self.heard_ns.append(time.monotonic_ns())

    def wants_sound(self) -> bool:
        return self.wants

    def closed(self) -> None:
        pass


class Reading:
    """Reads a source on a thread until a number of frames, or its end."""

    def __init__(self, url: str, wants: bool, frames: int = 1 << 30, audio: bool = True) -> None:
        self.tap = Tap(wants)
        self.error = ""
        self._frames = frames
        self._spec = SourceSpec("door", "live", (url,), live=LiveOptions(stall_timeout_s=1.0, audio=audio, ingest="rtp"))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with LiveSource(self._spec, 1, threading.Event()) as source:
                source.show(self.tap)
                for _ in source.frames():
                    if self.tap.frames >= self._frames:
                        return
        except StreamError as error:
            self.error = error.message

    def done(self) -> Tap:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.tap


@pytest.fixture(scope="module")
def cameras() -> Iterator[RtspServer]:
    with RtspServer(*CAMERAS) as server:
        yield server


def test_video_that_stops_while_sound_continues_is_a_stall(cameras: RtspServer) -> None:
    kinds = ((True, True), (False, True), (False, False))
    readings = [Reading(cameras.url("/stops"), wants, audio=audio) for wants, audio in kinds]
    taps = [reading.done() for reading in readings]
    for reading in readings[:2]:
        assert reading.error.endswith("sound arrives, but no video for 1 s")
    assert readings[2].error.endswith("no data for 1 s"), "the camera was not asked for sound"
    assert max(tap.frames for tap in taps) <= 40, "packets of sound do not count as frames"
    assert len(taps[0].heard) > 40
    assert not taps[1].heard
    assert [tap.formats[0].sound is not None for tap in taps] == [True, True, False]


@pytest.mark.slow
@pytest.mark.timing
def test_listening_does_not_change_the_video(cameras: RtspServer) -> None:
    """Two connections to one camera: each packet arrives in both, and at the same time."""
    listening, not_listening = (Reading(cameras.url("/heard"), wants, frames=60) for wants in (True, False))
    heard, deaf = listening.done(), not_listening.done()
    sound = heard.formats[0].sound
    assert sound is not None
    assert (sound.codec, sound.rate, sound.channels) == ("pcm_mulaw", 8000, 1)
    assert len(heard.heard) > 60
    assert all(bytes(packet.data) for packet in heard.heard)
    ages = [tap.video[pts] - pts for tap in (heard, deaf) for pts in list(tap.video)[20:]]
    half = len(ages) // 2
    assert abs(median(ages[:half]) - min(ages[:half])) < 20_000_000
    assert abs((median(ages[:half]) - min(ages[:half])) - (median(ages[half:]) - min(ages[half:]))) < 10_000_000


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_the_sound_of_a_file_arrives_with_its_frames(tmp_path: Path, suffix: str) -> None:
    """A file is read faster than it plays, so that its sound has to wait as its frames do."""
    path = tmp_path / f"clip{suffix}"
    with av.open(str(clip(Clip(frames=50)))) as source, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("aac", rate=44_100)
        for number in range(90):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.sample_rate, frame.pts, frame.time_base = 44_100, number * 1024, Fraction(1, 44_100)
            target.mux(sound.encode(frame))
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
    tap = Reading(str(path), wants=True).done()
    assert tap.frames == 50
    assert len(tap.heard) > 50
    due = [came - packet.pts_ns for came, packet in zip(tap.heard_ns, tap.heard, strict=True)]
    shown = [came - pts for pts, came in tap.video.items()]
    assert max(due) - min(due) < 150_000_000, "no bursts"
    assert abs(median(due) - median(shown)) < 100_000_000


def with_odd_sound(path: Path, seed: int) -> Path:
    """Write a copy of a clip whose sound is damaged ADTS: valid beginnings, and nonsense."""
    nonsense = random.Random(seed)
    with av.open(str(clip(Clip(frames=30)))) as source, av.open(str(path), "w", format="mpegts") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_mux_stream("aac", rate=44_100)
        begins = 0
        for packet in source.demux(video=0):
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            at = round(packet.dts * packet.time_base * 90_000)
            packet.stream = video
            target.mux(packet)
            for _ in range(2):
                odd = Packet(b"\xff\xf1" + nonsense.randbytes(nonsense.choice((5, 40, 400))))
                odd.stream, odd.time_base = sound, Fraction(1, 90_000)
                odd.pts = odd.dts = begins = max(begins + 1, at)
                target.mux(odd)
    return path


def test_damaged_sound_costs_no_video(tmp_path: Path) -> None:
    path = with_odd_sound(tmp_path / "odd.ts", 2)
    tap = Reading(str(path), wants=True).done()
    assert tap.frames == 30
    sound = tap.formats[0].sound
    assert sound is not None
    assert tap.heard
    recoder = Recoder(sound, _opus_encoder())
    for packet in tap.heard:
        recoder.recode(packet)
