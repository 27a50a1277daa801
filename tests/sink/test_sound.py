"""Sound that is encoded again keeps its times and its tone, whatever the source does."""

from __future__ import annotations

import random
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.codeccontext import AudioCodecContext

from vision_infer.core.packet import SoundFormat, SoundPacket
from vision_infer.preview.sound.sound_feed import _opus_encoder
from vision_infer.sink.sound import Recoder, SoundTrack, aac_rate

SECOND = 1_000_000_000


def tone(rate: int, seconds: float, codec: str = "pcm_alaw", layout: str = "mono", hz: int = 1000) -> list[SoundPacket]:
    """Encode a tone, with presentation times from 0."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, AudioCodecContext)
    context.sample_rate, context.layout = rate, layout
    context.format = "s16" if codec.startswith("pcm") else "fltp"
    context.open()
    size, packets = context.frame_size or rate // 50, []
    channels = 1 if layout == "mono" else 2
    for begin in range(0, round(rate * seconds), size):
        wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(begin, begin + size) / rate)
        wave = np.tile(wave, (channels, 1)).astype(np.float32)
        if context.format.name == "s16":
            wave = (wave.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave, context.format.name, layout)
        frame.sample_rate, frame.pts = rate, begin
        for packet in context.encode(frame):
            pts_ns = max(0, packet.pts or 0) * SECOND // rate
            packets.append(SoundPacket(memoryview(bytes(packet)), pts_ns))
    return packets


def heard(packets: list[SoundPacket], skip: int = 5) -> float:
    """Decode Opus, and return the strongest frequency, Hz."""
    decoder = av.CodecContext.create("libopus", "r")
    assert isinstance(decoder, AudioCodecContext)
    decoder.sample_rate, decoder.layout = 48_000, "mono"
    frames = [frame for packet in packets for frame in decoder.decode(av.Packet(bytes(packet.data)))]
    samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames[skip:]])
    return float(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))))) * 48_000 / len(samples)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_the_tone_and_the_times_are_kept(rate: int) -> None:
    recoder = Recoder(SoundFormat("pcm_alaw", rate, 1), _opus_encoder())
    coded = [one for packet in tone(rate, 1.0) for one in recoder.recode(packet)]
    assert heard(coded) == pytest.approx(1000, abs=10)
    assert len(coded) == pytest.approx(50, abs=2)
    assert set(np.diff([packet.pts_ns for packet in coded])) == {20_000_000}
    assert abs(coded[0].pts_ns) < 10_000_000


def test_a_gap_stays_a_gap_and_jitter_does_not() -> None:
    recoder = Recoder(SoundFormat("pcm_alaw", 8000, 1), _opus_encoder())
    jitter = random.Random(1)
    times = []
    for packet in tone(8000, 2.0):
        late = 3 * SECOND if packet.pts_ns >= SECOND else 0
        moved = SoundPacket(packet.data, packet.pts_ns + late + jitter.randrange(0, 15_000_000))
        times += [coded.pts_ns for coded in recoder.recode(moved)]
    steps = np.diff(times)
    assert sorted(set(steps))[:1] == [20_000_000]
    assert [step for step in steps if step != 20_000_000] == [pytest.approx(3_020_000_000, abs=40_000_000)]


def test_a_change_of_the_rate_and_of_the_channels_goes_on() -> None:
    """AAC with its configuration in each packet (ADTS), as in MPEG-TS: mono at 22.05 kHz, then stereo at 44.1 kHz."""
    recoder = Recoder(SoundFormat("aac", 22_050, 1), _opus_encoder())
    first = [adts(packet, 7, 1) for packet in tone(22_050, 1.0, "aac")]
    second = [adts(packet, 4, 2, SECOND) for packet in tone(44_100, 1.0, "aac", "stereo")]
    parts = [[one for packet in part for one in recoder.recode(packet)] for part in (first, second)]
    assert not recoder.damaged
    for part in parts:
        assert heard(part, 10) == pytest.approx(1000, abs=20)
        assert len(part) == pytest.approx(50, abs=5)


def adts(packet: SoundPacket, rate: int, channels: int, later_ns: int = 0) -> SoundPacket:
    """Put the header of ADTS before a packet of AAC (ISO/IEC 13818-7, section 6.2)."""
    size = packet.data.nbytes + 7
    header = bytes([0xFF, 0xF1, 1 << 6 | rate << 2, channels << 6 | size >> 11, size >> 3 & 255, (size & 7) << 5 | 31, 0xFC])
    return SoundPacket(memoryview(header + bytes(packet.data)), packet.pts_ns + later_ns)


def test_damaged_packets_are_counted_and_the_rest_is_heard() -> None:
    nonsense = random.Random(2)
    recoder = Recoder(SoundFormat("aac", 0, 0), _opus_encoder())
    coded = []
    for number, packet in enumerate(tone(44_100, 2.0, "aac")):
        whole = adts(packet, 4, 1)
        if number % 10 == 5:
            broken = bytearray(whole.data)
            broken[7:] = nonsense.randbytes(len(broken) - 7)
            whole = SoundPacket(memoryview(bytes(broken)), whole.pts_ns)
        coded += recoder.recode(whole)
    assert recoder.damaged > 0
    assert len(coded) > 60
    assert heard(coded) == pytest.approx(1000, abs=20)


@pytest.mark.parametrize("sound", [SoundFormat("pcm_mulaw", 0, 0), SoundFormat("aac", 0, 0), SoundFormat("opus", 48_000, 0)])
def test_unknown_rates_and_channels_never_fail_later_than_at_the_start(sound: SoundFormat) -> None:
    nonsense = random.Random(3)
    try:
        recoder = Recoder(sound, _opus_encoder())
    except (av.error.FFmpegError, ValueError):
        return  # the feed reports it
    for number in range(300):
        recoder.recode(SoundPacket(memoryview(nonsense.randbytes(nonsense.randrange(0, 500))), number * 20_000_000))


def test_a_codec_that_is_not_sound_or_not_known_is_refused() -> None:
    for codec in ("h264", "no-such-codec"):
        with pytest.raises(ValueError, match=r".+"):
            Recoder(SoundFormat(codec, 8000, 1), _opus_encoder())


@pytest.mark.parametrize("codec", ["adpcm_g726le", "no-such-codec"])
def test_a_file_has_no_track_for_sound_that_cannot_be_decoded(tmp_path: Path, codec: str) -> None:
    with av.open(str(tmp_path / "clip.mp4"), "w") as output:
        with pytest.raises((ValueError, av.error.FFmpegError)):
            SoundTrack(SoundFormat(codec, 8000, 1), output)
        assert not output.streams


def test_aac_takes_the_nearest_rate() -> None:
    assert [aac_rate(rate) for rate in (8000, 44_100, 192_000, 9000)] == [8000, 44_100, 96_000, 8000]
