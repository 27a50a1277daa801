"""Writes an MP4 of packets; the video is neither decoded nor encoded."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
from av.packet import Packet

from vision_infer.core.errors import OutputError
from vision_infer.core.packet import EncodedPacket, SoundPacket, VideoFormat
from vision_infer.sink.clip_ring import length_size, outside_sets, with_start_codes
from vision_infer.sink.sound import SoundTrack

CODECS = frozenset({"h264", "hevc"})
"""The codecs that can be written, by FFmpeg's names."""
_TICK_NS = 100_000 / 9
"""A tick of a 90 kHz clock, nanoseconds."""
_BASE = Fraction(1, 90_000)
_JUMP_NS = 10_000_000_000
_REORDER_NS = 500_000_000
"""The assumed time from decoding to presentation, for packets without a decoding time."""
_NO_TIME_STEP_NS = 40_000_000


class TimeJumpError(Exception):
    """The time of the camera jumped: the following packets do not belong to the same clip."""


class ClipFile:
    """Writes one clip under a temporary name; :meth:`finish` gives it its final name.

    Args:
        path: The final name, which exists only once the clip is whole.
        video: The format of the video.
        first: The first packet, a key frame.

    Raises:
        OutputError: It cannot be written.
    """

    def __init__(self, path: Path, video: VideoFormat, first: EncodedPacket) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self.packets = 0
        self._zero_ns: int | None = None
        self._last_ns = 0
        self._last_dts: int | None = None
        self._lengths = length_size(video.codec, video.extradata)
        try:
            self._container = av.open(str(self.partial), "w", format="mp4", options={"movflags": "+faststart"})
        except (OSError, av.error.FFmpegError) as error:
            raise clip_failure(path.parent, error) from error
        try:
            # FFmpeg makes the header from the first frame; the parameter sets are before it, or in it.
            begin = outside_sets(video.codec, video.extradata) + with_start_codes(first.data, self._lengths)
            with av.open(io.BytesIO(begin), format=video.codec) as image:
                self._stream = self._container.add_stream_from_template(image.streams.video[0])
            self._stream.time_base = _BASE
            if video.codec == "hevc":
                self._stream.codec_context.codec_tag = "hvc1"  # hev1, the default of FFmpeg, does not play everywhere
        except (OSError, av.error.FFmpegError, IndexError) as error:
            self.discard()
            raise clip_failure(path.parent, error) from error
        self._sound: SoundTrack | None = None
        if video.sound is not None:
            with suppress(av.error.FFmpegError, ValueError):  # sound that cannot be decoded is left out
                self._sound = SoundTrack(video.sound, self._container)

    def add_sound(self, packet: SoundPacket) -> None:
        """Write the next packet of sound. Sound that cannot be written is left out.

        Raises:
            OutputError: The file cannot be written; discard the clip.
        """
        if self._sound is None or self._zero_ns is None:
            return
        try:
            self._sound.add(packet, self._zero_ns)
        except ValueError:
            self._sound = None
        except (OSError, av.error.FFmpegError) as error:
            raise clip_failure(self.path.parent, error) from error

    def add(self, packet: EncodedPacket) -> None:
        """Write the next packet.

        Raises:
            OutputError: It cannot be written; discard the clip.
            TimeJumpError: It belongs to another clip; this one can be finished.
        """
        pts_ns = packet.pts_ns
        if pts_ns is None:
            pts_ns = self._last_ns + (_NO_TIME_STEP_NS if self.packets else 0)
        elif self.packets and abs(pts_ns - self._last_ns) > _JUMP_NS:
            raise TimeJumpError
        dts_ns = pts_ns - _REORDER_NS if packet.dts_ns is None else packet.dts_ns
        if self._zero_ns is None:
            self._zero_ns = dts_ns
        pts, dts = round((pts_ns - self._zero_ns) / _TICK_NS), round((dts_ns - self._zero_ns) / _TICK_NS)
        if self._last_dts is not None:
            dts = max(dts, self._last_dts + 1)
        coded = Packet(with_start_codes(packet.data, self._lengths))
        coded.stream, coded.time_base = self._stream, _BASE
        coded.dts, coded.pts = dts, max(pts, dts)
        coded.is_keyframe = packet.key
        try:
            self._container.mux_one(coded)
        except (OSError, av.error.FFmpegError) as error:
            raise clip_failure(self.path.parent, error) from error
        self._last_dts, self._last_ns = dts, pts_ns
        self.packets += 1

    def finish(self) -> int:
        """Give the clip its final name, and return its size in bytes.

        Raises:
            OutputError: It cannot be written; no file is left.
        """
        try:
            self._container.close()
            size = self.partial.stat().st_size
            os.replace(self.partial, self.path)
        except (OSError, av.error.FFmpegError) as error:
            self.discard()
            raise clip_failure(self.path.parent, error) from error
        return size

    def discard(self) -> None:
        """Delete the temporary file."""
        with suppress(OSError, av.error.FFmpegError):
            self._container.close()
        with suppress(OSError):
            self.partial.unlink()


def clip_failure(folder: Path, error: Exception) -> OutputError:
    """Return the error for a folder of clips; it is the same for each clip."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return OutputError(f"{folder}: {reason}", "Free space there, or set clips.dir to another folder.")
