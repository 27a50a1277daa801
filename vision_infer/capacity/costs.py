"""From what a bench measured to what each step costs under load, for a need that the bench need not have run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vision_infer.capacity.need import Need
from vision_infer.capacity.report import OTHERS_DISTURB, BenchInterval, BenchReport, ConvertRow, DecodeRow, EngineRow, PipelineRow
from vision_infer.capacity.simulate import StepCosts

REST_MS = 0.5
"""for each result, where no stream was run: selection, order, rows"""
MAX_DELAY_MS = 5.0
ABOUT_AS_BUSY = 0.85
"""of the cores that the busiest run used"""
STREAM_MS = 0.3
"""of a stream's thread besides decoding, where no stream was run"""


@dataclass(frozen=True, slots=True)
class BenchEngine:
    """One engine of a bench, with all the batch sizes that it was measured at."""

    name: str
    rows: tuple[EngineRow, ...]

    @property
    def accelerator(self) -> bool:
        """Whether it does not run on the processor."""
        return "-cpu-" not in self.name

    @property
    def precision(self) -> str:
        """Of its arithmetic."""
        return self.name.rpartition("-")[2]

    @property
    def runtime(self) -> str:
        """What runs it."""
        return self.name.rsplit("-", 2)[0]

    @property
    def largest_batch(self) -> int:
        """That was measured."""
        return self.rows[-1].batch


@dataclass(frozen=True, slots=True)
class Load:
    """What running streams adds to the parts that were measured by themselves."""

    stream_ms: float
    """a stream's thread, besides decoding"""
    rest_ms: float
    inference: float
    """how much longer conversion and engine take than by themselves, as a factor"""
    alone: float
    """how much faster a core is while it is the only one that works"""
    delay_ms: float
    """from thread to thread, of each result: what an age has besides the steps"""
    assumed: bool
    """no stream was run: these are guesses"""


def engines_of(report: BenchReport, need: Need) -> list[BenchEngine]:
    """The engines that may be taken, fastest first: of the precision and runtime that are wanted, and good enough.

    An engine whose loss was never proven is taken only where its precision is asked for by name.
    """
    found = []
    for name in dict.fromkeys(row.engine for row in report.engines):
        rows = sorted((row for row in report.engines if row.engine == name), key=lambda row: row.batch)
        engine, loss = BenchEngine(name, tuple(rows)), rows[0].loss_points
        asked = need.precision == engine.precision
        good = asked if loss is None else loss <= need.loss_points
        if good and (asked or need.precision == "auto") and need.runtime in ("auto", engine.runtime):
            found.append(engine)
    return sorted(found, key=lambda one: (not one.accelerator, min(row.cpu_ms.median for row in one.rows)))


def load_of(report: BenchReport) -> Load:
    """What running streams adds: the median of the runs that kept the processor about as busy as the busiest one did."""
    if not report.pipeline:
        return Load(STREAM_MS, REST_MS, 1.0, 1.0, 0.0, True)
    busiest = _median_of_busy(_quiet(report.pipeline, report.machine.cores))
    asked = report.settings
    size = (asked.width, asked.height)
    decoding = _decode_row(report.decode, asked.codec, *size)
    converting = next((row for row in report.convert if (row.width, row.height) == size), None)
    engine = next((row for row in report.engines if row.engine == busiest.engine and row.batch == 1), None)
    by_itself = 0.0 if converting is None or engine is None else converting.cpu_ms.median + engine.cpu_ms.median
    first = report.pipeline[0]
    alone = busiest.inference_ms / first.inference_ms if first.streams < busiest.streams and first.inference_ms else 1.0
    return Load(
        stream_ms=max(0.05, busiest.stream_ms - (0.0 if decoding is None else decoding.cpu_ms.median)),
        rest_ms=busiest.rest_ms,
        inference=_within(busiest.inference_ms / by_itself, 0.7, 1.8) if by_itself else 1.0,
        alone=_within(alone, 1.0, 2.0),
        delay_ms=_delay_ms(first, busiest, _within(alone, 1.0, 2.0), report),
        assumed=False,
    )


def _delay_ms(first: PipelineRow, busiest: PipelineRow, alone: float, report: BenchReport) -> float:
    """What the age of a single stream's results has besides its steps; 0 where others disturbed it."""
    if first.streams != 1 or first.other_cores > OTHERS_DISTURB * report.machine.cores or "-cpu-" not in first.engine:
        return 0.0
    steps = (busiest.stream_ms + busiest.inference_ms + busiest.rest_ms) / alone
    return _within(first.age_p50_ms - steps, 0.0, MAX_DELAY_MS)


