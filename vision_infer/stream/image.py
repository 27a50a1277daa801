"""Images: the YUV planes of a decoder, and RGB arrays.

A pixel of a decoded frame is processed twice on its way to the engine: swscale converts and resizes the planes into a small RGB
image in one pass, and this image is copied into the slot. (FFmpeg's scaler allocates its own output: PyAV cannot pass it the
slot.) A frame that no batch takes is never converted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Slot
from vision_infer.stream.color import set_matrix
from vision_infer.stream.orientation import UPRIGHT, Orientation

_REFORMATTERS_PER_THREAD, _CROPS_PER_THREAD = 16, 256
"""The tiles of a frame have a crop filter each."""
_LUMA_BITS = {
    **dict.fromkeys(("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv440p", "nv12", "nv21", "gray"), 8),
    **dict.fromkeys(("yuv420p10le", "yuv422p10le", "yuv444p10le", "gray10le"), 10),
    **dict.fromkeys(("yuv420p12le", "yuv422p12le", "yuv444p12le", "gray12le"), 12),
    "p010le": 16,
}
"""The bits per sample of the first plane, which contains only Y, by pixel format."""
_local = threading.local()


Kept = TypeVar("Kept", VideoReformatter, tuple[Graph, FilterContext, FilterContext])


def _kept(name: str, limit: int, key: tuple[object, ...], make: Callable[[], Kept]) -> Kept:
    # A reformatter or a filter is set up again when its parameters change, which costs several times as much as a conversion. So
    # each thread keeps one per recently used combination of parameters.
    known: OrderedDict[tuple[object, ...], Kept] | None = getattr(_local, name, None)
    if known is None:
        known = OrderedDict()
        setattr(_local, name, known)
    one = known.get(key)
    if one is None:
        one = known[key] = make()
        if len(known) > limit:
            known.popitem(last=False)
    else:
        known.move_to_end(key)
    return one


def _cropped(frame: av.VideoFrame, x: int, y: int, width: int, height: int) -> av.VideoFrame:
    """Return a part of a frame, which shares its memory. Its corner is rounded down to whole samples of chroma."""
    pixels, color = frame.format.name, (int(frame.colorspace), int(frame.color_range))

    def make() -> tuple[Graph, FilterContext, FilterContext]:
        graph = Graph()
        whole = f"video_size={frame.width}x{frame.height}:pix_fmt={pixels}:time_base=1/1000"
        source = graph.add("buffer", f"{whole}:colorspace={color[0]}:range={color[1]}")
        crop, sink = graph.add("crop", f"{width}:{height}:{x}:{y}"), graph.add("buffersink")
        source.link_to(crop)
        crop.link_to(sink)
        graph.configure()
        return graph, source, sink  # the graph owns the others

    key = (frame.width, frame.height, pixels, color, x, y, width, height)
    _, source, sink = _kept("crops", _CROPS_PER_THREAD, key, make)
    source.push(frame)
    part = sink.pull()
    assert isinstance(part, av.VideoFrame)
    return part


def _to_rgb24(frame: av.VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    """Convert and resize in one pass. Returns a view of the result, uint8 [height, width, 3], whose rows are padded."""
    key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, width, height)
    rgb = _kept("reformatters", _REFORMATTERS_PER_THREAD, key, VideoReformatter).reformat(
        frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
    )
    plane = rgb.planes[0]
    rows: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[:height, : width * 3].reshape(height, width, 3)


def _fill_around(slot: Slot, letterbox: Letterbox) -> NDArray[np.uint8]:
    """Fill the area around the content, unless this is already done, and return the content's part of the slot."""
    top, left = letterbox.y, letterbox.x
    bottom, right = top + letterbox.content.height, left + letterbox.content.width
    pixels = slot.pixels
    if slot.layout != letterbox:
        pixels[:top] = letterbox.fill
        pixels[bottom:] = letterbox.fill
        pixels[top:bottom, :left] = letterbox.fill
        pixels[top:bottom, right:] = letterbox.fill
        slot.layout = letterbox
    return pixels[top:bottom, left:right]


