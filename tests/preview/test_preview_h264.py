"""Parsing H.264 of real encoders."""

from __future__ import annotations

from fractions import Fraction

import av
import pytest
from aiortc.codecs.h264 import h264_depayload

from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.preview.codecs import h264
from vision_infer.preview.codecs.h264 import H264Packets
from vision_infer.preview.codecs.matching import profile_level_id
from vision_infer.preview.codecs.nal_units import units
from vision_infer.stream.browser import VideoFacts, passthrough

SEI = 6


def encoded(
    width: int, height: int, options: dict[str, str], pix_fmt: str = "yuv420p", frames: int = 3
) -> tuple[bytes, list[bytes]]:
    """Return the extradata and packets of a black video, Annex B."""
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
    context.options = {"preset": "ultrafast", "tune": "zerolatency", **options}
    found: list[bytes] = []
    for number in range(frames):
        frame = av.VideoFrame(width, height, pix_fmt)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = number
        found += [bytes(packet) for packet in context.encode(frame)]
    found += [bytes(packet) for packet in context.encode(None)]
    return bytes(context.extradata or b""), found


def sps_of(packet: bytes) -> bytes:
    return next(unit for unit in units(packet) if unit[0] & 31 == h264.SPS)


@pytest.mark.parametrize(
    ("width", "height", "options", "profile", "interlaced"),
    [
        (640, 360, {"profile": "baseline"}, "Constrained Baseline", False),
        (1920, 1080, {"preset": "veryfast", "profile": "main"}, "Main", False),
        (1280, 720, {"preset": "veryfast", "profile": "high"}, "High", False),
        (322, 242, {"preset": "veryfast", "profile": "high"}, "High", False),
        (720, 576, {"preset": "veryfast", "profile": "high", "x264-params": "interlaced=1"}, "High", True),
    ],
)
def test_facts_of_a_parameter_set(width: int, height: int, options: dict[str, str], profile: str, interlaced: bool) -> None:
    facts = h264.sps_facts(sps_of(encoded(width, height, options)[1][0]))
    assert facts.size == Size(width, height)
    assert facts.profile == profile
    assert facts.interlaced is interlaced
    assert (facts.bits, facts.chroma) == (8, "4:2:0")


def test_ten_bits_and_other_chroma_formats_are_detected() -> None:
    for pix_fmt in ("yuv420p10le", "yuv422p", "yuv444p"):
        facts = h264.sps_facts(sps_of(encoded(320, 240, {}, pix_fmt)[1][0]))
        assert (facts.bits, facts.chroma) != (8, "4:2:0")
        assert passthrough(facts, False, 2160).problem.startswith(f"browsers do not play H.264 {facts.profile}")


def test_a_damaged_parameter_set_is_an_error_and_not_a_crash() -> None:
    sps = sps_of(encoded(640, 360, {})[1][0])
    whole = h264.sps_facts(sps)

    def facts(unit: bytes) -> VideoFacts | None:
        try:
            return h264.sps_facts(unit)
        except ValueError:
            return None

    cut = [facts(sps[:length]) for length in range(len(sps))]
    assert cut[:8] == [None] * 8  # the size follows later
    broken = [facts(sps[:at] + bytes([sps[at] ^ 1 << bit]) + sps[at + 1 :]) for at in range(len(sps)) for bit in range(8)]
    assert None in broken
    assert any(found is not None and found != whole for found in broken)


def test_lengths_and_start_codes_give_the_same_units() -> None:
    packet = encoded(320, 240, {})[1][0]
    found = list(units(packet))
    assert len(found) > 2
    with_lengths = b"".join(len(unit).to_bytes(4, "big") + unit for unit in found)
    assert list(units(with_lengths, 4)) == found


def test_parameter_sets_from_the_extradata_precede_each_key_frame() -> None:
    extradata, packets = encoded(320, 240, {"x264-params": "keyint=2:repeat-headers=0", "flags": "+global_header"}, frames=4)
    assert {unit[0] & 31 for unit in units(packets[0])} <= {SEI, 5}
    converter = H264Packets(VideoFormat("h264", extradata))
    assert converter.facts is not None
    for number, packet in enumerate(packets):
        key = number % 2 == 0
        found = converter.units(EncodedPacket(memoryview(packet), number, key, None))
        kinds = dict.fromkeys(unit[0] & 31 for unit in found if unit[0] & 31 != SEI)  # a frame may have several slices
        assert list(kinds) == ([7, 8, 5] if key else [1])


def test_avcc_extradata_is_parsed() -> None:
    extradata, packets = encoded(320, 240, {"flags": "+global_header"})
    sps, pps = (next(u for u in units(extradata) if u[0] & 31 == kind) for kind in (7, 8))
    avcc = bytes([1, *sps[1:4], 0xFF, 0xE1]) + len(sps).to_bytes(2, "big") + sps + b"\x01" + len(pps).to_bytes(2, "big") + pps
    assert H264Packets.parameter_sets(avcc) == (4, [sps, pps])
    for cut in range(len(avcc)):
        H264Packets.parameter_sets(avcc[:cut])
    assert packets


def test_joined_payloads_give_the_original_frame() -> None:
    packet = encoded(1280, 720, {"x264-params": "bitrate=20000:vbv-maxrate=20000:vbv-bufsize=20000"})[1][0]
    found = list(units(packet))
    big = [*found[:-1], found[-1] + bytes(range(1, 256)) * 40]  # larger than the maximum packet size
    payloads = h264.payloads(big)
    assert max(map(len, payloads)) <= 1300
    assert list(units(b"".join(map(h264_depayload, payloads)))) == big


@pytest.mark.parametrize("length", [1300, 1301, 1299 + 1298, 1 + 3 * 1298, 2 + 3 * 1298])
def test_a_large_unit_fills_each_packet_but_its_last(length: int) -> None:
    unit = bytes([0x65]) + bytes(range(1, 256)) * (length // 255 + 1)
    payloads = h264.payloads([unit[:length]])
    assert {len(payload) for payload in payloads[:-1]} <= {1300}
    assert b"".join(map(h264_depayload, payloads)) == b"\0\0\0\1" + unit[:length]


@pytest.mark.parametrize(
    ("camera", "plain"),
    [
        ("42c01e", "42e01e"),
        ("42001f", "42001f"),
        ("4d401f", "4d001f"),
        ("4d601f", "4d001f"),
        ("4d8028", "42e028"),
        ("640028", "640028"),
        ("640c34", "640c34"),
        ("64003c", "640034"),
    ],
)
def test_additional_profile_flags_of_cameras_are_ignored(camera: str, plain: str) -> None:
    number, flags, level = bytes.fromhex(camera)
    facts = VideoFacts("h264", h264.profile_name(number, flags), level)
    assert profile_level_id(facts) == plain
