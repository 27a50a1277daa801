"""The codecs: facts of bitstreams of real encoders, and payloads that give the same access units back."""

from __future__ import annotations

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.preview.depayloading import av1_obus, h265_units, through_gstreamer, with_sizes
from tests.preview.encoding import Recipe, encoded
from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.preview.codecs import av1, h265, vp9
from vision_infer.preview.codecs.h265 import PPS, SPS, VPS, H265Packets
from vision_infer.preview.codecs.nal_units import units
from vision_infer.preview.codecs.payloads import MAX_PAYLOAD, Packets
from vision_infer.preview.codecs.registry import packets_of
from vision_infer.stream.browser import VideoFacts, passthrough

LARGE = {name: Recipe(name) for name in ("libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1")}
LEVEL_5_1 = (("x265-params", "log-level=none:level-idc=51"),)
RFC = {"libx265": "H265", "libvpx": "VP8", "libvpx-vp9": "VP9"}


DEPAYLOADERS = {
    "libx265": "rtph265depay ! video/x-h265,stream-format=byte-stream,alignment=au",
    "libvpx": "rtpvp8depay",
    "libvpx-vp9": "rtpvp9depay",
}


def packets_for(recipe: Recipe) -> tuple[Packets, tuple[EncodedPacket, ...]]:
    video, packets = encoded(recipe)
    converter = packets_of(video)
    assert converter is not None
    return converter, packets


@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        (Recipe("libx264"), VideoFacts("h264", "Constrained Baseline", size=Size(320, 180))),
        (Recipe("libx265", 322, 182), VideoFacts("hevc", "Main", size=Size(322, 182))),
        (Recipe("libx265", extra=LEVEL_5_1), VideoFacts("hevc", "Main", 153, size=Size(320, 180))),
        (Recipe("libx265", pix_fmt="yuv420p10le"), VideoFacts("hevc", "Main 10", bits=10, size=Size(320, 180))),
        (Recipe("libvpx", 322, 182), VideoFacts("vp8", size=Size(322, 182))),
        (Recipe("libvpx-vp9", 322, 182), VideoFacts("vp9", "Profile 0", size=Size(322, 182))),
        (Recipe("libvpx-vp9", pix_fmt="yuv444p"), VideoFacts("vp9", "Profile 1", chroma="4:4:4", size=Size(320, 180))),
        (Recipe("libsvtav1", 322, 182), VideoFacts("av1", "Main", 0, size=Size(322, 182))),
        (Recipe("libsvtav1", pix_fmt="yuv420p10le"), VideoFacts("av1", "Main", 0, bits=10, size=Size(320, 180))),
    ],
    ids=lambda value: "" if isinstance(value, VideoFacts) else f"{value.encoder} {value.pix_fmt}",
)
def test_facts_of_a_stream(recipe: Recipe, facts: VideoFacts) -> None:
    converter, packets = packets_for(recipe)
    converter.payloads(packets[0])
    found = converter.facts
    assert found is not None
    assert (found.codec, found.profile, found.bits, found.chroma) == (facts.codec, facts.profile, facts.bits, facts.chroma)
    assert (found.size, found.interlaced, found.high_tier) == (facts.size, False, False)
    if facts.level:
        assert found.level == facts.level


@pytest.mark.parametrize("encoder", RFC)
def test_gstreamer_gets_the_same_access_units(encoder: str) -> None:
    converter, packets = packets_for(LARGE[encoder])
    frames = [converter.payloads(packet) for packet in packets]
    assert max(map(len, frames)) > 3
    found = through_gstreamer(DEPAYLOADERS[encoder], RFC[encoder], frames)
    assert len(found) == len(packets)
    for unit, packet in zip(found, packets, strict=True):
        assert unit == bytes(packet.data) if encoder != "libx265" else list(units(unit)) == list(units(bytes(packet.data)))


