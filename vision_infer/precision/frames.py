"""Frames of the user's videos, for calibration, search and evaluation.

They are written into slots as in a run, once, and stored in an unnamed file on disk. A video is cut into segments with gaps
between them, and each segment goes into one of the three sets: neighboring frames are nearly equal, so a set with one of them
would not be independent of a set with the other.

Calibration uses the frames that differ most. Search and evaluation use frames spread evenly, so that their results hold for the
whole video.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import OutputError, StreamError, UsageError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Letterbox, letterbox
from vision_infer.engine.device import available_cpus
from vision_infer.engine.engine import HostSlot
from vision_infer.stream.find import find_sources, open_source
from vision_infer.stream.redact import redact
from vision_infer.stream.source import LiveOptions, SourceSpec

MAX_BYTES = 1 << 30
"""The maximum size of the frames on disk, in bytes."""
MIN_FRAMES = 30
"""The minimum number of frames in all three sets."""
LIVE_SECONDS = 60.0
"""The duration for which each live stream is read."""
_GAP_S = 0.5
"""The gap between two segments, in seconds."""
_SEGMENTS = 12
"""The minimum number of segments of a video that is long enough."""
_MIN_SEGMENT_S, _MAX_SEGMENT_S = 1.0, 10.0
_ASSUMED_RATE = 25
_CHOICE = 3
"""The number of stored frames per required frame, to choose from."""
_SIDE = 16
"""The side of the thumbnails by which frames are compared."""


@dataclass(frozen=True, slots=True)
class FrameNeeds:
    """The required number of frames of each set; fewer are possible."""

    calibration: int = 64
    search: int = 100
    evaluation: int = 250

    @property
    def total(self) -> int:
        """The sum of all sets."""
        return self.calibration + self.search + self.evaluation


@dataclass(frozen=True, slots=True)
class FrameSet:
    """Frames as the contents of an engine's slots."""

    pixels: Sequence[NDArray[np.uint8]]
    """The letterboxed frames, N times uint8 [H, W, 3] RGB, read from disk when used."""
    letterboxes: tuple[Letterbox, ...]
    """The layout of each frame in its slot, N."""
    names: tuple[str, ...]
    """The stream and number, or the file, of each frame, N."""

    def __len__(self) -> int:
        return len(self.names)

    def sha256(self) -> str:
        """Return the checksum of the pixels."""
        digest = hashlib.sha256()
        for slot in self.pixels:
            digest.update(np.ascontiguousarray(slot).data)
        return digest.hexdigest()

    def first(self, count: int) -> FrameSet:
        """Return at most ``count`` of the frames, evenly spread."""
        chosen = _spread(range(len(self)), count)
        pixels = [self.pixels[number] for number in chosen]
        layouts, names = self.letterboxes, self.names
        return FrameSet(pixels, tuple(layouts[number] for number in chosen), tuple(names[number] for number in chosen))


@dataclass(slots=True)
class _FrameCandidate:
    place: int
    """The position in the file."""
    stream: int
    time_s: float
    layout: Letterbox
    name: str
    still: bool


class Frames:
    """Three disjoint sets of frames, stored on disk until they are closed.

    Args:
        sources: The sources of ``--data``: videos, images, folders, patterns, camera URLs, or a configuration of streams (.yaml).
        card: The model's card.
        needs: The required number of frames.
        clock: The clock for reading live streams.
        on_message: Receives the progress.

    Raises:
        StreamError: A source cannot be read, or there are too few frames.
        UsageError: A source does not exist.
        OutputError: There is no space for the frames.
    """

    def __init__(
        self,
        sources: Sequence[str],
        card: ModelCard,
        needs: FrameNeeds = FrameNeeds(),
        clock: Clock = SYSTEM_CLOCK,
        on_message: Callable[[str], None] = lambda _: None,
    ) -> None:
        shown = ", ".join(redact(source) for source in sources)
        self._pool = _Pool(card, needs)
        try:
            for number, spec in enumerate(find_frame_sources(sources)):
                self._pool.read(number, spec, clock)
                on_message(f"{redact(spec.name)}: {len(self._pool.candidates)} frames to choose from")
            sets = _divide(self._pool.candidates, needs)
            count = sum(map(len, sets))
            if count < MIN_FRAMES or not all(sets):
                message = f"{shown}: {count} usable frames, but at least {MIN_FRAMES} are needed"
                raise StreamError(message, f"Add more or longer videos; {needs.total} frames are best.")
            self.calibration = self._pool.frames(_most_different(self._pool, sets[0], needs.calibration))
            self.search = self._pool.frames(_spread(sets[1], needs.search))
            self.evaluation = self._pool.frames(_spread(sets[2], needs.evaluation))
        except BaseException:
            self._pool.close()
            raise

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.close()


