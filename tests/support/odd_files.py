"""Unusual or damaged video files; created when first needed, like those of :mod:`tests.support.media`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tests.support import media

_ULTRAFAST = {"preset": "ultrafast", "g": "12"}
_MATRICES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}

INTERLACED = media.Clip(options=(("preset", "ultrafast"), ("g", "12"), ("flags", "+ildct+ilme"), ("x264-params", "tff=1")))
"""Broadcasts and old cameras: the two fields of a frame have different times."""
HEADERLESS = replace(media.B_FRAMES, suffix=".h264")
"""The output of a camera SDK: without a container, so without timestamps."""
LONG_GOP = media.Clip(frames=75, options=(("preset", "veryfast"), ("g", "250"), ("bf", "2")))
"""A single key frame: for a late start, everything before must be decoded."""
LATE_TS = media.Clip(suffix=".ts", frames=60, options=(("preset", "veryfast"), ("g", "20"), ("bf", "2")))
"""The clock of a broadcast does not start at zero, and its container has no index."""


def rotated(clockwise: int) -> Path:
    """Return a phone's video: coded in landscape format, with a rotation for display."""
    return displayed(_MATRICES[clockwise])


def displayed(matrix: tuple[int, int, int, int]) -> Path:
    """Return a video with a display matrix, which maps (x, y) to (a·x + c·y, b·x + d·y), with y downwards."""

    def write(path: Path) -> None:
        data = bytearray(media.clip(media.H264).read_bytes())
        a, b, c, d = (65_536 * value for value in matrix)
        at = data.index(b"tkhd") + 4 + 40
        data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)

    return media.made(f"displayed {matrix}", ".mp4", write)


def two_tracks() -> Path:
    """Return a file with two video tracks, as of a recorder with two cameras: 128×96 and 64×48."""

    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            tracks: list[VideoStream] = []
            for width, height in ((128, 96), (64, 48)):
                stream = container.add_stream("libx264", rate=Fraction(25), options=_ULTRAFAST)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                tracks.append(stream)
            for number in range(20):
                for stream in tracks:
                    image = av.VideoFrame.from_ndarray(media.numbered(number, stream.width, stream.height), "rgb24")
                    image.pts, image.time_base = number, Fraction(1, 25)
                    container.mux(stream.encode(image.reformat(format="yuv420p")))
            for stream in tracks:
                container.mux(stream.encode(None))

    return media.made("two tracks", ".mkv", write)


def joined(*recipes: media.Clip) -> Path:
    """Return concatenated transport streams, as of a recorder that was switched: the timestamps restart."""

    def write(path: Path) -> None:
        path.write_bytes(b"".join(media.clip(one).read_bytes() for one in recipes))

    return media.made(f"joined {recipes!r}", ".ts", write)


def lying(field: str) -> Path:
    """Return a file with a wrong header.

    Args:
        field: ``duration`` (Matroska, ten times too long) or ``size`` (MP4 sample entry, 1024×1024).
    """

    def write(path: Path) -> None:
        data = bytearray(media.clip(media.H264 if field == "size" else replace(media.H264, suffix=".mkv")).read_bytes())
        if field == "size":
            at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
            data[at : at + 4] = struct.pack(">HH", 1024, 1024)
        else:
            at = data.index(b"\x44\x89\x88") + 3
            (duration,) = struct.unpack_from(">d", data, at)
            data[at : at + 8] = struct.pack(">d", duration * 10)
        path.write_bytes(data)

    return media.made(f"lying {field}", ".mp4" if field == "size" else ".mkv", write)


def truncated(recipe: media.Clip, part: float) -> Path:
    """Return a file without its end, as after a full disk or a power failure."""
    return media.made(
        f"truncated {part} {recipe!r}",
        recipe.suffix,
        lambda path: _keep(path, media.clip(recipe), lambda data: data[: int(len(data) * part)]),
    )


def overwritten(recipe: media.Clip, part: float, size: int) -> Path:
    """Return a file with zeros in one place, as from a bad sector."""

    def spoil(data: bytes) -> bytes:
        at = int(len(data) * part)
        return data[:at] + bytes(size) + data[at + size :]

    return media.made(f"overwritten {part} {size} {recipe!r}", recipe.suffix, lambda path: _keep(path, media.clip(recipe), spoil))


def scratched(recipe: media.Clip, every: int, size: int) -> Path:
    """Return a file with damage in many places: almost every frame causes errors."""

    def spoil(data: bytes) -> bytes:
        spoiled = bytearray(data)
        for at in range(3000, len(data) - size, every):
            spoiled[at : at + size] = bytes((number * 37 + at) % 251 for number in range(size))
        return bytes(spoiled)

    return media.made(f"scratched {every} {size} {recipe!r}", recipe.suffix, lambda path: _keep(path, media.clip(recipe), spoil))


def _keep(path: Path, source: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(source.read_bytes()))


BARS = np.array(
    [(235, 235, 235), (200, 200, 20), (20, 200, 200), (20, 200, 20), (200, 20, 200), (200, 20, 20), (20, 20, 200), (20, 20, 20)],
    np.float64,
)
"""The eight color bars, RGB."""
WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}
"""The weights of red and blue in the luma, by standard."""


def bars_frame(width: int, height: int, matrix: str, full: bool, bits: int) -> av.VideoFrame:
    """Return color bars as YUV 4:2:0, computed from the formula of the standard, not by FFmpeg's scaler, without metadata."""
    red, blue = WEIGHTS[matrix]
    r, g, b = BARS.T / 255
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red)
    unit, most = 2 ** (bits - 8), 2**bits - 1
    if full:
        values = (y * most, cb * most + 128 * unit, cr * most + 128 * unit)
    else:
        values = ((219 * y + 16) * unit, (224 * cb + 128) * unit, (224 * cr + 128) * unit)
    frame = av.VideoFrame(width, height, "yuv420p" if bits == 8 else "yuv420p10le")
    for plane, levels in zip(frame.planes, values, strict=True):
        kind: type[np.uint8] | type[np.uint16] = np.uint8 if bits == 8 else np.uint16
        rows = np.zeros((plane.height, plane.line_size // np.dtype(kind).itemsize), kind)
        rows[:, : plane.width] = np.repeat(np.rint(levels), plane.width // 8)
        plane.update(rows.tobytes())
    return frame


def bars_seen(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the colors in the middle of the bars, float64 [8, 3]."""
    height, width = rgb.shape[:2]
    return rgb[height // 2, width // 16 :: width // 8].astype(np.float64)


_AVC = {"bt709": 1, "bt601": 6, "bt2020": 9}


def bars_clip(width: int, height: int, matrix: str, full: bool, bits: int, marked: bool, transfer: int = 1) -> Path:
    """Return a clip of color bars, lossless H.264.

    Args:
        marked: Whether the stream declares its matrix and range.
        transfer: The number of the transfer characteristics: 1 is BT.709, 16 PQ, 18 HLG.
    """

    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast", "qp": "0"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p" if bits == 8 else "yuv420p10le"
            if marked:
                context = stream.codec_context
                context.colorspace, context.color_range = _AVC[matrix], 2 if full else 1
                context.color_trc, context.color_primaries = transfer, 9 if matrix == "bt2020" else 1
            frame = bars_frame(width, height, matrix, full, bits)
            if marked:
                frame.colorspace, frame.color_range = _AVC[matrix], 2 if full else 1
            frame.pts, frame.time_base = 0, Fraction(1, 25)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return media.made(f"bars {width} {height} {matrix} {full} {bits} {marked} {transfer}", ".mkv", write)
