"""Cuts a long video file into segments between key frames, which can be read separately."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import pairwise

import av
import av.error
from av.video.stream import VideoStream

from vision_infer.core.errors import StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.files.open_video import can_open_again, open_video, video_stream
from vision_infer.stream.files.video_info import start_s
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadOptions, SourceSpec


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a video file that begins with a key frame."""

    first: int
    """The number of its first frame in the file, from 0."""
    frames: int
    start_s: float
    """Its start, seconds from the beginning of the file; 0 for the first segment."""
    end_s: float | None
    """The start of the next segment; None for the last segment."""

    def options(self, read: ReadOptions) -> ReadOptions:
        """Return the options that read this segment."""
        return replace(read, start_s=self.start_s, end_s=self.end_s, first_index=self.first)


def cut(spec: SourceSpec, length_s: float) -> tuple[Segment, ...]:
    """Cut a file into segments of about the same duration. All its packets are read, and none is decoded.

    The frames are numbered by the presentation times of the packets. This is correct only if each packet gives one frame, which
    only decoding can show: the reader of a segment must compare the number of frames.

    Args:
        spec: The file, with the video track that is read.
        length_s: The minimum duration of a segment, seconds.

    Returns:
        The segments; none if the file is shorter than two of them, or if it must be read as a whole: it cannot be opened again,
        it is damaged, or its packets have no presentation times or not one each.
    """
    shown = redact(spec.paths[0])
    if not can_open_again(spec.paths[0]):
        return ()
    log = SourceLog(spec.name)
    try:
        with open_video(spec.paths[0], spec.read, log) as container:
            stream = video_stream(container, spec.read, shown, log)
            duration_s = (container.duration or 0) / av.time_base
            timed = start_s(stream) is not None and container.format.name != "avi"  # which has the times of decoding only
            if not timed or duration_s < 2 * length_s:
                return ()
            times, keys = _packets(container, stream)
            segments = _segments(times, keys, stream, length_s)
            return () if log.errors else segments
    except (StreamError, av.error.FFmpegError, OSError):  # reading the whole file reports the reason, and what can be read
        return ()
    finally:
        log.close()


def _packets(container: av.container.InputContainer, stream: VideoStream) -> tuple[array[int], list[int]]:
    """Return the times of all packets, and those of key frames, in units of the time base; nothing if one has none."""
    times, keys = array("q"), []
    for packet in container.demux(stream):
        if not packet.size:  # the end
            continue
        if packet.pts is None or packet.is_corrupt or packet.is_discard:
            return array("q"), []
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    return times, keys


def _segments(times: array[int], keys: list[int], stream: VideoStream, length_s: float) -> tuple[Segment, ...]:
    ordered = sorted(times)
    if not ordered or any(before == after for before, after in pairwise(ordered)):
        return ()
    base, origin_s = float(stream.time_base or 0), start_s(stream) or 0.0
    starts = [ordered[0]]
    for key in sorted(keys):
        if (key - starts[-1]) * base >= length_s and (ordered[-1] - key) * base >= length_s:
            starts.append(key)
    if len(starts) < 2:
        return ()
    firsts = [bisect_left(ordered, start) for start in starts] + [len(ordered)]
    times_s = [0.0, *(start * base - origin_s for start in starts[1:])]
    ends_s = [*times_s[1:], None]
    return tuple(
        Segment(first, after - first, start, end)
        for (first, after), start, end in zip(pairwise(firsts), times_s, ends_s, strict=True)
    )