def find_frame_sources(sources: Sequence[str]) -> tuple[SourceSpec, ...]:
    """Return the sources; a camera URL is a live stream, and a configuration of streams gives its cameras.

    Raises:
        UsageError: A source does not exist.
    """
    specs: list[SourceSpec] = []
    for source in sources:
        if Path(source).suffix.lower() in (".yaml", ".yml"):
            specs += _cameras(Path(source))
            continue
        found = find_sources([source])
        if found.errors:
            raise UsageError(found.errors[0].message, found.errors[0].hint)
        specs += found.specs
    return tuple(specs)


def in_words(sources: Sequence[str]) -> str:
    """Describe sources without paths and secrets: names of files, names of folders and their parents, redacted URLs."""
    named = []
    for one in sources:
        parts = Path(one).parts
        named.append(redact(one) if "://" in one or not parts else "/".join(parts[-2:] if Path(one).is_dir() else parts[-1:]))
    return ", ".join(named)


def _cameras(path: Path) -> list[SourceSpec]:
    import os

    from vision_infer.config.serve_file import load_settings

    settings = load_settings(path, (), os.environ, {})
    return [
        SourceSpec(
            name,
            "live",
            (stream.detect,),
            live=LiveOptions(
                stream.transport,
                stream.open_timeout_s,
                stream.stall_timeout_s,
                keyframes_only=stream.keyframes_only,
                credentials=settings.credentials,
            ),
        )
        for name, stream in settings.streams.items()
        if stream.enabled
    ]


