"""One encoder per stream for all viewers whose browser cannot play the stream's own video."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter

from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.preview.codecs import h264, vp8
from vision_infer.preview.codecs.nal_units import units
from vision_infer.preview.feed import Feed
from vision_infer.preview.media import By, MediaImage
from vision_infer.preview.relay import Relay
from vision_infer.preview.transport.datagrams import bursts
from vision_infer.schedule.pacing import Pacer
from vision_infer.sink.files.shrink import shrunk_to
from vision_infer.stream.browser import VideoFacts
from vision_infer.stream.image import VideoImage

CodecName = Literal["H264", "VP8"]
ENCODED: dict[CodecName, VideoFacts] = {"H264": VideoFacts("h264", "Constrained Baseline", 31), "VP8": VideoFacts("vp8")}
"""The encoded video by its codec."""
GROUP_S = 2
"""The interval of key frames in seconds. A viewer that joins receives the frames since the last one."""
_SECOND = 1_000_000_000
_X264 = {
    "preset": "veryfast",
    "tune": "zerolatency",
    "profile": "baseline",
    "x264-params": "scenecut=0:annexb=1:repeat-headers=1",
}
_VPX = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "error-resilient": "1", "static-thresh": "1"}

_log = logging.getLogger("vision_infer.preview")


@dataclass(frozen=True, slots=True)
class _Coded:
    """An encoded frame on its way from the encoder's thread to the event loop."""

    data: bytes
    key: bool
    pts_ns: int
    captured_ns: int
    by: By
    size: Size


class EncodedFeed(Feed):
    """Encodes the frames of a stream on a separate thread while it has viewers. If it cannot keep up, the newest frame wins."""

    def __init__(self, name: str, relay: Relay, codec: CodecName, settings: PreviewSettings, by: By, clock: Clock) -> None:
        super().__init__(codec, by)
        self.profile = ENCODED[codec].profile
        self._name = name
        self._relay = relay
        self._settings = settings
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ending = threading.Event()
        self._frame: Frame | None = None
        self._came = threading.Condition()  # guards _frame: the stream's thread puts it there, the encoder's thread takes it
        self._pacer = Pacer(settings.encode_fps)
        self.superseded = 0
        """The number of frames that a newer one replaced before they were encoded."""

    def start(self) -> None:
        """Start encoding."""
        self._ending = threading.Event()
        self._pacer = Pacer(self._settings.encode_fps)
        threading.Thread(target=self._run, args=(self._ending,), name=f"preview-{self._name}", daemon=True).start()
        self._relay.watch_frames(self._from_stream)

    def stop(self) -> None:
        """Stop encoding."""
        self._relay.forget(self._from_stream)
        self._ending.set()
        with self._came:
            self._frame = None
            self._came.notify_all()

    def _from_stream(self, frame: Frame) -> None:
        """Take a frame, on the stream's thread."""
        captured = frame.trace.captured_ns
        if self._pacer.wants(captured if frame.pts_s is None else round(frame.pts_s * _SECOND)):
            with self._came:
                self.superseded += self._frame is not None
                self._frame = frame
                self._came.notify()

    def _run(self, ending: threading.Event) -> None:
        """Encode frames until the end, on the encoder's thread."""
        coder = _Coder(self.codec, self._settings, self.by)
        while True:
            with self._came:
                while self._frame is None and not ending.is_set():
                    self._came.wait()
                frame, self._frame = self._frame, None
            if ending.is_set() or frame is None:
                return
            try:
                coded = coder.encode(frame)
            except (av.error.FFmpegError, ValueError, OSError) as error:
                _log.error("%s: encoding for viewers failed: %s", self._name, error)
                coder = _Coder(self.codec, self._settings, self.by)
                ending.wait(1.0)  # the next frame will probably fail as well: do not retry at the frame rate
                continue
            del frame
            if coded is not None:
                try:
                    self._loop.call_soon_threadsafe(self._coded, coded, ending)
                except RuntimeError:  # the loop has ended
                    return

    def _coded(self, coded: _Coded, ending: threading.Event) -> None:
        if ending.is_set():
            return
        self.size = coded.size
        payloads = h264.payloads(list(units(coded.data))) if self.codec == "H264" else vp8.payloads(coded.data)
        if payloads:
            total = sum(map(len, payloads))
            self.accept(MediaImage(bursts(payloads), coded.pts_ns, coded.captured_ns, coded.key, coded.by, total))


class _Coder:
    """The encoder itself; it is reopened when the size of the frames changes."""

    def __init__(self, codec: str, settings: PreviewSettings, by: By) -> None:
        self._codec = codec
        self._settings = settings
        self._by = by
        self._context: VideoCodecContext | None = None
        self._scaler = VideoReformatter()
        self._number = 0

    def encode(self, frame: Frame) -> _Coded | None:
        """Encode a frame. Returns None if the encoder skipped it to keep its bit rate."""
        size = scaled_size(frame.image.size, self._settings.encode_height)
        context = self._context
        if context is None or (context.width, context.height) != (size.width, size.height):
            context = self._context = self._open(size)
            self._number = 0
        image = self._image(frame, size)
        image.pts, image.time_base = self._number, context.time_base
        self._number += 1
        packets = context.encode(image)
        if not packets:
            return None
        data = b"".join(bytes(packet) for packet in packets)
        captured = frame.trace.captured_ns
        by: By = "captured" if frame.pts_s is None else self._by
        pts = captured if frame.pts_s is None else round(frame.pts_s * _SECOND)
        return _Coded(data, any(packet.is_keyframe for packet in packets), pts, captured, by, size)

    def _image(self, frame: Frame, size: Size) -> av.VideoFrame:
        shown = frame.image
        source = shown.upright(size) if isinstance(shown, VideoImage) else None
        if source is None:
            source = av.VideoFrame.from_ndarray(shrunk_to(shown, size), "rgb24")
        image = self._scaler.reformat(source, size.width, size.height, "yuv420p", interpolation=Interpolation.BILINEAR)
        if image is source:  # no conversion was needed: the image is the decoder's, whose timestamps must not change
            image = av.VideoFrame.from_ndarray(source.to_ndarray(), "yuv420p")
        return image

    def _open(self, size: Size) -> VideoCodecContext:
        fps, kbit_s = self._settings.encode_fps, self._settings.encode_kbit_s
        context = av.CodecContext.create("libx264" if self._codec == "H264" else "libvpx", "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = size.width, size.height, "yuv420p"
        rate = Fraction(fps).limit_denominator(1000)
        context.framerate, context.time_base = rate, 1 / rate
        context.gop_size, context.max_b_frames = max(1, round(GROUP_S * fps)), 0
        context.bit_rate = kbit_s * 1000
        context.thread_count = 1
        bounds = {"maxrate": f"{kbit_s}k", "bufsize": f"{kbit_s}k"}
        context.options = {**(_X264 if self._codec == "H264" else _VPX), **bounds}
        return context


def scaled_size(size: Size, most_lines: int) -> Size:
    """Return the size scaled down to a maximum height, with even sides as 4:2:0 requires."""
    lines = min(size.height, most_lines)
    width = max(2, round(size.width * lines / size.height) // 2 * 2)
    return Size(width, max(2, lines // 2 * 2))
