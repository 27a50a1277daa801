"""Sound that is decoded and encoded again: for browsers, clips and annotated video."""

from __future__ import annotations

from fractions import Fraction

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.container import OutputContainer
from av.packet import Packet

from vision_infer.core.packet import SoundFormat, SoundPacket

_SECOND = 1_000_000_000
_GAP_NS = 60_000_000
"""The deviation of a packet's time from the end of the previous packet that counts as a gap; smaller ones are jitter."""
_MIN_AAC_RATE = 24_000
"""The minimum sample rate of AAC in files, Hz: its packets have 1024 samples, and the last two are lost at the end."""
_AAC_BIT_RATE = 64_000
_LAYOUTS = {1: "mono", 2: "stereo"}


class Recoder:
    """Encodes sound again, with the presentation times of its source.

    Damaged packets are dropped and counted. A change of the sample rate or of the channels, and gaps, restart the conversion.

    Args:
        sound: The format of the sound.
        encoder: The encoder, not opened yet, with its sample rate; it gets one channel for mono, and otherwise two.

    Raises:
        ValueError: There is no decoder for this sound.
        av.error.FFmpegError: The decoder or the encoder cannot be opened.
    """

    def __init__(self, sound: SoundFormat, encoder: AudioCodecContext) -> None:
        self.damaged = 0
        """The number of packets that could not be decoded."""
        self._decoder = _decoder(sound)
        encoder.layout = "mono" if sound.channels == 1 else "stereo"
        encoder.time_base = Fraction(1, encoder.sample_rate)
        encoder.open()
        self._encoder = encoder
        self._resampler: av.AudioResampler | None = None
        self._input: tuple[str, str, int] | None = None
        """The sample format, layout and rate for which the resampler was made."""
        self._next_ns = 0
        """The expected time of the next decoded frame."""
        self._samples = 0
        """The number of samples that were encoded."""
        self._zero_ns = 0
        """The presentation time of the encoder's sample 0."""

    def recode(self, packet: SoundPacket) -> list[SoundPacket]:
        """Return the encoded packets that are complete with a further packet."""
        found: list[SoundPacket] = []
        at_ns = packet.pts_ns
        try:
            for frame in self._decoder.decode(Packet(bytes(packet.data))):
                found += self._encoded(frame, at_ns)
                at_ns = self._next_ns
        except (av.error.FFmpegError, ValueError, ZeroDivisionError):
            self.damaged += 1
            self._input = None
        return found

    def _encoded(self, frame: AudioFrame, at_ns: int) -> list[SoundPacket]:
        rate = self._encoder.sample_rate
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or kind != self._input or abs(at_ns - self._next_ns) > _GAP_NS:
            self._resampler = av.AudioResampler(
                self._encoder.format, self._encoder.layout, rate, self._encoder.frame_size or None
            )
            self._input = kind
            self._next_ns = at_ns
            self._zero_ns = at_ns - self._samples * _SECOND // rate
        self._next_ns += frame.samples * _SECOND // frame.sample_rate
        frame.pts = None
        found: list[SoundPacket] = []
        for ready in self._resampler.resample(frame):
            ready.pts, ready.time_base = self._samples, self._encoder.time_base
            self._samples += ready.samples
            for coded in self._encoder.encode(ready):
                pts_ns = self._zero_ns + (coded.pts or 0) * _SECOND // rate
                found.append(SoundPacket(memoryview(bytes(coded)), pts_ns))
        return found


class SoundTrack:
    """The sound of a live source in an MP4, encoded as AAC.

    Args:
        sound: The format of the sound.
        output: The container to write to; its header must not be written yet.

    Raises:
        ValueError: There is no decoder for this sound.
        av.error.FFmpegError: The decoder or the encoder cannot be opened.
    """

    def __init__(self, sound: SoundFormat, output: OutputContainer) -> None:
        _decoder(sound)  # fails before the container has a track that stays empty
        self._output = output
        self._stream = output.add_stream("aac", rate=aac_rate(max(sound.rate, _MIN_AAC_RATE)))
        self._stream.codec_context.bit_rate = _AAC_BIT_RATE
        self._recoder = Recoder(sound, self._stream.codec_context)
        self._last: int | None = None

    def add(self, packet: SoundPacket, zero_ns: int) -> None:
        """Write a packet; what begins before the video is left out.

        Args:
            zero_ns: The presentation time at which the file begins.

        Raises:
            OSError: It cannot be written.
        """
        rate = self._stream.codec_context.sample_rate
        for coded in self._recoder.recode(packet):
            pts = (coded.pts_ns - zero_ns) * rate // _SECOND
            if pts < 0 or (self._last is not None and pts <= self._last):
                continue
            self._last = pts
            written = Packet(bytes(coded.data))
            written.stream, written.time_base = self._stream, Fraction(1, rate)
            written.pts = written.dts = pts
            self._output.mux_one(written)


def _decoder(sound: SoundFormat) -> AudioCodecContext:
    decoder = av.CodecContext.create(sound.codec, "r")
    if not isinstance(decoder, AudioCodecContext):
        raise ValueError(f"{sound.codec} is not sound")
    if sound.extradata:
        decoder.extradata = sound.extradata
    if sound.rate:
        decoder.sample_rate = sound.rate
    if sound.channels in _LAYOUTS:
        decoder.layout = _LAYOUTS[sound.channels]
    decoder.open()
    return decoder


def aac_rate(rate: int) -> int:
    """Return the sample rate of AAC for this one, in Hz: the same, or the nearest."""
    rates = av.Codec("aac", "w").audio_rates or [48_000]
    return rate if rate in rates else min(rates, key=lambda other: abs(other - rate))
