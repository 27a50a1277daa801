"""Payloads of sound, their RTP times, and the audio section of offers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from vision_infer.core.packet import SoundFormat, SoundPacket
from vision_infer.preview.offer import read_offer
from vision_infer.preview.sound.sound_frame import OPUS, PCMA, PCMU, SoundFrame, SoundTimeline, frames_of, opus_ticks, own_codec
from vision_infer.preview.sound.sound_offer import read_sound, with_sound

MS = 1_000_000
CHROMIUM = (Path(__file__).parent / "chromium_offer.sdp").read_text()


@pytest.mark.parametrize(
    ("sound", "codec"),
    [
        (SoundFormat("opus", 48_000, 2), OPUS),
        (SoundFormat("opus", 48_000, 6), None),
        (SoundFormat("pcm_mulaw", 8000, 1), PCMU),
        (SoundFormat("pcm_alaw", 8000, 1), PCMA),
        (SoundFormat("pcm_alaw", 8000, 2), None),
        (SoundFormat("pcm_mulaw", 16_000, 1), None),
        (SoundFormat("aac", 48_000, 2), None),
    ],
)
def test_only_what_browsers_play_is_passed_on(sound: SoundFormat, codec: object) -> None:
    assert own_codec(sound) is codec


@pytest.mark.parametrize(
    ("begin", "ticks"),
    [("fc", 960), ("f8", 960), ("e0", 120), ("08", 960), ("18", 2880), ("19", 5760), ("fb03", 2880), ("fb3f", 0), ("fb", 0)],
)
def test_the_duration_of_an_opus_packet(begin: str, ticks: int) -> None:
    assert opus_ticks(bytes.fromhex(begin)) == ticks


def test_long_g711_is_divided_and_long_opus_dropped() -> None:
    frames = list(frames_of(PCMU, SoundPacket(memoryview(bytes(range(250)) * 10), 7)))
    assert b"".join(frame.payload for frame in frames) == bytes(range(250)) * 10
    assert [(len(frame.payload), frame.ticks, frame.pts_ns) for frame in frames] == [
        (1200, 1200, 7),
        (1200, 1200, 7 + 150 * MS),
        (100, 100, 7 + 300 * MS),
    ]
    assert not list(frames_of(OPUS, SoundPacket(memoryview(b"\xfc" + bytes(1300)), 0)))
    assert not list(frames_of(OPUS, SoundPacket(memoryview(b""), 0)))


def sound_frame(ms: float, codec: object = PCMU) -> SoundFrame:
    return SoundFrame(codec, bytes(160), round(ms * MS), 160 if codec is PCMU else 960)  # type: ignore[arg-type]


def test_rtp_times_follow_the_sound_and_gaps_the_presentation_times() -> None:
    timeline = SoundTimeline(0xFFFFFF00)
    times = [timeline.next(sound_frame(20 * number + number % 3), 20 * number * MS) for number in range(1, 200)]
    assert times[0] == (0xFFFFFF00, True)
    assert {int(step) & 0xFFFFFFFF for step in np.diff([time for time, _ in times])} == {160}, "jitter never makes a gap"
    assert not any(begins for _, begins in times[1:])
    last = times[-1][0]
    assert timeline.next(sound_frame(20 * 199 + 5020), 9000 * MS) == (last + 8 * 5019, True)  # the first had 1 ms of jitter


def test_a_restart_of_the_camera_continues_after_the_time_that_passed() -> None:
    timeline = SoundTimeline(0)
    first, _ = timeline.next(sound_frame(1_000_000), 5_000 * MS)
    again, begins = timeline.next(sound_frame(3), 8_000 * MS)
    assert begins
    assert again - first == 160 + 3000 * 8
    assert timeline.next(sound_frame(23), 8_020 * MS) == (again + 160, False)


def test_another_codec_has_its_own_clock() -> None:
    timeline = SoundTimeline(0)
    timeline.next(sound_frame(0), 1 * MS)
    time, begins = timeline.next(sound_frame(20, OPUS), 21 * MS)
    assert begins
    assert timeline.next(sound_frame(40, OPUS), 41 * MS) == (time + 960, False)


AUDIO = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sendrecv\r\n"
    "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n"
    "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n"
    "a=rtpmap:9 G722/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:13 CN/8000\r\na=rtpmap:110 telephone-event/48000\r\n"
)


def test_an_offer_is_reduced_to_the_codecs_that_are_sent() -> None:
    offer = read_offer(CHROMIUM.replace("\r\n", "\n").replace("\n", "\r\n") + AUDIO)
    sound = read_sound(offer.sections)
    assert sound is not None
    assert sound.payload_types == {"opus": 111, "PCMU": 0, "PCMA": 8}, "0 needs no rtpmap"
    text = with_sound("v=0\r\n" + AUDIO, sound.payload_types.values())
    assert "m=audio 9 UDP/TLS/RTP/SAVPF 111 0 8\r\na=recvonly\r\n" in text
    for gone in ("sendrecv", "G722", "red", "telephone", "audio-level", "CN/"):
        assert gone not in text
    assert "a=rtpmap:111 opus/48000/2" in text
    unheard = with_sound("v=0\r\n" + AUDIO, ())
    assert "a=recvonly" in unheard
    assert "G722" in unheard


@pytest.mark.parametrize(("port", "line"), [(9, "a=sendonly"), (9, "a=inactive"), (0, "a=recvonly")])
def test_a_player_that_accepts_no_sound_gets_none(port: int, line: str) -> None:
    assert read_sound((("v=0",), (f"m=audio {port} UDP/TLS/RTP/SAVPF 0", line))) is None
    assert read_sound((("v=0",), ("m=audio 0 UDP/TLS/RTP/SAVPF 0", "a=bundle-only"))) is not None


def test_endless_numbers_in_an_offer_raise_no_error() -> None:
    """Python refuses to convert numbers of more than 4,300 digits."""
    endless = "9" * 5000
    lines = f"a=extmap:{endless} urn:x\na=rtpmap:{endless} %s\n"
    text = CHROMIUM.replace("\r\n", "\n").replace("a=rtpmap:111 ", lines % "opus/48000" + "a=rtpmap:111 ", 1)
    text = text.replace("SAVPF ", f"SAVPF {endless} ").replace("m=audio", lines % "H264/90000" + "m=audio", 1)
    found = read_sound(read_offer(text).sections)
    assert found is not None
    assert found.payload_types["opus"] == 111


def test_damaged_audio_sections_raise_no_error() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        text = list(AUDIO)
        for _ in range(chance.randrange(1, 8)):
            at = chance.randrange(2, len(text))
            text[at : at + chance.randrange(3)] = chance.choice(
                ("", " ", "\r\n", "\0", "9" * 30, "a=rtpmap:", "\u0663", "m=audio ")
            )
        sections = [part.split("\r\n") for part in ("m=" + part for part in "".join(text).split("m=")[1:])]
        sound = read_sound(tuple(map(tuple, sections)))
        with_sound("".join(text), () if sound is None else sound.payload_types.values())


def test_damaged_payload_types_are_skipped() -> None:
    sound = read_sound((("v=0",), ("m=audio 9 UDP/TLS/RTP/SAVPF 0 x 999 300", "a=rtpmap:999 opus/48000")))
    assert sound is not None
    assert sound.payload_types == {"PCMU": 0}
