"""The ring of encoded video: whole groups, bounded bytes, and at least the requested time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.core.packet import EncodedPacket, SoundPacket
from vision_infer.sink.clip_ring import PacketRing, TimedPacket, length_size, outside_sets, parameter_sets, with_start_codes

MS = 1_000_000
SPS, PPS, IDR, SLICE = b"\x67\x42\x00\x1e", b"\x68\xce\x01", b"\x65\x88\x80\x10", b"\x41\x9a\x02"
AVCC = b"\x01\x42\x00\x1e\xff\xe1" + b"\x00\x04" + SPS + b"\x01" + b"\x00\x03" + PPS
VPS5, SPS5, IDR5 = b"\x40\x01\x0c", b"\x42\x01\x01\x01", b"\x26\x01\xaf"
HVCC = b"\x01" + bytes(20) + b"\x03\x02" + b"\x20\x00\x01\x00\x03" + VPS5 + b"\x21\x00\x01\x00\x04" + SPS5


def timed(at_ms: int, key: bool, size: int = 100) -> TimedPacket:
    return TimedPacket(at_ms * MS, EncodedPacket(memoryview(bytes(size)), at_ms * MS, key, at_ms * MS))


PACKETS = st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.integers(0, 3000)), max_size=150)


@settings(max_examples=200, deadline=None)
@given(PACKETS, st.integers(0, 3000), st.integers(1, 20_000), st.integers(0, 30_000))
def test_the_ring_is_bounded_begins_with_a_key_frame_and_covers_the_requested_time(
    steps: list[tuple[int, bool, int]], keep_ms: int, max_bytes: int, ask_ms: int
) -> None:
    ring = PacketRing(keep_ms * MS, max_bytes)
    now, given_so_far = 1, []  # later than the requested time: everything is needed
    for step_ms, key, size in steps:
        now += step_ms
        given_so_far.append(timed(now, key, size))
        before = ring.too_large
        ring.add(given_so_far[-1])
        kept = ring.since(0)
        assert ring.bytes == sum(one.packet.data.nbytes for one in kept) <= max_bytes
        assert len(ring) == len(kept)
        if kept:
            assert kept[0].key
            assert kept == given_so_far[-len(kept) :], "nothing is missing in between"
            later = [one for one in kept[1:] if one.key and one.at_ns <= (now - keep_ms) * MS]
            assert not later or ring.bytes > max_bytes, "no group more than needed"
        else:
            assert not any(one.key for one in given_so_far) or ring.too_large
        if ring.too_large > before:
            assert not kept
    part = ring.since(ask_ms * MS)
    assert not part or part[0].key
    earlier_keys = [one for one in ring.since(0) if one.key and one.at_ns <= ask_ms * MS]
    if earlier_keys:
        assert part[0].at_ns == earlier_keys[-1].at_ns


def test_old_groups_are_dropped_and_a_too_large_group_is_not_kept() -> None:
    ring = PacketRing(1000 * MS, 10_000)
    for at_ms in range(0, 5000, 100):
        ring.add(timed(at_ms, at_ms % 500 == 0))
    assert ring.since(0)[0].at_ns == 3500 * MS
    assert ring.since(4600 * MS)[0].at_ns == 4500 * MS
    for at_ms in range(5000, 20_000, 100):
        ring.add(timed(at_ms, False))
    assert ring.too_large == 1
    assert ring.since(0) == []
    ring.add(timed(20_000, True))
    assert len(ring) == 1


@pytest.mark.parametrize(
    ("codec", "units", "extradata", "parameters"),
    [
        ("h264", [SPS, PPS, IDR], AVCC, SPS),
        ("h264", [IDR], AVCC, b""),
        ("hevc", [VPS5, SPS5, IDR5], HVCC, VPS5 + SPS5),
        ("hevc", [IDR5], HVCC, b""),
    ],
)
def test_units_are_the_same_with_lengths_and_with_start_codes(
    codec: str, units: list[bytes], extradata: bytes, parameters: bytes
) -> None:
    coded = b"".join(b"\0\0\0\1" + unit for unit in units)
    lengths = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    assert length_size(codec, extradata) == 4
    assert length_size(codec, coded) == 0
    assert with_start_codes(lengths, 4) == coded
    assert with_start_codes(coded, 0) == coded
    assert parameter_sets(codec, coded, 0) == parameter_sets(codec, lengths, 4) == parameters
    sets = [SPS, PPS] if codec == "h264" else [VPS5, SPS5]
    assert outside_sets(codec, extradata) == b"".join(b"\0\0\0\1" + one for one in sets)
    assert outside_sets(codec, coded) == coded


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["h264", "hevc", "mjpeg"]), st.binary(max_size=60), st.sampled_from([0, 1, 2, 4]))
def test_damaged_bytes_raise_no_error(codec: str, data: bytes, size: int) -> None:
    parameter_sets(codec, data, size)
    with_start_codes(data, size)
    outside_sets(codec, b"\x01" + data)


@pytest.mark.parametrize("sound_ms", [-(10**9), 10**9])
def test_a_wrong_clock_of_the_sound_drops_no_video(sound_ms: int) -> None:
    ring = PacketRing(1000 * MS, 10_000)
    for at_ms in range(0, 1500, 100):
        ring.add(timed(at_ms, at_ms % 500 == 0))
        ring.add(TimedPacket(sound_ms * MS, SoundPacket(memoryview(bytes(10)), sound_ms * MS)))
    assert [one.at_ns for one in ring.since(0) if one.key] == [0, 500 * MS, 1000 * MS]
