"""Measure the cost of decoding and conversion per frame with all cores busy, alternating between kinds of video."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from vision_infer.capacity.report import BenchInterval, ConvertRow, DecodeRow
from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.geometry import letterbox
from vision_infer.core.image import Image
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.measure import estimate
from vision_infer.stream.files.sample_clip import SECONDS, ClipSpec
from vision_infer.stream.find import open_source
from vision_infer.stream.source import SourceSpec

NS = 1_000_000_000
_WARM = 3
_CONVERTED = 8
"""The number of images that are converted in turn, so that they do not stay in a cache."""

Stop = Callable[[], bool]


@dataclass(slots=True)
class _DecodeRounds:
    fps: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    by_place: list[float] = field(default_factory=list)
    """The CPU time by frame of the key-frame interval, nanoseconds, added up over all rounds."""

    @property
    def pattern(self) -> tuple[float, ...]:
        """The costs of the frames of a key-frame interval, relative to their mean."""
        mean = sum(self.by_place) / max(1, len(self.by_place))
        return tuple(round(used / mean, 3) for used in self.by_place) if mean else ()


def measure_decode(
    clips: Sequence[tuple[ClipSpec, Path]],
    *,
    cores: int,
    rounds: int,
    round_s: float,
    gpu: int | None = None,
    stop: Stop = lambda: False,
    clock: Clock = SYSTEM_CLOCK,
) -> list[DecodeRow]:
    """Decode each clip on all cores at once, alternating between clips, and always whole key-frame intervals.

    Args:
        rounds: The number of rounds; the order is reversed each time.
        gpu: Decode on this GPU instead. Clips that it cannot decode are skipped.
        stop: Checked between measurements; the measurements so far are returned.

    Raises:
        StreamError: A clip cannot be read.
    """
    found = [_DecodeRounds() for _ in clips]
    able = [gpu is None or _on_gpu(path, gpu) for _, path in clips]
    order = [number for number in range(len(clips)) if able[number]]
    for turn in range(rounds):
        for number in order if turn % 2 == 0 else reversed(order):
            if stop():
                break
            spec, path = clips[number]
            _decode_round(path, spec.frames_per_group, cores, round_s, gpu, clock, found[number])
    return [
        DecodeRow(
            codec=spec.codec,
            width=spec.size.width,
            height=spec.size.height,
            mbit_s=round(path.stat().st_size * 8 / SECONDS / 1e6, 2),
            where="cpu" if gpu is None else "nvdec",
            fps=BenchInterval.of(estimate(times.fps)),
            cpu_ms=BenchInterval.of(estimate(times.cpu_ms)),
            pattern=times.pattern,
        )
        for (spec, path), times in zip(clips, found, strict=True)
        if times.fps
    ]


def measure_convert(
    clips: Sequence[tuple[ClipSpec, Path]], card: ModelCard, *, rounds: int, round_s: float, stop: Stop = lambda: False
) -> list[ConvertRow]:
    """Write images of each size into a slot, as an inference worker does, alternating between sizes.

    Raises:
        StreamError: A clip cannot be read.
    """
    into = card.input_size
    slot = HostSlot(np.zeros((into.height, into.width, 3), np.uint8))
    images = [_images(path) for _, path in clips]
    found: list[list[float]] = [[] for _ in clips]
    order = range(len(clips))
    for turn in range(-1, rounds):  # the first round is a warm-up
        for number in order if turn % 2 == 0 else reversed(order):
            if stop():
                break
            ms = _convert_round(images[number], slot, card, round_s)
            if turn >= 0:
                found[number].append(ms)
    return [
        ConvertRow(
            width=spec.size.width,
            height=spec.size.height,
            input_width=into.width,
            input_height=into.height,
            cpu_ms=BenchInterval.of(estimate(times)),
        )
        for (spec, _), times in zip(clips, found, strict=True)
        if times
    ]


def _decode_round(path: Path, group: int, cores: int, round_s: float, gpu: int | None, clock: Clock, into: _DecodeRounds) -> None:
    counts, used = [0] * cores, [0] * cores
    by_place = [[0] * group for _ in range(cores)]
    ready = threading.Barrier(cores + 1)
    failed: list[Exception] = []
    length_ns = int(round_s * NS)

    def work(number: int) -> None:
        try:
            frames = _endless(path, gpu)
            for _ in islice(frames, _WARM):
                pass
            ready.wait()
            cpu, until = time.thread_time_ns(), clock.monotonic_ns() + length_ns
            before = cpu
            for place, _ in enumerate(frames, start=_WARM):
                now = time.thread_time_ns()
                by_place[number][place % group] += now - before
                before = now
                counts[number] += 1
                if counts[number] % group == 0 and clock.monotonic_ns() >= until:
                    break
            used[number] = before - cpu
        except threading.BrokenBarrierError:
            pass
        except Exception as error:  # noqa: BLE001 - the thread that waits raises it
            failed.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(number,), name=f"decode-{number}") for number in range(cores)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
    began = clock.monotonic_ns()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    into.fps.append(sum(counts) * NS / (clock.monotonic_ns() - began))
    into.cpu_ms.append(sum(used) / 1e6 / max(1, sum(counts)))
    into.by_place = [sum(times) for times in zip(*by_place, into.by_place or [0] * group, strict=True)]


def _endless(path: Path, gpu: int | None) -> Iterator[Image]:
    while True:
        with open_source(_spec(path, gpu)) as source:
            for frame in source.frames():
                yield frame.image


def _spec(path: Path, gpu: int | None) -> SourceSpec:
    return SourceSpec("bench", "video", (str(path),), decode="cpu" if gpu is None else "nvdec", gpu=gpu)


def _on_gpu(path: Path, gpu: int) -> bool:
    with open_source(_spec(path, gpu)) as source:
        next(source.frames(), None)
        return not source.report.warnings


def _images(path: Path) -> list[Image]:
    with open_source(_spec(path, None)) as source:
        return [frame.image for frame in islice(source.frames(), _CONVERTED)]


def _convert_round(images: Sequence[Image], slot: HostSlot, card: ModelCard, round_s: float) -> float:
    fitted = letterbox(images[0].size, card.input_size, card.fit, card.fill)
    count, began = 0, time.thread_time_ns()
    while True:
        for image in images:
            image.write_into(slot, fitted)
        count += len(images)
        used = time.thread_time_ns() - began
        if used >= round_s * NS:
            return used / 1e6 / count