@dataclass(slots=True)
class _Pool:
    """The stored frames to choose from. When the pool is full, it keeps every second frame and halves the rate."""

    card: ModelCard
    needs: FrameNeeds
    candidates: list[_FrameCandidate] = field(default_factory=list)
    _file: BinaryIO = field(init=False)
    _free: list[int] = field(default_factory=list)
    _written: int = 0
    _stride: int = 1
    _seen: set[bytes] = field(default_factory=set)
    _slot: HostSlot = field(init=False)

    def __post_init__(self) -> None:
        self._slot = HostSlot(np.zeros((self.card.input.height, self.card.input.width, 3), np.uint8))
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()

    @property
    def capacity(self) -> int:
        """The maximum number of frames."""
        return max(64, min(_CHOICE * self.needs.total, MAX_BYTES // self._slot.pixels.nbytes))

    def read(self, stream: int, spec: SourceSpec, clock: Clock) -> None:
        """Read the frames of a source."""
        end_ns = clock.monotonic_ns() + round(LIVE_SECONDS * 1e9)
        with open_source(spec, available_cpus()) as source:
            for number, frame in enumerate(source.frames()):
                if number % self._stride == 0 and not frame.damaged:
                    self._add(stream, frame, spec.kind == "images")
                if spec.kind == "live" and clock.monotonic_ns() >= end_ns:
                    break

    def _add(self, stream: int, frame: Frame, still: bool) -> None:
        card, slot = self.card, self._slot
        layout = letterbox(frame.image.size, card.input_size, card.fit, card.fill)
        frame.image.write_into(slot, layout)
        digest = hashlib.blake2b(slot.pixels.data, digest_size=16).digest()
        if digest in self._seen:  # a camera that repeats frames, or a file that is given twice
            return
        self._seen.add(digest)
        if len(self.candidates) >= self.capacity:
            self._thin_out()
        place = self._free.pop() if self._free else self._written
        self._written = max(self._written, place + 1)
        try:
            self._file.seek(place * slot.pixels.nbytes)
            self._file.write(slot.pixels.data)
            self._file.flush()
        except OSError as error:
            message = f"{tempfile.gettempdir()}: there is no space for the frames: {error.strerror}"
            raise OutputError(message, f"They need up to {MAX_BYTES >> 20} MB. Set TMPDIR to another folder.") from error
        time_s = frame.index / _ASSUMED_RATE if frame.pts_s is None else frame.pts_s
        self.candidates.append(
            _FrameCandidate(place, stream, time_s, layout, frame.file or f"{frame.stream} {frame.index}", still)
        )

    def _thin_out(self) -> None:
        self._free += [one.place for one in self.candidates[1::2]]
        self.candidates = self.candidates[::2]
        self._stride *= 2

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """Return the slot of a candidate, mapped from disk."""
        shape = self._slot.pixels.shape
        offset = self.candidates[number].place * self._slot.pixels.nbytes
        return np.memmap(self._file, np.uint8, "r", offset, shape)

    def frames(self, numbers: Sequence[int]) -> FrameSet:
        """Return some candidates as a set."""
        chosen = [self.candidates[number] for number in numbers]
        pixels = [self.pixels(number) for number in numbers]
        return FrameSet(pixels, tuple(one.layout for one in chosen), tuple(one.name for one in chosen))

    def close(self) -> None:
        """Release the disk space."""
        with suppress(OSError):
            self._file.close()


def _divide(candidates: Sequence[_FrameCandidate], needs: FrameNeeds) -> tuple[list[int], list[int], list[int]]:
    """Assign each segment to the set with the largest deficit, and return the numbers of the candidates."""
    sets: tuple[list[int], list[int], list[int]] = ([], [], [])
    wanted = (needs.calibration, needs.search, needs.evaluation)
    for segment in _segments(candidates):
        lacks = min(range(len(sets)), key=lambda one: len(sets[one]) / wanted[one])
        sets[lacks].extend(segment)
    return sets


def _segments(candidates: Sequence[_FrameCandidate]) -> Iterator[list[int]]:
    """Yield the numbers of candidates of each segment; each still image is a segment."""
    for stream in sorted({one.stream for one in candidates}):
        numbers = [number for number, one in enumerate(candidates) if one.stream == stream]
        if candidates[numbers[0]].still:
            yield from ([number] for number in numbers)
            continue
        numbers.sort(key=lambda number: candidates[number].time_s)
        start, end = (candidates[numbers[place]].time_s for place in (0, -1))
        length = min(_MAX_SEGMENT_S, max(_MIN_SEGMENT_S, (end - start) / _SEGMENTS))
        segments: dict[int, list[int]] = {}
        for number in numbers:
            which, inside = divmod(candidates[number].time_s - start, length)
            # No segment follows the last one, so it has no gap at its end.
            if inside < length - _GAP_S or candidates[number].time_s > end - _GAP_S:
                segments.setdefault(int(which), []).append(number)
        yield from segments.values()


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """Return at most ``count`` of the numbers, evenly spread."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[round(place)] for place in np.linspace(0, len(numbers) - 1, count)]


def _most_different(pool: _Pool, numbers: Sequence[int], count: int) -> list[int]:
    """Return the frames farthest apart: each next one is the farthest from all chosen ones (Gonzalez, 1985)."""
    if len(numbers) <= count:
        return list(numbers)
    small = np.stack([thumbnail(pool.pixels(number)) for number in numbers])
    chosen = [int(np.abs(small - small.mean(axis=0)).sum(axis=1).argmin())]
    distance = np.full(len(numbers), np.inf, np.float32)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(small - small[chosen[-1]]).sum(axis=1))
        chosen.append(int(distance.argmax()))
    return [numbers[place] for place in sorted(chosen)]


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the luma of an image (uint8 [H, W, 3] RGB) in 16×16 pixels, float32 [256], 0–255."""
    from vision_infer.core.opencv import cv2

    small = cv2.resize(np.asarray(pixels), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    luma: NDArray[np.float32] = (small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).reshape(-1)
    return luma
