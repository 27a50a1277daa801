"""A camera whose packets are lost: each loss is counted, and no frame that lacks a part is given out as whole."""

from __future__ import annotations

import random
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tests.stream.rtsp.test_rtsp_stream import SDP, camera
from tests.stream.test_stream_damage import IN_FLV, IN_MPG
from tests.support.cameras import ClockMount, RtspServer
from tests.support.live_reading import Reading
from tests.support.media import Clip, clip, numbered
from tests.support.odd_files import overwritten
from tests.support.rtp_packets import SSRC, payloads, rtp
from tests.support.serve_process import ServeProcess
from tests.support.udp_relay import UdpRelay
from vision_infer.cli.why import why_command
from vision_infer.core.frame import Frame
from vision_infer.preview.codecs.nal_units import units
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.rtsp.message import interleaved_bytes
from vision_infer.stream.source import LiveOptions, SourceSpec

SECOND = 1_000_000_000
STEP = 3000
"""The RTP time between two frames, at 30 frames/s."""
COUNT = 150
KEY_FRAMES = "bframes=0:keyint=15:min-keyint=15:slices=2"
"""The options of the encoder: frames of two slices, and a key frame each half second."""
INTRA_REFRESH = "bframes=0:keyint=20:intra-refresh=1"
"""The options for frames of which a part has no references."""
OPEN_GROUPS = "bframes=2:b-adapt=0:keyint=15:min-keyint=15:open-gop=1:rc-lookahead=4"
"""The options for B-frames that refer to a key frame and to frames before it."""
PATIENT = LiveOptions(open_timeout_s=5, stall_timeout_s=2, max_age_s=3600, clock="camera")


@cache
def pictures(options: str = KEY_FRAMES) -> dict[int, bytes]:
    """Return encoded frames by their number, in decoding order."""
    noise = np.random.default_rng(1).integers(0, 60, (240, 320, 3), np.uint8)
    return encoded([numbered(number, 320, 240) // 2 + np.roll(noise, number, 1) for number in range(COUNT)], options)


def encoded(images: list[NDArray[np.uint8]], options: str) -> dict[int, bytes]:
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 320, 240, "yuv420p", Fraction(30)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "24", "x264-params": f"scenecut=0:{options}"}
    encoder.time_base = Fraction(1, 30)
    out: list[Packet[VideoStream]] = []
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number
        out += encoder.encode(frame)
    return {packet.pts: bytes(packet) for packet in [*out, *encoder.encode(None)] if packet.pts is not None}


@cache
def whole_frames(options: str = KEY_FRAMES) -> tuple[NDArray[np.uint8], ...]:
    return decoded(pictures(options))


def decoded(coded: dict[int, bytes]) -> tuple[NDArray[np.uint8], ...]:
    """Return the frames as a decoder returns them without losses."""
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_type = "NONE"
    frames = [frame for data in coded.values() for frame in decoder.decode(Packet(data))]
    frames += decoder.decode(None)
    return tuple(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in frames)


def packets(options: str = KEY_FRAMES) -> list[bytes]:
    return packetized(pictures(options), 1400)


def packetized(coded: dict[int, bytes], mtu: int) -> list[bytes]:
    parts = [
        (payload, number * STEP, last)
        for number, data in coded.items()
        for payload, last in payloads(list(units(data)), hevc=False, mtu=mtu)
    ]
    return [rtp(payload, sequence, timestamp, last) for sequence, (payload, timestamp, last) in enumerate(parts)]


def sender_report(wall_ns: int) -> bytes:
    """Return a report of the camera's time at the first frame."""
    seconds, rest = divmod(wall_ns, SECOND)
    ntp = (seconds + 2_208_988_800) << 32 | (rest << 32) // SECOND
    return struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, ntp, 0, 1, 2)


class WatchedSource(LiveSource):
    """A source that counts the pictures that its connection gives out."""

    given = 0

    def _packet(self, packet: Packet[VideoStream], times: object) -> Iterator[Frame]:
        self.given += packet.size > 0
        yield from super()._packet(packet, times)  # type: ignore[arg-type]


def read(sent: list[bytes], wall_ns: int) -> tuple[list[Frame], WatchedSource]:
    report = interleaved_bytes(1, sender_report(wall_ns))
    goodbye = interleaved_bytes(1, b"\x81\xcb\0\1" + SSRC.to_bytes(4, "big"))
    data = report + b"".join(interleaved_bytes(0, packet) for packet in sent) + goodbye
    with camera({"DESCRIBE": SDP}, data) as (port, _):
        spec = SourceSpec("door", "live", (f"rtsp://127.0.0.1:{port}/live",), live=PATIENT)
        source = WatchedSource(spec, 1, threading.Event())
        with source:
            return list(source.frames()), source


