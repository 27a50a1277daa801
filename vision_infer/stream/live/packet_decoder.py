"""The decoder of one live connection.

FFmpeg's H.264 decoder keeps the coefficients of a block at which it failed, and adds them to a block that it decodes later, even
behind the next key frame or after a flush: only the transform clears them, which a failure skips (``decode_luma_residual`` of
https://github.com/FFmpeg/FFmpeg/blob/master/libavcodec/h264_cavlc.c). A frame that lacks nothing then differs in some pixels
from the one that was sent. So after damage, the next IDR picture is decoded by another decoder, which takes about 0.1 ms.
"""

from __future__ import annotations

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vision_infer.stream.live.nal_units import is_idr
from vision_infer.stream.nvdec import Decoding
from vision_infer.stream.source import SourceSpec


class PacketDecoder:
    """Decodes the packets of one connection, in order.

    It uses no frame threads, since each of them delays the output by a frame. It decodes slices in parallel if the camera sends
    several per frame.

    Args:
        spec: The source.
        threads: The number of threads.
        decoding: Where it decodes, on a GPU or on the CPU.
        context: The stream's own decoder, which has decoded nothing.
    """

    def __init__(self, spec: SourceSpec, threads: int, decoding: Decoding, context: VideoCodecContext) -> None:
        self._spec = spec
        self._threads = threads
        self._decoding = decoding
        self._damaged = False
        """Whether the present decoder has decoded something damaged."""
        self._context = self._prepared(context)

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Return the frames that the decoder returns now; an empty packet returns those that it still holds.

        Raises:
            FFmpegError: The packet cannot be decoded.
            EOFError: The decoder has returned all frames before.
        """
        if self._damaged and packet.is_keyframe and not packet.is_corrupt:
            self._replace(packet)
        self._damaged = self._damaged or packet.is_corrupt
        try:
            frames = self._context.decode(packet)
            if self._spec.live.keyframes_only and packet.size:
                # A decoder that expects B-frames would delay the key frame until more packets arrive, seconds later: drain it.
                frames += self._context.decode(None)
                self._context.flush_buffers()
        except av.error.FFmpegError:
            self._damaged = True
            raise
        self._damaged = self._damaged or any(frame.is_corrupt for frame in frames)
        return frames

    def close(self) -> None:
        """Stop the decoder's threads before PyAV frees it: see :mod:`vision_infer.stream.ffmpeg_log`."""
        self._context.flush_buffers()

    def _replace(self, packet: Packet[VideoStream]) -> None:
        """Continue with another decoder if this one may have coefficients left, and holds no B-frames."""
        old = self._context
        if old.is_hwaccel or old.has_b_frames or old.codec.canonical_name != "h264" or not is_idr(memoryview(packet)):
            return
        self.close()
        context = av.CodecContext.create(old.codec, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = old.extradata
        self._context = self._prepared(context)
        self._damaged = False

    def _prepared(self, context: VideoCodecContext) -> VideoCodecContext:
        live = self._spec.live
        context.thread_count = self._threads
        context.thread_type = "SLICE" if self._threads > 1 else "NONE"
        context.options = {"max_pixels": str(self._spec.read.max_pixels)}
        if live.keyframes_only:
            context.skip_frame = "NONKEY"
        elif live.skip_nonref:
            context.skip_frame = "NONREF"
        self._decoding.opened(context)
        return context
