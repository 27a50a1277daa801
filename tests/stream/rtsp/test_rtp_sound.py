"""RTP packets of sound become encoded packets with times."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rtp_packets import SSRC, rtp
from vision_infer.stream.rtsp.description import MediaSection
from vision_infer.stream.rtsp.sound_track import RtpSoundTrack, TimedSound, unsupported_sound

SECOND = 1_000_000_000
HBR = {"mode": "AAC-hbr", "sizelength": "13", "indexlength": "3", "indexdeltalength": "3", "config": "1408"}


def media(codec: str = "pcma", rate: int = 8000, parameters: dict[str, str] | None = None) -> MediaSection:
    return MediaSection("audio", 96, codec, rate, 1, parameters or {}, "rtsp://192.0.2.1/2", None, False)


def units(*sizes: int) -> bytes:
    """Return the table of access units of these sizes."""
    return (16 * len(sizes)).to_bytes(2, "big") + b"".join((size << 3).to_bytes(2, "big") for size in sizes)


def test_a_packet_of_g711_is_passed_on_as_it_is() -> None:
    track = RtpSoundTrack(media())
    assert track.push_rtp(rtp(b"a" * 160, 1, 2**32 - 160), 0) == [TimedSound(b"a" * 160, 0, None)]
    wall_s = 1_700_000_000
    track.push_rtcp(struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, (wall_s + 2_208_988_800) << 32, 0, 1, 2))
    assert track.push_rtp(rtp(b"b", 2, 0), 0) == [TimedSound(b"b", SECOND // 50, wall_s * SECOND)]
    assert track.push_rtp(rtp(b"", 3, 160), 0) == []
    # A report about other times, as of a clock that was set.
    (late,) = track.push_rtp(rtp(b"c", 4, 2 * 3600 * 8000), 0)
    assert late.wall_ns is None


def test_the_access_units_of_aac_are_separated() -> None:
    track = RtpSoundTrack(media("mpeg4-generic", 16_000, HBR))
    found = track.push_rtp(rtp(units(3, 4) + b"aaabbbb", 1, 0, True), 0)
    assert [(sound.data, sound.since_ns) for sound in found] == [(b"aaa", 0), (b"bbbb", 64_000_000)]
    assert track.push_rtp(rtp(units(3, 40) + b"aaab", 2, 2048, True), 0)[0].data == b"aaa"


def test_the_duration_of_access_units_may_be_announced() -> None:
    track = RtpSoundTrack(media("mpeg4-generic", 16_000, {**HBR, "constantduration": "2048"}))
    found = track.push_rtp(rtp(units(3, 4) + b"aaabbbb", 1, 0, True), 0)
    assert [sound.since_ns for sound in found] == [0, 128_000_000]
    track = RtpSoundTrack(media("mpeg4-generic", 16_000, {**HBR, "constantduration": "x"}))
    assert [sound.since_ns for sound in track.push_rtp(rtp(units(3, 4) + b"aaabbbb", 1, 0, True), 0)] == [0, 64_000_000]


def test_an_access_unit_in_several_packets_is_joined_unless_one_is_lost() -> None:
    track = RtpSoundTrack(media("mpeg4-generic", 16_000, HBR))
    assert track.push_rtp(rtp(units(5) + b"aaa", 1, 0), 0) == []
    assert [sound.data for sound in track.push_rtp(rtp(units(5) + b"bb", 2, 0, True), 0)] == [b"aaabb"]
    assert track.push_rtp(rtp(units(5) + b"aaa", 3, 1024), 0) == []
    assert track.push_rtp(rtp(units(5) + b"bb", 5, 1024, True), 0) == []


def test_what_cannot_be_read_is_named() -> None:
    assert unsupported_sound(media()) == unsupported_sound(media("mpeg4-generic", 16_000, HBR)) == ""
    assert "g726-32" in unsupported_sound(media("g726-32"))
    assert "AAC" in unsupported_sound(media("mpeg4-generic", 16_000, {**HBR, "sizelength": "x"}))
    assert "AAC" in unsupported_sound(media("mpeg4-generic", 16_000, {**HBR, "config": "zz"}))


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 5), st.booleans()), max_size=40))
@settings(max_examples=100)
def test_any_payload_is_read_or_ignored(packets: list[tuple[bytes, int, bool]]) -> None:
    track = RtpSoundTrack(media("mpeg4-generic", 16_000, HBR), udp=True)
    for payload, number, marker in packets:
        for sound in track.push_rtp(rtp(payload, number, number * 1024, marker), 0):
            assert sound.data
    assert sum(map(len, track._parts)) <= 16_384 + 40