def number_of(frame: Frame) -> int:
    assert frame.pts_s is not None
    return round(frame.pts_s * 30)


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.03])
def test_each_lost_packet_is_counted_and_each_frame_has_an_outcome(loss: float) -> None:
    rng, sent = random.Random(2), packets()
    first, last = sent[0], sent[-1]  # with them, the first frame and all losses are known
    kept = [packet for packet in sent if packet in (first, last) or rng.random() >= loss]
    frames, source = read(kept, time.time_ns())
    report = source.report
    assert report.packets.received == len(kept)
    assert report.packets.lost == len(sent) - len(kept)
    assert (source.info.ingest, source.info.ingest_reason) == ("rtp", "")
    # Each picture that the connection gives out is a frame, or has the reason why not.
    assert source.given == len(frames) + sum(report.dropped.values())
    assert report.pictures.whole + report.pictures.damaged >= source.given
    # A frame that is not marked is exactly the one that was sent.
    assert report.damaged == sum(frame.damaged for frame in frames)
    assert (report.damaged > 0) == (report.packets.lost > 0)
    unmarked = [frame for frame in frames if not frame.damaged]
    assert len(unmarked) >= 15
    for frame in unmarked:
        assert np.array_equal(frame.image.to_rgb(), whole_frames()[number_of(frame)]), number_of(frame)


