"""Decoding on an NVIDIA GPU (NVDEC), and going on without it where it cannot be had.

The pictures stay on the GPU. An engine there reads them where they are; whoever wants them in host memory gets them copied.
FFmpeg copies each picture out of the decoder's own few, so that they may be held as long as any other.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

import av
import av.codec
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext

from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Slot, Surface, SurfaceSlot
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.image import VideoImage
from vision_infer.stream.orientation import UPRIGHT, Orientation
from vision_infer.stream.source import ReadReport, SourceSpec

_SAMPLE_BYTES = {"nv12": 1, "p010le": 2}
_FULL_RANGE = 2
_SURFACES = 20
"""pictures that a decoder holds at most: 16 that others refer to, some on their way"""
_CONTEXT_BYTES = 40_000_000
"""what a decoder takes besides its pictures, about"""
_MAX_GIVEN_UP = 1000
_given_up: OrderedDict[tuple[str, str], str] = OrderedDict()
"""why streams are decoded on the CPU from now on, by name and source"""
_log = logging.getLogger("vision_infer.stream")


class NvdecImage(VideoImage):
    """A picture in the memory of a GPU.

    Args:
        frame: the decoder's, NV12 or P010.
        orientation: how it is shown.
        gpu: which.
    """

    __slots__ = ("_gpu",)

    def __init__(self, frame: av.VideoFrame, orientation: Orientation, gpu: int) -> None:
        super().__init__(frame, orientation)
        self._gpu = gpu

    @property
    def upright(self) -> None:
        """Nobody else has a use for the decoder's frame as it is."""
        return

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """On the GPU where the slot is there; else it is copied to the host, and goes the way of other pictures."""
        surface = self.surface() if isinstance(slot, SurfaceSlot) else None
        if surface is None or not slot.write_surface(surface, letterbox):  # type: ignore[attr-defined]
            super().write_into(slot, letterbox)

    def surface(self) -> Surface | None:
        """Where it is; None where it has to be turned, or is of another kind."""
        frame = self._frame
        size = _SAMPLE_BYTES.get((frame.sw_format or frame.format).name)
        if size is None or self._orientation != UPRIGHT:
            return None
        luma, chroma = frame.planes
        full = frame.color_range == _FULL_RANGE
        return Surface(
            Size(frame.width, frame.height),
            *(luma.buffer_ptr, luma.line_size, chroma.buffer_ptr, chroma.line_size, size),
            *(frame.colorspace, full, self._gpu, frame),
        )


class _Heard(SourceLog):
    """Keeps what FFmpeg says to itself: it is no error of the source."""

    def take(self, level: int, text: str) -> None:  # noqa: ARG002
        """Keep a line."""
        self.recent.append(text)


class Decoding:
    """Where one connection's pictures are decoded.

    Args:
        spec: of the source.
        report: told where a GPU was wanted, and cannot be had.
    """

    def __init__(self, spec: SourceSpec, report: ReadReport) -> None:
        self._spec = spec
        self._report = report
        self._gpu = wanted_gpu(spec)
        self._decoded = False
        self.hwaccel: HWAccel | None = None
        """what FFmpeg is told when the source is opened; None: decode on the CPU"""
        self.bytes: int | None = None
        """about what the decoder takes of the GPU's memory, without the pictures that are on their way; None: it is on the CPU"""
        if self._gpu is not None:
            problem = _problem(spec, self._gpu)
            if problem:
                self._without(problem)
            else:
                self.hwaccel = _hwaccel(self._gpu)

    @property
    def where(self) -> str:
        """``cpu``, or ``cuda:0``"""
        return "cpu" if self._gpu is None else f"cuda:{self._gpu}"

    def opened(self, context: VideoCodecContext) -> None:
        """The source is open, and nothing decoded yet."""
        if self._gpu is None:
            return
        if not context.is_hwaccel:
            self._without(f"this FFmpeg has no decoder of {context.name} on a GPU")
            return
        context.thread_count = 1  # threads would each want surfaces of their own, and have nothing to do
        self.bytes = decoder_bytes(context.width, context.height, "10" in f"{context.profile}")
        megabytes = round(self.bytes / 1e6)
        _log.info("%s: is decoded by %s, and takes about %d MB of its memory", self._spec.name, self.where, megabytes)

    def image(self, frame: av.VideoFrame, orientation: Orientation) -> VideoImage:
        """A decoded frame as a picture."""
        if frame.format.name == "cuda":
            self._decoded = True
            return NvdecImage(frame, orientation, wanted_gpu(self._spec) or 0)
        if self._gpu is not None:
            self._without("this GPU does not decode its codec, profile or size, or has no memory for it")
        return VideoImage(frame, orientation)

    def failed(self, reason: str) -> bool:
        """A packet could not be decoded: whether to open the source again, for it is decoded on the CPU from now on."""
        if self._gpu is None or self._decoded:
            return False
        self._without(f"the GPU's decoder failed: {reason}")
        _given_up[_key(self._spec)] = f"the GPU's decoder failed before: {reason}"
        if len(_given_up) > _MAX_GIVEN_UP:
            _given_up.popitem(last=False)
        return True

    def _without(self, problem: str) -> None:
        self._gpu = self.hwaccel = self.bytes = None
        self._report.warn(f"is decoded on the CPU: {problem}")


def wanted_gpu(spec: SourceSpec) -> int | None:
    """Which GPU is to decode a source; None: the CPU is."""
    if spec.decode == "cpu":
        return None
    return (spec.gpu or 0) if spec.decode == "nvdec" else spec.gpu


def decoder_bytes(width: int, height: int, wide: bool) -> int:
    """About what a decoder takes of the GPU's memory, bytes: its pictures (``wide``: 16 bits a sample), and the rest."""
    aligned = (width + 255) // 256 * 256 * ((height + 31) // 32 * 32)
    return _CONTEXT_BYTES + _SURFACES * aligned * 3 // 2 * (2 if wide else 1)


def _problem(spec: SourceSpec, gpu: int) -> str:
    """Why a source that is to be decoded on a GPU is not; empty where it is."""
    known = _given_up.get(_key(spec))
    if known:
        return known
    heard = _Heard(spec.name)
    heard.here()
    try:
        # Asked here, and not by opening the source: a camera is not called for nothing.
        _hwaccel(gpu).create(av.codec.Codec("h264", "r"))
    except (av.error.FFmpegError, OSError, NotImplementedError, ValueError) as error:
        said = heard.recent[-1] if heard.recent else getattr(error, "strerror", None) or str(error)
        why = "there is no NVIDIA driver here" if heard.said("load CUDA", "libcuda") else said.rpartition("-> ")[2]
        return f"FFmpeg cannot use cuda:{gpu}: {why}"
    finally:
        heard.close()
    return ""


def _key(spec: SourceSpec) -> tuple[str, str]:
    return spec.name, spec.paths[0]


def _hwaccel(gpu: int) -> HWAccel:
    return HWAccel("cuda", device=str(gpu), allow_software_fallback=True, is_hw_owned=True)
