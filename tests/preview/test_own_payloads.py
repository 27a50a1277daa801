"""The preview sends the RTP payloads of a camera unmodified where players accept them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.preview.depayloading import h265_units
from tests.preview.encoding import Recipe, encoded
from tests.preview.watching import LIMIT_S, Stream, Watcher, watch
from tests.support.cameras import ClockMount, RtspServer
from tests.support.rtp_packets import aggregate, annex_b, fragments264, fragments265, payloads, rtp, slice264, slice265
from tests.support.rtp_quirks import AUD, IDR5, PPS, PPS5, QUIRKS, SEI, SPS, SPS5, VPS5, Quirk
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.core.time_code import MIN_WIDTH
from vision_infer.preview.codecs.h264 import H264Packets
from vision_infer.preview.codecs.h265 import H265Packets
from vision_infer.preview.codecs.nal_units import NalPackets, units
from vision_infer.preview.codecs.payloads import MAX_PAYLOAD
from vision_infer.preview.preview import NoPreviewError, Preview
from vision_infer.preview.relay import Relay
from vision_infer.stream.rtsp.description import MediaSection
from vision_infer.stream.rtsp.picture import Picture, PictureAssembler
from vision_infer.stream.rtsp.rtp import RtpPacket
from vision_infer.stream.rtsp.video_track import RtpVideoTrack
from vision_infer.stream.time_code_reader import read

SECOND = 1_000_000_000
SLICE = slice264(1, 3000)
IDR = slice264(5, 3000)
assert MIN_WIDTH <= 640


def pictures(packets: Sequence[bytes], hevc: bool = False) -> list[Picture]:
    """Return the pictures of RTP packets."""
    media = MediaSection("video", 96, "h265" if hevc else "h264", 90_000, 1, {}, "rtsp://192.0.2.1/1", None, False)
    track = RtpVideoTrack(media, 1)
    return [found.picture for number, packet in enumerate(packets) for found in track.push_rtp(packet, number)]


def sent(converter: NalPackets, picture: Picture) -> tuple[bytes, ...]:
    """Return the payloads that viewers receive."""
    return converter.payloads(EncodedPacket(memoryview(picture.data), 0, picture.key, None, payloads=picture.payloads))


def packed(converter: NalPackets, picture: Picture) -> tuple[bytes, ...]:
    """Return the payloads that viewers would receive of a picture that was not read over RTP."""
    return converter.payloads(EncodedPacket(memoryview(picture.data), 0, picture.key, None))


def of_one_picture(*camera: bytes, hevc: bool = False) -> Picture:
    """Return the picture of payloads."""
    packets = [rtp(payload, at, 0, at == len(camera) - 1) for at, payload in enumerate(camera)]
    (picture,) = pictures(packets, hevc)
    return picture


@pytest.mark.parametrize(
    ("codec", "camera"),
    [
        ("h264", (SLICE[:1000],)),
        ("h264", fragments264(SLICE, 1000)),
        ("h264", (SEI, *fragments264(SLICE, 1100), slice264(1, 20, first=False))),
        ("h264", (aggregate(b"\x78", [SEI, slice264(1, 300), slice264(1, 300, first=False)]),)),
        ("h264", (SPS, PPS, SEI, *fragments264(IDR, 1000))),
        ("h264", (aggregate(b"\x78", [AUD, SPS, PPS]), *fragments264(IDR, 1000))),
        ("h265", (slice265(1, 900),)),
        ("h265", fragments265(slice265(1, 3000), 1000)),
        ("h265", (aggregate(b"\x60\x01", [VPS5, SPS5, PPS5]), *fragments265(slice265(19, 3000), 1000))),
        ("h265", (VPS5, SPS5, PPS5, IDR5)),
    ],
)
def test_the_payloads_of_a_camera_are_sent_unmodified(codec: str, camera: Sequence[bytes]) -> None:
    converter = H264Packets(VideoFormat("h264")) if codec == "h264" else H265Packets(VideoFormat("hevc"))
    assert sent(converter, of_one_picture(*camera, hevc=codec == "h265")) == tuple(camera)


def test_units_without_meaning_for_a_player_are_left_out() -> None:
    filler = b"\x0c" + b"\xff" * 50 + b"\x80"
    picture = of_one_picture(AUD, SLICE[:1000], filler, slice264(1, 20, first=False))
    assert sent(H264Packets(VideoFormat("h264")), picture) == (SLICE[:1000], slice264(1, 20, first=False))


@pytest.mark.parametrize("known", ["extradata", "earlier"])
def test_a_key_frame_without_parameter_sets_gets_them(known: str) -> None:
    converter = H264Packets(VideoFormat("h264", annex_b(SPS, PPS) if known == "extradata" else b""))
    if known == "earlier":
        sent(converter, of_one_picture(SPS, PPS, *fragments264(IDR, 1000)))
    camera = fragments264(IDR, 1000)
    assert sent(converter, of_one_picture(*camera)) == (aggregate(b"\x78", [SPS, PPS]), *camera)
    # Of incomplete ones, all are replaced, as in a picture that was not read over RTP.
    partial = of_one_picture(PPS, *fragments264(IDR, 1000))
    assert sent(converter, partial) == packed(converter, partial)


def test_parameter_sets_that_change_are_known_for_the_next_key_frame() -> None:
    converter, pps = H264Packets(VideoFormat("h264", annex_b(SPS, PPS))), PPS + b"\x01"
    sent(converter, of_one_picture(pps, SLICE[:1000]))
    camera = fragments264(IDR, 1000)
    assert sent(converter, of_one_picture(*camera)) == (aggregate(b"\x78", [SPS, pps]), *camera)


DAMAGED = {
    "larger than a packet": ("h264", [slice264(1, MAX_PAYLOAD)]),
    "start codes in a payload": ("h264", [annex_b(SLICE[:500], slice264(1, 600, first=False))]),
    "start codes far behind in a payload": ("h264", [SLICE[:900] + annex_b(slice264(1, 200, first=False))]),
    "the last fragment is not marked": ("h264", fragments264(SLICE, 1000, end=False)),
    "a unit in one fragment": ("h264", [b"\x7c\xc1" + SLICE[1:900]]),
    "an empty fragment": ("h264", [b"\x7c\x81", b"\x7c\x01" + SLICE[1:1000], b"\x7c\x41" + SLICE[1000:1900]]),
    "the type of the fragments changes": ("h264", [fragments264(SLICE, 1500)[0][:1200], b"\x7c\x45" + SLICE[1:900]]),
    "padding in a payload with several units": ("h264", [aggregate(b"\x78", [SEI, SLICE[:900]]) + b"\0\0\0\0"]),
    "the last fragment of H.265 is not marked": ("h265", fragments265(slice265(1, 3000), 1000, end=False)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_payloads_that_players_may_not_accept_are_made_again(name: str) -> None:
    codec, camera = DAMAGED[name]
    picture = of_one_picture(*camera, hevc=codec == "h265")
    make = H264Packets if codec == "h264" else H265Packets
    found = sent(make(VideoFormat(codec)), picture)
    assert found == packed(make(VideoFormat(codec)), picture)
    assert found
    assert found != tuple(camera)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_viewers_of_a_camera_with_a_quirk_receive_the_same_units(quirk: Quirk) -> None:
    hevc = quirk.codec == "h265"
    converter, other = (H265Packets(VideoFormat("hevc")) if hevc else H264Packets(VideoFormat("h264")) for _ in range(2))
    packets = [rtp(payload, at, timestamp, marker) for at, (timestamp, marker, payload) in enumerate(quirk.packets)]
    for picture in pictures(packets, hevc):
        assert units_of(sent(converter, picture), hevc) == units_of(packed(other, picture), hevc)


def units_of(camera: Sequence[bytes], hevc: bool) -> list[bytes]:
    """Return the units in payloads, without delimiters."""
    if hevc:
        return h265_units(camera)
    data = b"".join(found.picture.data for found in depacketized(camera))
    return [unit for unit in units(data) if unit[0] & 31 != 9]


def depacketized(camera: Sequence[bytes]) -> Iterator[Any]:
    """Yield what the payloads of a picture contain."""
    media = MediaSection("video", 96, "h264", 90_000, 1, {}, "rtsp://192.0.2.1/1", None, False)
    track = RtpVideoTrack(media, 1)
    for at, payload in enumerate(camera):
        yield from track.push_rtp(rtp(payload, at, 0, at == len(camera) - 1), at)


def test_a_loss_damages_nothing_but_its_picture_for_viewers() -> None:
    video, frames = encoded(Recipe("libx264", 640, 360, frames=24))
    packets: list[bytes] = []
    for number, frame in enumerate(frames):
        for payload, last in payloads(list(units(bytes(frame.data))), False, 1200):
            packets.append(rtp(payload, len(packets), number * 3600, last))
    lost = set(random.Random(3).sample(range(len(packets)), len(packets) // 20))
    found = pictures([packet for at, packet in enumerate(packets) if at not in lost])
    assert 3 < sum(picture.damaged for picture in found) < len(found) - 3
    converter, decoder = H264Packets(video), av.CodecContext.create("h264", "r")
    decoder.options = {"err_detect": "explode"}
    intact = True
    for picture in found:
        camera = sent(converter, picture)
        number = picture.timestamp // 3600
        if not picture.damaged:
            own = list(payloads(list(units(bytes(frames[number].data))), False, 1200))
            assert camera == tuple(payload for payload, _ in own)
        intact = not picture.damaged and (picture.key or (intact and not picture.lost))
        if intact:
            (image,) = [*decoder.decode(av.Packet(annex_b(*units_of(camera, False)))), *decoder.decode(None)]
            assert not image.is_corrupt
            decoder.flush_buffers()


@given(st.lists(st.binary(max_size=12), max_size=6), st.booleans(), st.booleans())
@settings(max_examples=100)
def test_no_payload_raises(camera: list[bytes], key: bool, hevc: bool) -> None:
    converter = H265Packets(VideoFormat("hevc")) if hevc else H264Packets(VideoFormat("h264"))
    packet = EncodedPacket(memoryview(SLICE), 0, key, None, payloads=tuple(camera))
    assert all(converter.payloads(packet))


def test_payloads_are_kept_only_while_there_are_viewers() -> None:
    relay, seen = Relay(), list[Any]()
    relay.opened(VideoFormat("h264"))
    relay.packet(EncodedPacket(memoryview(IDR), 0, True, None, payloads=(IDR,)))
    (first,) = relay.watch_packets(seen.append)
    relay.packet(EncodedPacket(memoryview(SLICE), 1, False, None, payloads=(SLICE,)))
    assert (first.payloads, seen[0].payloads) == ((), (SLICE,))


# Real cameras

CAMERAS = (ClockMount("/own", key_interval=2, mtu=1200), ClockMount("/large", key_interval=2))


@pytest.fixture(scope="module")
def cameras() -> Iterator[RtspServer]:
    with RtspServer(*CAMERAS) as server:
        yield server


@pytest.mark.parametrize(("path", "own"), [("/own", True), ("/large", False)])
def test_viewers_of_a_camera_decode_its_own_payloads_if_they_fit(
    cameras: RtspServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str, own: bool
) -> None:
    camera: set[bytes] = set()
    push = PictureAssembler.push

    def observed(self: PictureAssembler, packet: RtpPacket, lost: int, now_ns: int) -> list[Picture]:
        camera.add(packet.data[packet.begin : packet.end])
        return push(self, packet, lost, now_ns)

    monkeypatch.setattr(PictureAssembler, "push", observed)
    received: list[tuple[bytes, int, bool]] = []

    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url(path)):
            watcher = await arrived(preview)
            await watcher.has(15)
            record(watcher, received)
            await watcher.has(15)
            assert (watcher.session.facts.mode, watcher.session.facts.reason) == ("passthrough", "")
            assert read(watcher.last.to_ndarray(format="rgb24")) is not None
            await watcher.peer.close()
            await watcher.session.end("done")

    with caplog.at_level(logging.WARNING, "aiortc"):
        asyncio.run(run())
    assert not [record for record in caplog.records if "decode" in record.message]
    fragments = [payload for payload, _, _ in received if payload[0] & 31 == 28]
    assert len(fragments) > 10
    assert [payload in camera for payload in fragments] == [own] * len(fragments)
    assert max(len(payload) for payload, _, _ in received) <= MAX_PAYLOAD
    # The marker is set on the last packet of each picture, and on no other.
    times = [time for _, time, _ in received]
    assert [marker for _, _, marker in received[:-1]] == [time != later for time, later in pairwise(times)]


async def arrived(preview: Preview) -> Watcher:
    """Start watching as soon as the stream has video."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await watch(preview)
            except NoPreviewError:
                await asyncio.sleep(0.05)


def record(watcher: Watcher, received: list[tuple[bytes, int, bool]]) -> None:
    """Keep the payload, the RTP time and the marker of each packet of video that arrives from now on."""
    receiver = watcher.peer.getTransceivers()[0].receiver
    handle = receiver._handle_rtp_packet

    async def keep(packet: Any, arrival_time_ms: int) -> None:
        received.append((bytes(packet.payload), packet.timestamp, bool(packet.marker)))
        await handle(packet, arrival_time_ms=arrival_time_ms)

    receiver._handle_rtp_packet = keep  # type: ignore[method-assign]
