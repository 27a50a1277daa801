"""Decoding and conversion: what a frame costs with every core busy, several kinds of video in turns."""

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
"""pictures that are converted in turns: their planes do not stay in a cache"""

Stop = Callable[[], bool]


@dataclass(slots=True)
class _DecodeRounds:
    fps: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


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
    """Decode each clip on every core at once, in turns.

    Args:
        clips: what they are like, and their files.
        cores: so many decoders side by side.
        rounds: how often each clip has its turn; the order is reversed every time.
        round_s: how long a turn is, seconds.
        gpu: decode on this GPU instead; a clip that goes to the CPU all the same is left out.
        stop: asked between turns; what was measured until then is returned.

    Raises:
        StreamError: a clip cannot be read.
    """
    found = [_DecodeRounds() for _ in clips]
    able = [gpu is None or _on_gpu(path, gpu) for _, path in clips]
    order = [number for number in range(len(clips)) if able[number]]
    for turn in range(rounds):
        for number in order if turn % 2 == 0 else reversed(order):
            if stop():
                break
            _decode_round(clips[number][1], cores, round_s, gpu, clock, found[number])
    return [
        DecodeRow(
            codec=spec.codec,
            width=spec.size.width,
            height=spec.size.height,
            mbit_s=round(path.stat().st_size * 8 / SECONDS / 1e6, 2),
            where="cpu" if gpu is None else "nvdec",
            fps=BenchInterval.of(estimate(one.fps)),
            cpu_ms=BenchInterval.of(estimate(one.cpu_ms)),
        )
        for (spec, path), one in zip(clips, found, strict=True)
        if one.fps
    ]


def measure_convert(
    clips: Sequence[tuple[ClipSpec, Path]], card: ModelCard, *, rounds: int, round_s: float, stop: Stop = lambda: False
) -> list[ConvertRow]:
    """Write pictures of each size into a slot, in turns, as an inference worker does.

    Args:
        clips: one of each size.
        card: of the network: its input, and how pictures are fitted into it.
        rounds: how often each has its turn.
        round_s: how long a turn is, seconds of CPU time.
        stop: asked between turns.

    Raises:
        StreamError: a clip cannot be read.
    """
    into = card.input_size
    slot = HostSlot(np.zeros((into.height, into.width, 3), np.uint8))
    pictures = [_pictures(path) for _, path in clips]
    found: list[list[float]] = [[] for _ in clips]
    order = range(len(clips))
    for turn in range(-1, rounds):  # the first is to warm up
        for number in order if turn % 2 == 0 else reversed(order):
            if stop():
                break
            ms = _convert_round(pictures[number], slot, card, round_s)
            if turn >= 0:
                found[number].append(ms)
    return [
        ConvertRow(
            width=spec.size.width,
            height=spec.size.height,
            input_width=into.width,
            input_height=into.height,
            cpu_ms=BenchInterval.of(estimate(one)),
        )
        for (spec, _), one in zip(clips, found, strict=True)
        if one
    ]


def _decode_round(path: Path, cores: int, round_s: float, gpu: int | None, clock: Clock, into: _DecodeRounds) -> None:
    counts, used = [0] * cores, [0] * cores
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
            for _ in frames:
                counts[number] += 1
                if clock.monotonic_ns() >= until:
                    break
            used[number] = time.thread_time_ns() - cpu
        except threading.BrokenBarrierError:
            pass
        except Exception as error:  # noqa: BLE001 - a thread is a boundary: it is raised by who waits for it
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


def _pictures(path: Path) -> list[Image]:
    with open_source(_spec(path, None)) as source:
        return [frame.image for frame in islice(source.frames(), _CONVERTED)]


def _convert_round(pictures: Sequence[Image], slot: HostSlot, card: ModelCard, round_s: float) -> float:
    fitted = letterbox(pictures[0].size, card.input_size, card.fit, card.fill)
    count, began = 0, time.thread_time_ns()
    while True:
        for image in pictures:
            image.write_into(slot, fitted)
        count += len(pictures)
        used = time.thread_time_ns() - began
        if used >= round_s * NS:
            return used / 1e6 / count
