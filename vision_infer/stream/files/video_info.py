"""Facts about a video file and the times of its frames, as its container gives them."""

from __future__ import annotations

import av
import av.container
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.geometry import Size
from vision_infer.stream.files.open_video import PROGRESSIVE, can_open_again
from vision_infer.stream.source import ReadOptions, SourceSpec, StreamInfo


def video_info(container: av.container.InputContainer, stream: VideoStream, spec: SourceSpec) -> StreamInfo:
    """Return what the container says about a video track."""
    duration = None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration = container.duration / av.time_base
    rate = stream.average_rate or stream.base_rate
    context = stream.codec_context
    read = spec.read
    whole = not read.start_s and read.end_s is None and not read.keyframes_only
    return StreamInfo(
        size=Size(context.width, context.height) if context.width and context.height else None,
        frames=_expected_frames(stream, duration, read),
        duration_s=duration,
        frame_rate=rate,
        time_base=stream.time_base,
        codec=context.codec.canonical_name,
        has_audio=bool(container.streams.audio) and whole and can_open_again(spec.paths[0]),
        interlaced=context.field_order > PROGRESSIVE,
        bytes_per_pixel=context.format.padded_bits_per_pixel / 8 if context.format is not None else None,
    )


def start_s(stream: VideoStream) -> float | None:
    """Return the time of a track's first frame in seconds; None if unknown."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def frame_s(frame: av.VideoFrame) -> float | None:
    """Return a frame's presentation time in seconds.

    If the container has only decoding times, they are used: such streams have no B-frames.
    """
    if frame.pts is not None:
        return frame.time
    dts, base = frame.dts, frame.time_base
    return None if dts is None or base is None else float(dts * base)


def packet_s(packet: Packet[VideoStream]) -> float | None:
    """Return a packet's presentation time in seconds, or else its decoding time."""
    pts = packet.pts if packet.pts is not None else packet.dts
    return None if pts is None else float(pts * packet.time_base)


def _expected_frames(stream: VideoStream, duration: float | None, read: ReadOptions) -> int | None:
    rate = stream.average_rate or stream.base_rate
    if read.keyframes_only:
        return None
    if not read.start_s and read.end_s is None and stream.frames:
        return stream.frames
    if not rate or (duration is None and read.end_s is None):
        return None
    end = min(duration if duration is not None else float("inf"), read.end_s if read.end_s is not None else float("inf"))
    return max(0, round((end - read.start_s) * rate))
