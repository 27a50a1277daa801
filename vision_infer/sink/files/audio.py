"""Copies the sound of a file, or of a live source, into the annotated video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain

import av
import av.container
from av.audio.stream import AudioStream

from vision_infer.core.packet import SoundFormat
from vision_infer.sink.live_sound import LiveSound
from vision_infer.sink.sound import SoundTrack, aac_rate

MP4_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
"""The codecs that MP4 players support; any other is encoded as AAC."""


class SoundCopy:
    """Copies sound into ``output`` step by step, up to a given time.

    A file without sound, or with unreadable sound, gives none; the frames are not affected.

    Args:
        path: The source file.
        output: The container to write to; its header must not be written yet.
    """

    def __init__(self, path: str, output: av.container.OutputContainer) -> None:
        self._output = output
        self._source: av.container.InputContainer | None = None
        self._packets: Iterator[av.Packet[AudioStream]] = iter(())
        self._held: av.Packet[AudioStream] | None = None
        self._last_dts: int | None = None
        with suppress(av.error.FFmpegError, OSError):
            source = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
            if not source.streams.audio:
                source.close()
                return
            self._source = source
            self._packets = self._copied(source.streams.audio[0])

    def copy_until(self, seconds: float) -> None:
        """Write the sound that begins before this time of the source."""
        while True:
            packet, self._held = self._held or self._next(), None
            if packet is None:
                return
            begin = packet.dts if packet.dts is not None else packet.pts
            if begin is not None and packet.time_base is not None and begin * packet.time_base > seconds:
                self._held = packet
                return
            self._output.mux(packet)

    def close(self) -> None:
        """Close the source."""
        if self._source is not None:
            self._source.close()
            self._source = None
        self._packets = iter(())

    def _next(self) -> av.Packet[AudioStream] | None:
        try:
            return next(self._packets, None)
        except (av.error.FFmpegError, ValueError):  # ValueError: its layout changes, which the resampler refuses
            return None  # damaged sound ends here; the frames go on

    def _copied(self, audio: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        if audio.codec_context.codec.canonical_name in MP4_AUDIO:  # the decoder of mp3 has another name: mp3float
            stream = self._output.add_stream_from_template(audio)
            return self._as_it_is(audio, stream)
        encoder = self._output.add_stream("aac", rate=aac_rate(audio.codec_context.sample_rate))
        return self._encoded(audio, encoder)

    def _as_it_is(self, audio: AudioStream, stream: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        assert self._source is not None
        for packet in self._source.demux(audio):
            # A muxer refuses timestamps that do not rise, and with them the whole file.
            if packet.dts is not None and (self._last_dts is None or packet.dts > self._last_dts):
                self._last_dts = packet.dts
                packet.stream = stream
                yield packet

    def _encoded(self, audio: AudioStream, encoder: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        assert self._source is not None
        context = encoder.codec_context
        layout = "mono" if audio.codec_context.channels == 1 else "stereo"
        context.layout = layout
        context.time_base = Fraction(1, context.sample_rate)
        resampler = av.AudioResampler("fltp", layout, context.sample_rate)
        for frame in chain(self._source.decode(audio), (None,)):
            for resampled in resampler.resample(frame):
                yield from encoder.encode(resampled)
        yield from encoder.encode(None)


class LiveSoundCopy:
    """Writes the sound of a live source into ``output`` step by step, up to a given time.

    Args:
        live: The sound.
        output: The container to write to; its header must not be written yet.
        begin_ns: The capture time of the first frame, monotonic, nanoseconds.
    """

    def __init__(self, live: LiveSound, output: av.container.OutputContainer, begin_ns: int) -> None:
        self._live = live
        self._begin_ns = begin_ns
        self._format: SoundFormat | None = live.format
        self._track: SoundTrack | None = None
        if self._format is not None:
            with suppress(av.error.FFmpegError, ValueError):  # sound that cannot be decoded is left out
                self._track = SoundTrack(self._format, output)

    def copy_until(self, seconds: float) -> None:
        """Write the sound that was captured up to this time after the first frame. Sound of another format is left out."""
        for sound, packet in self._live.take(self._begin_ns + seconds * 1e9):
            if self._track is not None and sound == self._format:
                self._track.add(packet, self._begin_ns)

    def close(self) -> None:
        """Drop the sound that is not written."""
        self._live.take(float("inf"))
