"""How fast engines are on this machine: several in turns, so that what else the machine does falls on all of them alike."""

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

Frames = Sequence[NDArray[np.uint8]]
"""pictures as they stand in a slot, uint8 [H, W, 3], letterboxed"""


@dataclass(slots=True)
class SpeedRounds:
    """What an engine did in its rounds."""

    batch: int
    fps: list[float] = field(default_factory=list)
    """pictures a second, of each round"""
    cpu_ms: list[float] = field(default_factory=list)
    """processor time for each picture, of each round, milliseconds"""
    latencies_ms: list[float] = field(default_factory=list)
    """time of each batch, of all rounds, milliseconds"""
    shares: list[float] = field(default_factory=list)
    """how much of the processors that it could use it got, of each round, 0 to about 1"""

    def percentile_ms(self, part: float) -> float:
        """The time that this part (0–1) of all batches did not exceed, milliseconds."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over rounds, with the 95 % interval of the bootstrap."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Faster:
    """How many times faster one engine is than another."""

    times: Estimate
    by_cpu: bool
    """by processor time, since other programs took the processors, and not by pictures a second"""


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
    """Run each engine for a round, in turns, with as many batches in flight as it has.

    Args:
        engines: by any name; warmed up here. Nothing else may use them meanwhile.
        frames: what their slots hold; without any, noise (the time of a network hardly depends on it).
        batch: pictures in a batch.
        threads: of each batch, as the engines were opened.
        rounds: how often each has its turn; the order is reversed every time.
        round_s: how long a turn is, at least; one batch is always run to its end.
        clock: of the times.
        cpu_ns: processor time of this process so far.
        stop: asked before each turn; what was measured until then is returned.

    Raises:
        EngineError: an engine fails, or does not run that batch.
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
    """The median of some rounds and how sure it is; the same values always give the same interval."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    cut = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Estimate(statistics.median(values), medians[cut], medians[-1 - cut])


def faster(mine: SpeedRounds, other: SpeedRounds) -> Faster:
    """How many times faster one is than the other, round by round.

    Where other programs left one of the two less than :data:`UNDISTURBED` of the processors, pictures a second tell more of those
    programs than of the engines. Then the processor time of a picture is compared.
    """
    by_cpu = min(statistics.median(mine.shares), statistics.median(other.shares)) < UNDISTURBED
    pairs = zip(other.cpu_ms, mine.cpu_ms, strict=True) if by_cpu else zip(mine.fps, other.fps, strict=True)
    return Faster(estimate([one / two for one, two in pairs]), by_cpu)


def measure_opening(open_it: Callable[[], Engine], clock: Clock = SYSTEM_CLOCK) -> tuple[Engine, float, int | None]:
    """Open an engine and warm it up.

    Returns:
        The engine; how long that took, seconds; and by how much it made this process grow, bytes (None where that is not told).
        What the process had freed before and is used again does not count: measure in a fresh process for a figure to print.
    """
    before, started = resident_bytes(), clock.monotonic_ns()
    engine = open_it()
    try:
        engine.warm_up()
    except BaseException:
        engine.__exit__(None, None, None)
        raise
    seconds = (clock.monotonic_ns() - started) / NS_PER_S
    after = resident_bytes()
    return engine, seconds, None if before is None or after is None else max(0, after - before)


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Memory of this process, bytes; None where the system does not tell."""
    try:
        return int(statm.read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return None


def _fill(engine: Engine, batch: int, frames: Frames) -> None:
    """Put pictures into all buffers; they stay there from loan to loan."""
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


def _run_round(engine: Engine, into: SpeedRounds, length_ns: int, cores: int, clock: Clock, cpu_ns: Callable[[], int]) -> None:
    """One turn: a thread for each batch in flight, as the pipeline has them; with one it is the caller's own."""
    started, cpu_started = clock.monotonic_ns(), cpu_ns()
    until = started + length_ns
    latencies: list[int] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            while True:
                begin = clock.monotonic_ns()
                engine.collect(engine.submit(engine.lend(into.batch)))
                end = clock.monotonic_ns()
                latencies.append(end - begin)
                if end >= until or failed:
                    return
        except Exception as error:  # noqa: BLE001 - a thread is a boundary: it is raised by who waits for it
            failed.append(error)

    threads = [threading.Thread(target=work, name=f"measure-{number}") for number in range(1, engine.in_flight)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0] if isinstance(failed[0], EngineError) else EngineError(f"{engine.name}: {failed[0]}") from failed[0]
    pictures = len(latencies) * into.batch
    wall_ns, used_ns = max(1, clock.monotonic_ns() - started), max(1, cpu_ns() - cpu_started)
    into.fps.append(pictures * NS_PER_S / wall_ns)
    into.cpu_ms.append(used_ns / NS_PER_MS / pictures)
    into.shares.append(used_ns / wall_ns / cores)
    into.latencies_ms.extend(latency / NS_PER_MS for latency in latencies)
