"""Measures the speed of engines on this machine: several in turns, so that other load affects all of them alike."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError
from vision_infer.engine.device import available_cpus
from vision_infer.engine.engine import Engine

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
RESAMPLES = 1000
CONFIDENCE = 0.95
UNDISTURBED = 0.8
"""The minimum share of the usable CPUs that an engine must have received for its frame rate to count."""

Frames = Sequence[NDArray[np.uint8]]
"""Images as a slot contains them: uint8 [H, W, 3], letterboxed."""


@dataclass(slots=True)
class SpeedRounds:
    """The measurements of an engine in its rounds."""

    batch: int
    fps: list[float] = field(default_factory=list)
    """The frame rate of each round, images per second."""
    cpu_ms: list[float] = field(default_factory=list)
    """The CPU time per image of each round, milliseconds."""
    latencies_ms: list[float] = field(default_factory=list)
    """The durations of all batches of all rounds, milliseconds."""
    shares: list[float] = field(default_factory=list)
    """The share of the usable CPUs that it received in each round, 0 to about 1."""

    def percentile_ms(self, part: float) -> float:
        """Return the time that this part (0–1) of all batches did not exceed, milliseconds."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The median of some rounds, with the 95 % bootstrap interval."""

    median: float
    low: float
    """The lower end of the interval."""
    high: float
    """The upper end of the interval."""


@dataclass(frozen=True, slots=True)
class Faster:
    """The ratio of the speeds of two engines."""

    times: Estimate
    """How many times faster the first engine is."""
    by_cpu: bool
    """Whether CPU time was compared instead of frame rates, because other programs used the CPUs."""


def measure_speed(
    engines: Mapping[str, Engine],
    frames: Frames = (),
    *,
    batch: int = 1,
    threads: int = 1,
    rounds: int = 7,
    round_s: float = 0.5,
    clock: Clock = SYSTEM_CLOCK,
    cpu_ns: Callable[[], int] = time.process_time_ns,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, SpeedRounds]:
    """Run the engines in turns, each for several rounds with all its batches in flight.

    Args:
        engines: The engines by any name; they are warmed up here. Nothing else may use them at the same time.
        frames: The images in their slots; without any, noise (the speed of a model hardly depends on it).
        threads: The number of threads for each batch, as the engines were opened.
        rounds: The number of rounds of each engine; the order is reversed every time.
        round_s: The minimum duration of a round, seconds; the last batch runs to its end.
        stop: Called before each round; if it returns True, the measurements so far are returned.

    Raises:
        EngineError: An engine fails, or does not run that batch size.
    """
    found = {name: SpeedRounds(batch) for name in engines}
    for engine in engines.values():
        _fill(engine, batch, frames)
        engine.warm_up()
    cores = {name: min(available_cpus(), engine.in_flight * threads) for name, engine in engines.items()}
    names = list(engines)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            if stop():
                return found
            _run_round(engines[name], found[name], int(round_s * NS_PER_S), cores[name], clock, cpu_ns)
    return found


def estimate(values: Sequence[float]) -> Estimate:
    """Return the median of some rounds with its interval; the same values always give the same interval."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    cut = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Estimate(statistics.median(values), medians[cut], medians[-1 - cut])


def faster(first: SpeedRounds, second: SpeedRounds, by_wall: bool = False) -> Faster:
    """Return how many times faster the first engine is than the second, compared round by round.

    If other programs left one of the two less than :data:`UNDISTURBED` of the CPUs, the frame rates say more about those
    programs than about the engines. Then the CPU times per image are compared.

    Args:
        by_wall: Whether frame rates are always compared: engines on a GPU need little of the CPUs.
    """
    by_cpu = not by_wall and min(statistics.median(first.shares), statistics.median(second.shares)) < UNDISTURBED
    pairs = zip(second.cpu_ms, first.cpu_ms, strict=True) if by_cpu else zip(first.fps, second.fps, strict=True)
    return Faster(estimate([numerator / denominator for numerator, denominator in pairs]), by_cpu)


def measure_opening(open_engine: Callable[[], Engine], clock: Clock = SYSTEM_CLOCK) -> tuple[Engine, float, int | None]:
    """Open an engine and warm it up.

    Returns:
        The engine; how long that took, seconds; and the growth of this process, bytes (None where the system does not report it).
        Memory that the process had freed before does not count: measure in a new process for a figure to print.
    """
    before, started = resident_bytes(), clock.monotonic_ns()
    engine = open_engine()
    try:
        engine.warm_up()
    except BaseException:
        engine.__exit__(None, None, None)
        raise
    seconds = (clock.monotonic_ns() - started) / NS_PER_S
    after = resident_bytes()
    return engine, seconds, None if before is None or after is None else max(0, after - before)


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Return the resident memory of this process, bytes; None where the system does not report it."""
    try:
        return int(statm.read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return None


def _fill(engine: Engine, batch: int, frames: Frames) -> None:
    """Write images into all buffers; they stay there from loan to loan."""
    size = engine.input_size
    if not frames:
        frames = [np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)]
    loans = [engine.lend(batch) for _ in range(engine.in_flight)]
    try:
        for number, slot in enumerate(slot for loan in loans for slot in loan.slots):
            slot.pixels[:] = frames[number % len(frames)]
            slot.layout = None
    finally:
        for loan in loans:
            engine.release(loan)


def _run_round(engine: Engine, result: SpeedRounds, length_ns: int, cores: int, clock: Clock, cpu_ns: Callable[[], int]) -> None:
    """Run one round: a thread for each batch in flight, as in the pipeline; the first is the calling thread."""
    started, cpu_started = clock.monotonic_ns(), cpu_ns()
    until = started + length_ns
    latencies: list[int] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            while True:
                begin = clock.monotonic_ns()
                engine.collect(engine.submit(engine.lend(result.batch)))
                end = clock.monotonic_ns()
                latencies.append(end - begin)
                if end >= until or failed:
                    return
        except Exception as error:  # noqa: BLE001 - a thread is a boundary: the waiting thread raises it
            failed.append(error)

    threads = [threading.Thread(target=work, name=f"measure-{number}") for number in range(1, engine.in_flight)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0] if isinstance(failed[0], EngineError) else EngineError(f"{engine.name}: {failed[0]}") from failed[0]
    images = len(latencies) * result.batch
    wall_ns, used_ns = max(1, clock.monotonic_ns() - started), max(1, cpu_ns() - cpu_started)
    result.fps.append(images * NS_PER_S / wall_ns)
    result.cpu_ms.append(used_ns / NS_PER_MS / images)
    result.shares.append(used_ns / wall_ns / cores)
    result.latencies_ms.extend(latency / NS_PER_MS for latency in latencies)