def costs_of(report: BenchReport, need: Need, engine: BenchEngine, load: Load) -> StepCosts | None:
    """What each step costs; None where the bench knows nothing of this video."""
    video = need.video
    hardware = _decode_row([row for row in report.decode if row.where == "nvdec"], video.codec, video.width, video.height)
    software = _decode_row([row for row in report.decode if row.where == "cpu"], video.codec, video.width, video.height)
    convert = _convert_ms(report.convert, video.width, video.height)
    if (hardware is None and software is None) or convert is None:
        return None
    on_gpu = engine.accelerator and hardware is not None
    decode = 1000 / hardware.fps.median if on_gpu and hardware else (software or hardware).cpu_ms.median + load.stream_ms  # type: ignore[union-attr]
    batches = {
        row.batch: (1000 * row.batch / row.fps.median if engine.accelerator else row.cpu_ms.median * row.batch * load.inference)
        for row in engine.rows
    }
    first = engine.rows[0]
    return StepCosts(
        decode_ms=decode,
        convert_ms=convert * load.inference + (first.cpu_ms.median if engine.accelerator else 0.0),
        engine_ms=batches,
        rest_ms=load.rest_ms,
        in_flight=first.in_flight,
        spread=_plausible(first.spread) if first.utilisation > 0.8 or engine.accelerator else (1.0,),
        alone=load.alone,
        delay_ms=load.delay_ms,
        accelerator=engine.accelerator,
        decoders=1 if on_gpu else 0,
    )


def knows_size(report: BenchReport, need: Need) -> bool:
    """Whether the video was measured as it is, and not reckoned from another size."""
    video = need.video
    return any((row.codec, row.width, row.height) == (video.codec, video.width, video.height) for row in report.decode)


def mbit_of(report: BenchReport, need: Need) -> float | None:
    """Megabits a second of one camera."""
    if need.video.mbit_s is not None:
        return need.video.mbit_s
    row = _decode_row(report.decode, need.video.codec, need.video.width, need.video.height)
    return None if row is None else row.mbit_s


def _decode_row(rows: Iterable[DecodeRow], codec: str, width: int, height: int) -> DecodeRow | None:
    """The row of this video, or the one of the nearest size, in proportion to the pixels."""
    known = [row for row in rows if row.codec == codec]
    if not known:
        return None
    pixels = width * height
    row = min(known, key=lambda one: abs(one.width * one.height - pixels))
    share = pixels / (row.width * row.height)
    if share == 1:
        return row
    return row.model_copy(
        update={
            "width": width,
            "height": height,
            "mbit_s": round(row.mbit_s * share**0.75, 2),
            "cpu_ms": _times(row.cpu_ms, share),
            "fps": _times(row.fps, 1 / share),
        }
    )


def _convert_ms(rows: Sequence[ConvertRow], width: int, height: int) -> float | None:
    """Conversion reads each pixel once: between two sizes it goes with the pixels."""
    pixels = width * height
    known = sorted((row.width * row.height, row.cpu_ms.median) for row in rows)
    if not known:
        return None
    if len(known) == 1 or any(one == pixels for one, _ in known):
        return min(known, key=lambda one: abs(one[0] - pixels))[1]
    (x0, y0), (x1, y1) = sorted(known, key=lambda one: abs(one[0] - pixels))[:2]
    return max(0.05, y0 + (y1 - y0) * (pixels - x0) / (x1 - x0))


def _quiet(rows: Sequence[PipelineRow], cores: int) -> Sequence[PipelineRow]:
    """Those runs in which other programs did little; all, where that is none."""
    return [row for row in rows if row.other_cores <= OTHERS_DISTURB * cores] or rows


def _median_of_busy(rows: Sequence[PipelineRow]) -> PipelineRow:
    """The run with the most to do, with the medians of all those that had about as much: a single one is a few seconds long."""
    most = max(rows, key=lambda row: row.cpu_cores)
    busy = [row for row in rows if row.cpu_cores >= ABOUT_AS_BUSY * most.cpu_cores]
    costs = ("stream_ms", "inference_ms", "rest_ms")
    return most.model_copy(update={name: statistics.median(getattr(row, name) for row in busy) for name in costs})


def _plausible(spread: Sequence[float]) -> tuple[float, ...]:
    """Without the last one: the slowest of some hundred batches tells of the machine, not of the engine."""
    return tuple(spread[:-1]) or (1.0,)


def _times(found: BenchInterval, factor: float) -> BenchInterval:
    return BenchInterval(median=found.median * factor, low=found.low * factor, high=found.high * factor)


def _within(value: float, least: float, most: float) -> float:
    return min(most, max(least, value))
