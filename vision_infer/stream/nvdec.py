"""Decodes on an NVIDIA GPU (NVDEC), or on the CPU if the GPU cannot be used.

The frames stay on the GPU, where an engine on the same GPU reads them. For everything else a reader makes them small there, and
the small image is copied to host memory; without a reader, whole frames are copied. FFmpeg
copies each frame out of the decoder's limited number of surfaces, so they can be held for as long as any other frame.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import av
import av.codec
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from vision_infer.core.errors import DeviceLostError, StreamError
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Slot, Surface, SurfaceReader
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.image import VideoImage
from vision_infer.stream.orientation import UPRIGHT, Orientation
from vision_infer.stream.source import ReadReport, SourceSpec

_SAMPLE_BYTES = {"nv12": 1, "p010le": 2}
_FULL_RANGE = 2
_SURFACES = 20
"""The maximum number of surfaces of a decoder: 16 reference frames, and some in progress."""
_CONTEXT_BYTES = 40_000_000
"""The approximate memory of a decoder besides its surfaces, bytes."""
_MAX_FAILED = 1000
_failed: OrderedDict[tuple[str, str], str] = OrderedDict()
"""Why the GPU decoder failed, by stream name and source: these streams are decoded on the CPU from then on."""
_log = logging.getLogger("vision_infer.stream")


def _no_reader(_: int) -> SurfaceReader | None:
    return None


reader_of: Callable[[int], SurfaceReader | None] = _no_reader
"""Returns the reader of a GPU. The pipeline sets it, because this package does not import the engines."""


class NvdecImage(VideoImage):
    """A frame in the memory of a GPU, NV12 or P010, or a part of one.

    Args:
        frame: The decoder's frame.
        orientation: The orientation in which it is displayed.
        gpu: The index of the GPU.
        reader: Makes frames small on the GPU; None: the host does, from a copy of the whole frame.
        part: The left and top edge, width and height of the part, pixels of the decoder's frame; None: all of it.
    """

    __slots__ = ("_part", "_reader", "gpu")

    def __init__(
        self,
        frame: av.VideoFrame,
        orientation: Orientation,
        gpu: int,
        reader: SurfaceReader | None = None,
        part: tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__(frame, orientation)
        self.gpu = gpu
        self._reader = reader
        self._part = part or (0, 0, frame.width, frame.height)
        if part is not None:
            self.size = Size(part[3], part[2]) if orientation.turns % 2 else Size(part[2], part[3])

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Resize on the GPU, into the slot if it is there; otherwise only the resized image is copied to the host."""
        write_surface = getattr(slot, "write_surface", None)  # of slots on a GPU; isinstance() with a Protocol would take 4 µs
        if write_surface is not None and self._orientation == UPRIGHT:
            surface = self.surface()
            if surface is not None and write_surface(surface, letterbox):
                return
        super().write_into(slot, letterbox)

    def upright(self, size: Size) -> av.VideoFrame | None:
        """Return a copy in host memory, in YUV 4:2:0 and scaled to an even size on the GPU; None if that is not possible."""
        surface = self.surface()
        if surface is None or self._reader is None or self._orientation != UPRIGHT:
            return None
        planes = self._reader.yuv420(surface, size)
        if planes is None:
            return None
        frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
        frame.colorspace, frame.color_range = self._frame.colorspace, self._frame.color_range
        return frame

    def luma(self, max_width: int) -> NDArray[np.uint8]:
        """Return samples of the Y plane, uint8 [H, W], of which only these are copied to the host."""
        surface = self.surface()
        if surface is not None and self._reader is not None:
            samples = self._reader.luma(surface, -(-self._frame.width // max_width))
            if samples is not None:
                return self._displayed(samples)
        return super().luma(max_width)

    def crop(self, left: int, top: int, size: Size) -> NvdecImage | None:
        """Return a part of the image, in displayed pixels, that stays on the GPU; None if it cannot be cut out there."""
        if self._reader is None or self.surface() is None:
            return None
        x, y, width, height = self._decoded(left, top, size)
        part = (self._part[0] + x, self._part[1] + y, width, height)
        return NvdecImage(self._frame, self._orientation, self.gpu, self._reader, part)

    def part(self, left: int, top: int, size: Size) -> NvdecImage | None:
        """Return a part of the image, as :meth:`crop` does."""
        return self.crop(left, top, size)

    def surface(self) -> Surface | None:
        """Return its location in GPU memory; None if it has another pixel format."""
        frame = self._frame
        sample_bytes = _SAMPLE_BYTES.get((frame.sw_format or frame.format).name)
        if sample_bytes is None:
            return None
        luma, chroma = frame.planes
        x, y, width, height = self._part
        full = frame.color_range == _FULL_RANGE
        return Surface(
            Size(width, height),
            *(luma.buffer_ptr, luma.line_size, chroma.buffer_ptr, chroma.line_size, sample_bytes),
            *(frame.colorspace, full, self.gpu, frame),
            x=x,
            y=y,
        )

    def _scaled(self, width: int, height: int) -> NDArray[np.uint8]:
        surface = self.surface()
        small = None if surface is None or self._reader is None else self._reader.rgb(surface, Size(width, height))
        if small is not None:
            return small
        frame, (x, y, part_width, part_height) = self._frame, self._part
        if (part_width, part_height) == (frame.width, frame.height):
            return super()._scaled(width, height)
        from vision_infer.core.opencv import cv2  # video does not need it: 0.1 s and 20 MB

        part = super()._scaled(frame.width, frame.height)[y : y + part_height, x : x + part_width]
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


class _GuardedReader:
    """The reader of one connection's frames; see :class:`vision_infer.core.image.SurfaceReader`.

    Args:
        reader: Reads them.
        lost: Receives the error of a GPU that is lost, and returns the error to raise.
    """

    def __init__(self, reader: SurfaceReader, lost: Callable[[str], StreamError]) -> None:
        self._reader = reader
        self._lost = lost

    def rgb(self, surface: Surface, size: Size) -> NDArray[np.uint8] | None:
        """Return the image in another size."""
        return self._read(partial(self._reader.rgb, surface, size))

    def yuv420(self, surface: Surface, size: Size) -> NDArray[np.uint8] | None:
        """Return the image in another size, as planes."""
        return self._read(partial(self._reader.yuv420, surface, size))

    def luma(self, surface: Surface, step: int) -> NDArray[np.uint8] | None:
        """Return samples of its luma plane."""
        return self._read(partial(self._reader.luma, surface, step))

    def _read(self, read: Callable[[], NDArray[np.uint8] | None]) -> NDArray[np.uint8] | None:
        try:
            return read()
        except DeviceLostError as error:
            raise self._lost(error.message) from error


class _CapturingLog(SourceLog):
    """Keeps FFmpeg's log to itself: it is not an error of the source."""

    def take(self, level: int, text: str) -> None:  # noqa: ARG002
        """Keep a line."""
        self.recent.append(text)


class Decoding:
    """Decides where the frames of one connection are decoded.

    Args:
        spec: The source.
        report: Receives a warning if a GPU was requested and cannot be used.
    """

    def __init__(self, spec: SourceSpec, report: ReadReport) -> None:
        self._spec = spec
        self._report = report
        self._gpu = wanted_gpu(spec)
        self.is_lost = False
        """Whether a thread that read a frame has found the GPU lost, and the source is still to be opened again."""
        self._reader: SurfaceReader | None = None
        self.hwaccel: HWAccel | None = None
        """The hardware decoder with which FFmpeg opens the source; None to decode on the CPU."""
        self.bytes: int | None = None
        """The approximate GPU memory of the decoder, without frames in progress, bytes; None if it decodes on the CPU."""
        if self._gpu is not None:
            problem = spec.no_gpu or _problem(spec, self._gpu)
            if problem:
                self._use_cpu(problem)
            else:
                self.hwaccel = _hwaccel(self._gpu)

    @property
    def where(self) -> str:
        """The decoding device: ``cpu``, or for example ``cuda:0``."""
        return "cpu" if self._gpu is None else f"cuda:{self._gpu}"

    def opened(self, context: VideoCodecContext) -> None:
        """Check the decoder after the source was opened, before anything is decoded."""
        if self._gpu is None:
            return
        if not context.is_hwaccel:
            self._use_cpu(f"this build of FFmpeg has no GPU decoder for {context.name}")
            return
        context.thread_count = 1  # more threads would need more surfaces, and have nothing to do
        reader = reader_of(self._gpu)
        self._reader = None if reader is None else _GuardedReader(reader, self.lost)
        self.bytes = decoder_bytes(context.width, context.height, "10" in f"{context.profile}")
        megabytes = round(self.bytes / 1e6)
        _log.info("%s: decoded on %s, using about %d MB of its memory", self._spec.name, self.where, megabytes)

    def image(self, frame: av.VideoFrame, orientation: Orientation) -> VideoImage:
        """Return a decoded frame as an image; raise StreamError if its GPU was lost after it was decoded."""
        if frame.format.name == "cuda":
            if self.is_lost:
                raise self._failure()
            return NvdecImage(frame, orientation, wanted_gpu(self._spec) or 0, self._reader)
        if self._gpu is not None:
            self._use_cpu("the GPU does not support its codec, profile or size, or has no memory left")
        return VideoImage(frame, orientation)

    def failed(self, reason: str) -> bool:
        """Handle a failure that is not an error in the data. Returns whether the source must be opened again, because it is
        decoded on the CPU from now on."""
        if self._gpu is None:
            known, self.is_lost = self.is_lost, False  # another thread has noticed it before
            return known
        self._report.gpu_failures += 1
        self._use_cpu(f"the GPU decoder failed: {reason}")
        _failed[_key(self._spec)] = f"the GPU decoder failed before: {reason}"
        if len(_failed) > _MAX_FAILED:
            _failed.popitem(last=False)
        return True

    def lost(self, reason: str) -> StreamError:
        """Handle a GPU that is lost, as any thread notices that reads a frame; returns the error that ends the connection."""
        if not self.is_lost:
            self.is_lost = self.failed(reason)
        return self._failure()

    def _failure(self) -> StreamError:
        return StreamError(f"{self._spec.name}: the GPU decoder failed", "The next connection decodes on the CPU.")

    def _use_cpu(self, problem: str) -> None:
        self._gpu = self.hwaccel = self.bytes = None
        self._report.warn(f"is decoded on the CPU: {problem}")


def wanted_gpu(spec: SourceSpec) -> int | None:
    """Return the GPU that is to decode a source; None for the CPU."""
    if spec.decode == "cpu":
        return None
    return (spec.gpu or 0) if spec.decode == "nvdec" else spec.gpu


def decoder_bytes(width: int, height: int, wide: bool) -> int:
    """Return the approximate GPU memory of a decoder in bytes, including its surfaces (``wide``: 16 bits per sample)."""
    aligned = (width + 255) // 256 * 256 * ((height + 31) // 32 * 32)
    return _CONTEXT_BYTES + _SURFACES * aligned * 3 // 2 * (2 if wide else 1)


def _problem(spec: SourceSpec, gpu: int) -> str:
    """Return why a source cannot be decoded on the GPU; empty if it can."""
    known = _failed.get(_key(spec))
    if known:
        return known
    log = _CapturingLog(spec.name)
    log.use_thread()
    try:
        # Test the GPU before the source is opened, so that a camera is not connected to in vain.
        _hwaccel(gpu).create(av.codec.Codec("h264", "r"))
    except (av.error.FFmpegError, OSError, NotImplementedError, ValueError) as error:
        text = log.recent[-1] if log.recent else getattr(error, "strerror", None) or str(error)
        why = "the NVIDIA driver is missing" if log.contains("load CUDA", "libcuda") else text.rpartition("-> ")[2]
        return f"FFmpeg cannot use cuda:{gpu}: {why}"
    finally:
        log.close()
    return ""


def _key(spec: SourceSpec) -> tuple[str, str]:
    return spec.name, spec.paths[0]


def _hwaccel(gpu: int) -> HWAccel:
    return HWAccel("cuda", device=str(gpu), allow_software_fallback=True, is_hw_owned=True)