def test_with_intra_refresh_frames_are_marked_until_all_parts_were_refreshed() -> None:
    sent = packets(INTRA_REFRESH)
    times = [struct.unpack_from("!I", packet, 4)[0] // STEP for packet in sent]
    del sent[times.index(50)]
    frames, _ = read(sent, time.time_ns())
    exact = [
        number_of(frame)
        for frame in frames
        if np.array_equal(frame.image.to_rgb(), whole_frames(INTRA_REFRESH)[number_of(frame)])
    ]
    marked = [number_of(frame) for frame in frames if frame.damaged]
    assert marked[0] == 50
    assert set(marked) | set(exact) == set(range(COUNT)), "what is not marked is exact"
    assert 60 < marked[-1] < 80, "the refresh that began with frame 60 is complete"


def test_frames_that_refer_to_a_loss_behind_a_key_frame_are_marked() -> None:
    sent = packets(OPEN_GROUPS)
    times = [struct.unpack_from("!I", packet, 4)[0] // STEP for packet in sent]
    del sent[times.index(54)]
    frames, _ = read(sent, time.time_ns())
    assert [number_of(frame) for frame in frames] == list(range(COUNT))
    inexact = [
        number_of(frame)
        for frame in frames
        if not np.array_equal(frame.image.to_rgb(), whole_frames(OPEN_GROUPS)[number_of(frame)])
    ]
    marked = [number_of(frame) for frame in frames if frame.damaged]
    assert inexact
    assert set(inexact) <= set(marked)
    assert len(marked) <= 20, "they end at the key frame"


def test_a_damaged_frame_changes_nothing_behind_the_next_key_frame() -> None:
    """What FFmpeg's decoder has read of the first block that is cut would be added to a later one, here of the key frame."""
    noise = np.random.default_rng(1).integers(0, 120, (80, 106, 3), np.uint8)
    images = [np.full((240, 320, 3), 110, np.uint8) for _ in range(31)]
    for image in images[5:]:
        image[80:160, 106:212] += noise
    coded = encoded(images, KEY_FRAMES)
    exact, sent = decoded(coded), packetized(coded, 400)
    places = [place for place, packet in enumerate(sent) if struct.unpack_from("!I", packet, 4)[0] == 5 * STEP]
    assert len(places) > 8
    for lost in places:
        frames, _ = read(sent[:lost] + sent[lost + 1 :], time.time_ns())
        assert [number_of(frame) for frame in frames if frame.damaged] == list(range(5, 15))
        for frame in frames:
            assert frame.damaged or np.array_equal(frame.image.to_rgb(), exact[number_of(frame)]), number_of(frame)


def test_damaged_packets_without_a_frame_have_a_reason() -> None:
    """Of a frame only the second half is left, and its header is damaged as well."""
    sent = packets()
    times = [struct.unpack_from("!I", packet, 4)[0] // STEP for packet in sent]
    kept = [packet for at, packet in zip(times, sent, strict=True) if at != 20]
    broken = [packet for at, packet in zip(times, sent, strict=True) if at == 20][-1]
    place = next(place for place, packet in enumerate(kept) if struct.unpack_from("!I", packet, 4)[0] == 21 * STEP)
    sequence = struct.unpack_from("!H", broken, 2)[0]
    kept.insert(place, rtp(b"\x61" + b"\xff" * 40, sequence, 20 * STEP, True))
    frames, source = read(kept, time.time_ns())
    assert {reason.value: count for reason, count in source.report.dropped.items()} == {"damaged": 1}
    assert len(frames) == COUNT - 1
    assert [number_of(frame) for frame in frames if frame.damaged] == list(range(21, 30)), "up to the next key frame"


def test_the_capture_time_is_exact_from_the_first_sender_report() -> None:
    wall_ns = time.time_ns() - 60 * SECOND
    frames, source = read(packets(), wall_ns)
    assert len(frames) == COUNT
    assert {frame.trace.clock for frame in frames} == {"camera"}
    began = wall_ns - time.time_ns() + time.monotonic_ns()
    for frame in frames:
        wrong_ns = frame.trace.captured_ns - began - number_of(frame) * SECOND // 30
        assert abs(wrong_ns) < 2_000_000
    assert source.report.clock_offset_ms is None or source.report.clock_offset_ms > 0


@pytest.mark.slow
def test_one_percent_of_the_packets_of_a_real_server_is_lost_over_udp() -> None:
    rng = random.Random(3)
    live = LiveOptions(transport="udp", ingest="rtp")
    mount = ClockMount("/udp", udp_only=True, kbit_s=8000, key_interval=10)
    with (
        RtspServer(mount) as server,
        UdpRelay(server.port, lambda: rng.random() < 0.01) as network,
        Reading(server.url("/udp"), live) as complete,
        Reading(network.url("/udp"), live) as lossy,
    ):
        lossy.wait_for_frames(300)
        complete.wait_for_frames(1)
        packets, lost = lossy.report.packets, network.lost
    assert lost >= 5
    assert 0 <= lost - packets.lost <= 2, "the last ones may still be waited for"
    assert packets.late == packets.foreign == packets.damaged == 0
    assert lossy.report.pictures.cut == 0
    # The other reader uses UDP as well, and a busy kernel can lose its packets.
    # A busy server draws two frames in one millisecond, which have the same time code.
    drawn: Counter[int | None] = Counter(got.moment for got in complete.got if got.moment is not None)
    sent = {got.moment: got.frame.image.to_rgb() for got in complete.got if drawn[got.moment] == 1 and not got.frame.damaged}
    unmarked = [got for got in lossy.got if not got.frame.damaged]
    assert 100 < len(unmarked) < len(lossy.got)
    compared = [np.array_equal(got.frame.image.to_rgb(), sent[got.moment]) for got in unmarked if got.moment in sent]
    assert len(compared) > 100
    assert all(compared), "no frame that lacks a part is given out as whole"


@pytest.mark.slow
def test_a_service_with_worker_processes_shows_the_losses_and_what_reads_each_camera(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(4)
    mounts = (
        ClockMount("/udp", fps=15, udp_only=True, key_interval=10),
        ClockMount("/vp9", 320, 180, 15, codec="vp9", key_interval=5),
    )
    with (
        RtspServer(*mounts) as server,
        UdpRelay(server.port, lambda: rng.random() < 0.02) as network,
        ServeProcess(
            tmp_path,
            f"model: clock\nprocesses: 2\nstreams:\n  lossy: {{detect: '{network.url('/udp')}', transport: udp, audio: false}}\n"
            f"  vp9: {{detect: '{server.url('/vp9')}'}}\n",
        ) as process,
    ):

        def status(name: str) -> Any:
            return process.streams()[name]["status"]

        process.wait(lambda: status("vp9")["results"] > 5 and status("lossy")["damaged"] > 0, "results and losses")
        reason = "the codec vp9 is not supported over RTP"
        assert (status("vp9")["ingest"], status("vp9")["ingest_reason"]) == ("ffmpeg", reason)
        assert (status("vp9")["rtp_packets"], status("vp9")["rtp_frames"]) == ({}, {})
        assert (status("lossy")["ingest"], status("lossy")["ingest_reason"]) == ("rtp", "")
        assert 0 < status("lossy")["rtp_packets"]["lost"] <= network.lost
        assert status("lossy")["rtp_frames"]["whole"] > 0
        metrics = process.ask("GET", "/metrics")[1]
        assert re.search(
            r'vision_infer_stream_rtp_packets_total{outcome="lost",stream="lossy",worker="worker-\d"} [1-9]', metrics
        )
        assert 'outcome="lost",stream="vp9"' not in metrics
        url = f"http://127.0.0.1:{process.port}"
        assert why_command("lossy", url=url) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert re.search(r"In this minute, \d+ of \d+ packets were lost \(\d+\.\d%\)\.", text)
        assert "set transport: tcp" in text
        assert "read by vision-infer, over RTP" in text
        assert why_command("vp9", url=url) == 0
        assert f"read by FFmpeg ({reason})" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("recipe", "part"), [(IN_FLV, 0.6), (IN_MPG, 0.3)], ids=["h264", "mpeg2"])
def test_frames_after_damage_that_the_decoder_finds_are_marked_until_a_key_frame(
    recipe: Clip, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveSource, "_wait_until", lambda source, due_ns: None)
    sources = []
    for path in (clip(recipe), overwritten(recipe, part, 700)):
        with LiveSource(SourceSpec("clip", "live", (str(path),), live=PATIENT), 1, threading.Event()) as source:
            sources.append((list(source.frames()), source.report))
    (whole, _), (frames, report) = sources
    sent = {frame.pts_s: frame.image.to_rgb() for frame in whole}
    assert report.damaged + report.gaps > 0
    inexact = [frame for frame in frames if not np.array_equal(frame.image.to_rgb(), sent[frame.pts_s])]
    assert inexact
    assert all(frame.damaged for frame in inexact)
    assert not frames[-1].damaged