def test_av1_obus_return_and_decode() -> None:
    converter, packets = packets_for(LARGE["libsvtav1"])
    decoder = av.CodecContext.create("libdav1d", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoded = 0
    for packet in packets:
        payloads = converter.payloads(packet)
        assert [payload[0] >> 3 & 1 for payload in payloads] == [packet.key, *[0] * (len(payloads) - 1)]
        assert payloads[0][0] >> 7 == payloads[-1][0] >> 6 & 1 == 0
        kept = [obu for obu in av1.obus(bytes(packet.data)) if obu[0] >> 3 & 15 != 2]
        assert av1_obus(payloads) == kept
        decoded += len(decoder.decode(av.Packet(with_sizes(av1_obus(payloads)))))
    assert decoded + len(decoder.decode(None)) == len(packets)


@pytest.mark.parametrize("encoder", LARGE)
def test_all_payloads_of_a_large_frame_but_its_last_are_full(encoder: str) -> None:
    converter, packets = packets_for(LARGE[encoder])
    for packet in packets:
        payloads = converter.payloads(packet)
        assert max(map(len, payloads)) <= MAX_PAYLOAD
        small = [payload for payload in payloads[:-1] if len(payload) < MAX_PAYLOAD]
        assert len(small) <= 2, "parameter sets, and the last fragment of another unit before the slice"


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libsvtav1"])
def test_headers_outside_the_packets_precede_each_key_frame(encoder: str) -> None:
    video, packets = encoded(
        Recipe(
            encoder,
            global_header=True,
            extra=(("x265-params", "keyint=4:log-level=none:repeat-headers=0"),) if encoder == "libx265" else (),
        )
    )
    assert video.extradata
    converter = packets_of(video)
    assert converter is not None
    assert converter.facts is not None
    assert [packet.key for packet in packets].count(True) > 1
    bare = packets_of(VideoFormat(video.codec))
    assert bare is not None
    for packet in packets:
        shortest, whole = sum(map(len, bare.payloads(packet))), sum(map(len, converter.payloads(packet)))
        assert whole >= shortest


def test_a_key_frame_of_h265_gets_the_parameter_sets_that_it_lacks() -> None:
    video, packets = encoded(Recipe("libx265"))
    whole = list(units(bytes(packets[0].data)))
    kinds = [H265Packets.kind(unit) for unit in whole]
    assert kinds[:3] == [VPS, SPS, PPS]
    converter = H265Packets(VideoFormat("hevc", b"".join(b"\0\0\1" + unit for unit in whole[:3])))
    for missing in (whole[3:], whole[1:], [whole[0], *whole[3:]]):
        data = b"".join(b"\0\0\1" + unit for unit in missing)
        assert converter.units(EncodedPacket(memoryview(data), 0, True, None)) == whole
    assert converter.sprop().count("sprop-") == 3
    assert video.codec == "hevc"


def test_hvcc_extradata_is_parsed() -> None:
    _, packets = encoded(Recipe("libx265"))
    whole = list(units(bytes(packets[0].data)))
    arrays = b"".join(
        bytes([0x80 | H265Packets.kind(unit)]) + b"\0\1" + len(unit).to_bytes(2, "big") + unit for unit in whole[:3]
    )
    hvcc = b"\1" + bytes(20) + b"\xff\3" + arrays
    assert H265Packets.parameter_sets(hvcc) == (4, whole[:3])
    for cut in range(len(hvcc)):
        H265Packets.parameter_sets(hvcc[:cut])


def test_the_high_tier_of_h265_is_detected() -> None:
    _, packets = encoded(Recipe("libx265"))
    sps = bytearray(next(unit for unit in units(bytes(packets[0].data)) if H265Packets.kind(unit) == SPS))
    sps[3] |= 0x20
    assert h265.sps_facts(bytes(sps)).high_tier


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        # Marker, profile, [reserved,] existing, inter, shown and resilient, sync code, [12 bits,] color, range, [chroma]
        ("10 01 0 0 10 010010011000001101000010 0 010 0", VideoFacts("vp9", "Profile 2", bits=10, size=Size(320, 180))),
        ("10 01 0 0 10 010010011000001101000010 1 010 0", VideoFacts("vp9", "Profile 2", bits=12, size=Size(320, 180))),
        (
            "10 11 0 0 0 10 010010011000001101000010 0 010 0 1 0 0",
            VideoFacts("vp9", "Profile 3", 0, False, 10, "4:2:2", Size(320, 180)),
        ),
        ("10 10 0 0 10 010010011000001101000010 111 0", VideoFacts("vp9", "Profile 1", chroma="4:4:4", size=Size(320, 180))),
        ("10 00 0 0 10 010010011000001101000011 010 0", None),
        ("10 00 0 1 10 010010011000001101000010 010 0", None),
        ("11 00 0 0 10 010010011000001101000010 010 0", None),
    ],
)
def test_facts_of_vp9_headers(fields: str, facts: VideoFacts | None) -> None:
    text = fields.replace(" ", "") + f"{319:016b}{179:016b}"
    data = int(text.ljust(256, "0"), 2).to_bytes(32, "big")
    assert vp9.key_facts(data) == facts


