"""RTP payloads become pictures, each with its last packet."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rtp_packets import SSRC, aggregate, annex_b, fragments264, payloads, rtp, slice264, slice265
from tests.support.rtp_quirks import IDR, PPS, QUIRKS, SPS, P, Quirk
from vision_infer.stream.rtsp import picture as picture_module
from vision_infer.stream.rtsp.depacketize_h264 import H264Depacketizer
from vision_infer.stream.rtsp.depacketize_h265 import H265Depacketizer
from vision_infer.stream.rtsp.description import MediaSection
from vision_infer.stream.rtsp.picture import Picture, PictureAssembler
from vision_infer.stream.rtsp.rtp import parse_rtp
from vision_infer.stream.rtsp.video_track import RtpVideoTrack, unsupported

SECOND = 1_000_000_000


def media(codec: str = "h264", **parameters: str) -> MediaSection:
    return MediaSection("video", 96, codec, 90_000, 1, parameters, "rtsp://192.0.2.1/1", None, False)


def assembler(hevc: bool = False) -> PictureAssembler:
    return PictureAssembler(H265Depacketizer() if hevc else H264Depacketizer())


def push(joined: PictureAssembler, payload: bytes, timestamp: int, marker: bool = False, lost: int = 0) -> list[Picture]:
    packet = parse_rtp(rtp(payload, 0, timestamp, marker))
    assert packet is not None
    return joined.push(packet, lost, timestamp)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_a_quirk_of_a_camera(quirk: Quirk) -> None:
    joined = assembler(quirk.codec == "h265")
    found = [
        (at, picture.damaged, picture.data)
        for at, (timestamp, marker, payload) in enumerate(quirk.packets)
        for picture in push(joined, payload, timestamp, marker)
    ]
    assert found == list(quirk.pictures)


@pytest.mark.parametrize("hevc", [False, True])
def test_each_picture_is_given_out_with_its_last_packet(hevc: bool) -> None:
    rng = random.Random(1)
    joined = assembler(hevc)
    for number in range(100):
        key = number % 10 == 0
        make = slice265 if hevc else slice264
        units = [make(19 if hevc else 5, rng.randint(1, 9000)) if key else make(1, rng.randint(1, 9000))]
        units += [make(19 if hevc and key else 5 if key else 1, rng.randint(1, 3000), first=False) for _ in range(number % 3)]
        sent = list(payloads(units, hevc))
        for payload, last in sent:
            out = push(joined, payload, number * 3000, last)
            assert len(out) == last
        (picture,) = out
        own = tuple(payload for payload, _ in sent)
        assert picture == Picture(annex_b(*units), number * 3000, key, False, 0, number * 3000, own)
    assert (joined.counts.whole, joined.counts.damaged, joined.counts.cut) == (100, 0, 0)


@given(st.integers(0, 2**32), st.sampled_from([False, True]), st.sampled_from([False, True]))
@settings(max_examples=60)
def test_a_picture_with_a_lost_packet_is_never_given_out_as_whole(seed: int, hevc: bool, marked: bool) -> None:
    rng = random.Random(seed)
    slices: list[bytes] = []
    packets: list[tuple[bytes, int, bool]] = []
    make = slice265 if hevc else slice264
    for number in range(30):
        first = [] if number % 7 else ([b"\x42\1" + bytes([number])] if hevc else [SPS, PPS])
        sizes = [rng.randint(1, 5000) for _ in range(rng.randint(1, 3))]
        units = [make(1, size, not place, number + 0xC0) for place, size in enumerate(sizes)]
        slices.append(annex_b(*units))
        packets += [(payload, number * 3000, last and marked) for payload, last in payloads([*first, *units], hevc)]
    joined, lost, missing = assembler(hevc), 0, 0
    out: list[Picture] = []
    for payload, timestamp, marker in packets:
        if rng.random() < 0.1:
            lost += 1
            continue
        out += push(joined, payload, timestamp, marker, lost)
        missing, lost = missing + lost, 0
    whole = [picture for picture in out if not picture.damaged]
    for picture in whole:
        # Parameter sets may be missing or belong to a lost picture; no part of a slice may.
        number = picture.timestamp // 3000
        assert picture.data.endswith(slices[number])
        assert picture.data.count(number + 0xC0) == slices[number].count(number + 0xC0)
    assert sum(picture.lost for picture in out) <= missing
    assert joined.counts.whole == len(whole)


@pytest.mark.parametrize("before", [b"", b"\x00\x02\x12\x34\x01\x01\x55", b"\xff\x06\x03abc", b"\x05\xff\x01" + b"u" * 256])
def test_a_recovery_point_is_a_key_frame(before: bytes) -> None:
    joined = assembler()
    push(joined, aggregate(b"\x78", [SPS, PPS, b"\x06" + before + b"\x06\x01\xc4\x80"]), 9)
    assert [picture.key for picture in push(joined, P, 9, True)] == [True]
    assert [picture.key for picture in push(joined, P, 18, True)] == [False]
    push(joined, b"\x06\x05\x03\x06\x01\xc4\x80", 27)
    assert [picture.key for picture in push(joined, P, 27, True)] == [False]


def test_a_picture_has_no_payloads_unless_they_are_exactly_the_picture() -> None:
    joined = assembler()
    parts = fragments264(slice264(1, 3000), 1000)
    push(joined, parts[0], 0)
    (damaged,) = push(joined, parts[2], 0, True, lost=1)
    assert (damaged.damaged, damaged.payloads) == (True, ())
    # A payload contains the end of a picture and the parameter sets of the next one, or they have the previous timestamp.
    (first,) = push(joined, aggregate(b"\x78", [P, SPS]), 9, True)
    (key,) = [*push(joined, PPS, 18), *push(joined, IDR, 18, True)]
    assert (first.payloads, key.data, key.payloads) == ((), annex_b(SPS, PPS, IDR), ())
    (after,) = push(joined, P, 27, True)
    assert after.payloads == (P,)


def test_a_loss_between_pictures_damages_none_of_them() -> None:
    joined = assembler()
    push(joined, IDR, 0, True)
    (picture,) = push(joined, P, 27, True, lost=4)
    assert (picture.damaged, picture.lost) == (False, 4)


def test_the_size_of_a_picture_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_module, "MAX_PICTURE", 5000)
    joined = assembler()
    parts = fragments264(slice264(5, 20_000), 1000)
    assert [picture for part in parts for picture in push(joined, part, 9)] == []
    assert sum(map(len, joined._pieces)) <= 5000
    assert push(joined, P, 18, True)[-1].data == annex_b(P)
    assert joined.counts.oversize == 1
    for _ in range(1000):
        push(joined, SPS * 10, 27)
    assert sum(map(len, joined._pieces)) <= 5000 + 60


def test_the_number_of_pieces_of_a_picture_is_limited() -> None:
    joined = assembler()
    first, rest = fragments264(IDR, 1, end=False)[:2]
    push(joined, first, 9)
    for _ in range(33_000):
        push(joined, rest, 9)
    assert len(joined._pieces) < 32_768
    assert joined.counts.oversize == 1


@pytest.mark.parametrize("hevc", [False, True])
@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3), st.booleans(), st.integers(0, 1)), max_size=60))
@settings(max_examples=150)
def test_any_payloads_are_joined_or_ignored(hevc: bool, packets: list[tuple[bytes, int, bool, int]]) -> None:
    joined = assembler(hevc)
    out = [picture for payload, timestamp, marker, lost in packets for picture in push(joined, payload, timestamp, marker, lost)]
    assert all(picture.data.startswith(b"\0\0\0\1") for picture in out)
    assert joined.counts.whole <= len(out) <= joined.counts.whole + joined.counts.damaged


def test_a_track_gives_times_and_reports() -> None:
    track = RtpVideoTrack(media(), 7)
    start = 2**32 - 3000
    (first,) = track.push_rtp(rtp(IDR, 1, start, True), 0)
    assert (first.pts_ns, first.wall_ns) == (0, None)
    wall_s = 1_700_000_000
    report = struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, (wall_s + 2_208_988_800) << 32, start, 1, 2)
    track.push_rtcp(report, 0)
    (second,) = track.push_rtp(rtp(P, 2, start + 4500, True), SECOND // 20)
    assert (second.pts_ns, second.wall_ns) == (50_000_000, wall_s * SECOND + 50_000_000)
    assert track.report(SECOND) is not None
    assert track.report(2 * SECOND) is None
    track.push_rtcp(b"\x81\xcb\0\1" + struct.pack("!I", 5), 0)
    assert not track.ended
    track.push_rtcp(b"\x81\xcb\0\1" + struct.pack("!I", SSRC), 0)
    assert track.ended


def test_a_track_over_udp_waits_for_a_late_packet() -> None:
    track = RtpVideoTrack(media(), 7, udp=True)
    track.push_rtp(rtp(IDR, 1, 0, True), 0)
    parts = fragments264(slice264(1, 250), 100)
    assert track.push_rtp(rtp(parts[0], 2, 9), 0) == []
    assert track.push_rtp(rtp(parts[2], 4, 9, True), 0) == []
    (late,) = track.push_rtp(rtp(parts[1], 3, 9), 0)
    assert not late.picture.damaged
    track.push_rtp(rtp(parts[0], 5, 18), 0)
    track.push_rtp(rtp(parts[2], 7, 18, True), 0)
    assert track.deadline_ns == 50_000_000
    (damaged,) = track.expire(50_000_000)
    assert (damaged.picture.damaged, damaged.picture.lost) == (True, 1)


def test_what_a_track_cannot_read_is_named() -> None:
    assert unsupported(media()) == unsupported(media("h265")) == ""
    assert "vp8" in unsupported(media("vp8"))
    assert "interleaved" in unsupported(media(**{"packetization-mode": "2"}))
    assert "decoding order" in unsupported(media("h265", **{"sprop-max-don-diff": "1"}))