def _luma_samples(frame: av.VideoFrame, step: int) -> NDArray[np.uint8] | None:
    """Return every ``step``-th sample of every ``step``-th row of the Y plane; None if the pixel format has no such plane."""
    depth = _LUMA_BITS.get(frame.format.name)
    if depth is None:
        return None
    plane = frame.planes[0]
    if depth == 8:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        return rows[: frame.height : step, : frame.width : step]
    wide = np.frombuffer(memoryview(plane), np.uint16).reshape(-1, plane.line_size // 2)
    return (wide[: frame.height : step, : frame.width : step] >> np.uint16(depth - 8)).astype(np.uint8)


class VideoImage:
    """A decoded frame, displayed in an orientation."""

    __slots__ = ("_frame", "_orientation", "size")

    def __init__(self, frame: av.VideoFrame, orientation: Orientation = UPRIGHT) -> None:
        self._frame = frame
        self._orientation = orientation
        set_matrix(frame)
        self.size = Size(frame.height, frame.width) if orientation.turns % 2 else Size(frame.width, frame.height)

    def upright(self, size: Size) -> av.VideoFrame | None:  # noqa: ARG002 - for images that are scaled elsewhere
        """Return the decoder's frame, or one that has been scaled to this even size; None if it must be rotated. Read-only."""
        return self._frame if self._orientation == UPRIGHT else None

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Convert and resize, and rotate the small result on its way into the slot."""
        _fill_around(slot, letterbox)[:] = self._rgb(letterbox.content)

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return a copy, uint8 [H, W, 3]."""
        return self._rgb(self.size).copy()

    def part(self, left: int, top: int, size: Size) -> VideoImage | None:
        """Return a part of the image, in displayed pixels, without a copy; None if it cannot be cut out."""
        return VideoImage(_cropped(self._frame, *self._decoded(left, top, size)), self._orientation)

    def _decoded(self, left: int, top: int, size: Size) -> tuple[int, int, int, int]:
        """Return the left and top edge, width and height of a displayed part in the decoder's frame."""
        x, y, width, height, shown = left, top, size.width, size.height, self.size
        for _ in range(self._orientation.turns):  # undo a quarter turn
            x, y, width, height = shown.height - y - height, x, height, width
            shown = Size(shown.height, shown.width)
        if self._orientation.mirrored:
            x = shown.width - x - width
        return x, y, width, height

    def luma(self, max_width: int) -> NDArray[np.uint8]:
        """Return samples of the Y plane, uint8 [H, W]; for other pixel formats, of a small converted image."""
        frame = self._frame
        step = -(-frame.width // max_width)
        samples = _luma_samples(frame, step)
        if samples is None:
            samples = self._scaled(max(1, frame.width // step), max(1, frame.height // step))[..., 1]
        return self._displayed(samples)

    def _rgb(self, size: Size) -> NDArray[np.uint8]:
        width, height = (size.height, size.width) if self._orientation.turns % 2 else (size.width, size.height)
        return self._displayed(self._scaled(width, height))

    def _scaled(self, width: int, height: int) -> NDArray[np.uint8]:
        """Return the decoder's frame in another size, uint8 [H, W, 3] RGB."""
        return _to_rgb24(self._frame, width, height)

    def _displayed(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return pixels of the decoder's frame in the orientation of the display."""
        if self._orientation.mirrored:
            pixels = pixels[:, ::-1]
        turns = self._orientation.turns
        return np.rot90(pixels, turns) if turns else pixels


class ArrayImage:
    """An RGB array, uint8 [H, W, 3], contiguous or not; it is not copied."""

    __slots__ = ("_rgb", "size")

    def __init__(self, rgb: NDArray[np.uint8]) -> None:
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
            raise ValueError(f"an image must be uint8 [H, W, 3] RGB, got {rgb.dtype} {list(rgb.shape)}")
        self._rgb = rgb
        self.size = Size(rgb.shape[1], rgb.shape[0])

    def write_into(self, slot: Slot, letterbox: Letterbox) -> None:
        """Resize directly into the slot."""
        from vision_infer.core.opencv import cv2  # video does not need it: 0.1 s and 20 MB

        content = letterbox.content
        place = _fill_around(slot, letterbox)
        if content == self.size:
            place[:] = self._rgb
            return
        # Average if the image shrinks to less than half: bilinear interpolation would skip pixels.
        shrinks = self.size.width > 2 * content.width or self.size.height > 2 * content.height
        size = (content.width, content.height)
        cv2.resize(self._rgb, size, dst=place, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def part(self, left: int, top: int, size: Size) -> ArrayImage:
        """Return a part of the image, without a copy."""
        return ArrayImage(self._rgb[top : top + size.height, left : left + size.width])

    def luma(self, max_width: int) -> NDArray[np.uint8]:
        """Return samples of the green channel, uint8 [H, W]: most of the luminance."""
        step = -(-self.size.width // max_width)
        return self._rgb[::step, ::step, 1]

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return a copy, uint8 [H, W, 3]."""
        return self._rgb.copy()


class TensorImage(ArrayImage):
    """An image with the size of the engine's input, whose sender receives the outputs of the deployment graph, not detections."""

    __slots__ = ("outputs",)

    def __init__(self, rgb: NDArray[np.uint8]) -> None:
        super().__init__(rgb)
        self.outputs: Mapping[str, NDArray[Any]] = {}
        """The outputs by name, without the batch; empty before inference."""