def test_interlaced_h265_is_detected() -> None:
    _, packets = encoded(Recipe("libx265", extra=(("x265-params", "interlace=1:log-level=none"),)))
    sps = next(unit for packet in packets for unit in units(bytes(packet.data)) if H265Packets.kind(unit) == SPS)
    assert h265.sps_facts(sps).interlaced


SIZES = st.lists(st.one_of(st.integers(2, 12), st.integers(1280, 1310), st.integers(2580, 2610)), min_size=1, max_size=5)


@settings(max_examples=100)
@given(SIZES, st.integers(0, 63), st.integers(1, 7))
def test_units_of_h265_around_the_size_of_a_payload_return(sizes: list[int], layer: int, temporal: int) -> None:
    header = bytes([19 << 1 | layer >> 5, (layer & 31) << 3 | temporal])
    given_units = [header + bytes([number] * (size - 2)) for number, size in enumerate(sizes)]
    payloads = h265.payloads(given_units)
    assert h265_units(payloads) == given_units
    assert max(map(len, payloads)) <= MAX_PAYLOAD
    assert {payload[1] for payload in payloads} == {header[1]}


@settings(max_examples=100)
@given(SIZES, st.booleans())
def test_obus_around_the_size_of_a_payload_return(sizes: list[int], key: bool) -> None:
    given_obus = [bytes([6 << 3]) + bytes([number] * (size - 1)) for number, size in enumerate(sizes)]
    payloads = av1.payloads(given_obus, key)
    assert av1_obus(payloads) == given_obus
    assert max(map(len, payloads)) <= MAX_PAYLOAD


def test_a_key_frame_of_vp9_may_have_any_size() -> None:
    data = int(f"{'10 00 0 0 10 010010011000001101000010 010 0'.replace(' ', '')}{65535:016b}{179:016b}".ljust(256, "0"), 2)
    packet = EncodedPacket(memoryview(data.to_bytes(32, "big")), 0, True, None)
    assert vp9.Vp9Packets().payloads(packet)


@settings(max_examples=150)
@given(st.sampled_from(list(LARGE)), st.binary(max_size=200), st.integers(0, 400), st.booleans(), st.booleans())
def test_no_content_of_a_packet_raises(encoder: str, noise: bytes, at: int, key: bool, outside: bool) -> None:
    video, packets = encoded(LARGE[encoder])
    data = bytes(packets[0].data)[:2000]
    data = data[:at] + noise + data[at + len(noise) // 2 :]
    converter = packets_of(VideoFormat(video.codec, data if outside else video.extradata))
    assert converter is not None
    for packet in (data, noise, bytes(packets[1].data)):
        payloads = converter.payloads(EncodedPacket(memoryview(packet), 0, key, None))
        assert all(0 < len(payload) <= MAX_PAYLOAD for payload in payloads)
    converter.sprop()
    if converter.facts is not None:
        passthrough(converter.facts, False, 2160)
        assert str(converter.facts)
