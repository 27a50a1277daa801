"""Derive the cost of each step under load from a benchmark, also for video that it did not measure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vision_infer.capacity.need import Need
from vision_infer.capacity.report import OTHERS_DISTURB, BenchInterval, BenchReport, ConvertRow, DecodeRow, EngineRow, PipelineRow
from vision_infer.capacity.simulate import StepCosts

REST_MS = 0.5
"""The assumed CPU time per result for selection, order and rows, if no streams were measured."""
MAX_DELAY_MS = 5.0
ABOUT_AS_BUSY = 0.85
"""Runs that used at least this share of the cores of the busiest run are combined with it."""
STREAM_MS = 0.3
"""The assumed CPU time of a stream's thread besides decoding, if no streams were measured."""


@dataclass(frozen=True, slots=True)
class BenchEngine:
    """An engine of a benchmark, with all measured batch sizes."""

    name: str
    rows: tuple[EngineRow, ...]

    @property
    def accelerator(self) -> bool:
        """Whether it runs on an accelerator."""
        return "-cpu-" not in self.name

    @property
    def precision(self) -> str:
        """The precision of the graph."""
        return self.name.rpartition("-")[2]

    @property
    def runtime(self) -> str:
        """The name of the runtime."""
        return self.name.rsplit("-", 2)[0]


@dataclass(frozen=True, slots=True)
class Load:
    """The additional costs of running streams, compared with the separate measurements."""

    stream_ms: float
    """The CPU time of a stream's thread per frame besides decoding, in milliseconds."""
    rest_ms: float
    inference: float
    """The factor by which conversion and engine take longer than in the separate measurement."""
    alone: float
    """The factor by which a core is faster while the others are idle."""
    delay_ms: float
    """The delay of each result between threads, in milliseconds."""
    assumed: bool
    """Whether no streams were measured, so that these values are assumptions."""
    correction: float = 1.0
    """The factor for all costs with which the simulation supports as many streams as were measured."""


def engines_of(report: BenchReport, need: Need) -> list[BenchEngine]:
    """Return the engines with the wanted precision, runtime and accuracy, fastest first.

    An engine without a measured loss is used only if its precision is requested explicitly.
    """
    found = []
    for name in dict.fromkeys(row.engine for row in report.engines):
        rows = sorted((row for row in report.engines if row.engine == name), key=lambda row: row.batch)
        engine, loss = BenchEngine(name, tuple(rows)), rows[0].loss_points
        asked = need.precision == engine.precision
        good = asked if loss is None else loss <= need.loss_points
        if good and (asked or need.precision == "auto") and need.runtime in ("auto", engine.runtime):
            found.append(engine)
    return sorted(found, key=lambda engine: (not engine.accelerator, min(row.cpu_ms.median for row in engine.rows)))


def load_of(report: BenchReport) -> Load:
    """Return the additional costs of running streams: the median of the busiest runs."""
    if not report.pipeline:
        return Load(STREAM_MS, REST_MS, 1.0, 1.0, 0.0, True)
    busiest = _median_of_busy(_quiet(report.pipeline, report.machine.cores))
    asked = report.settings
    size = (asked.width, asked.height)
    decoding = _decode_row(report.decode, asked.codec, *size)
    converting = next((row for row in report.convert if (row.width, row.height) == size), None)
    engine = next((row for row in report.engines if row.engine == busiest.engine and row.batch == 1), None)
    separate = 0.0 if converting is None or engine is None else converting.cpu_ms.median + engine.cpu_ms.median
    first = report.pipeline[0]
    alone = busiest.inference_ms / first.inference_ms if first.streams < busiest.streams and first.inference_ms else 1.0
    return Load(
        stream_ms=max(0.05, busiest.stream_ms - (0.0 if decoding is None else decoding.cpu_ms.median)),
        rest_ms=busiest.rest_ms,
        inference=_within(busiest.inference_ms / separate, 0.7, 1.8) if separate else 1.0,
        alone=_within(alone, 1.0, 2.0),
        delay_ms=_delay_ms(first, busiest, _within(alone, 1.0, 2.0), report, decoding),
        assumed=False,
    )


def _delay_ms(first: PipelineRow, busiest: PipelineRow, alone: float, report: BenchReport, decoding: DecodeRow | None) -> float:
    """Return the age of a single stream's results besides its steps; 0 if other programs disturbed the run."""
    if first.streams != 1 or first.other_cores > OTHERS_DISTURB * report.machine.cores or "-cpu-" not in first.engine:
        return 0.0
    # The median age is that of a frame whose decoding takes the median time, which is less than the mean time.
    less = 0.0 if decoding is None or not decoding.pattern else decoding.cpu_ms.median * (1 - statistics.median(decoding.pattern))
    steps = (busiest.stream_ms - less + busiest.inference_ms + busiest.rest_ms) / alone
    return _within(first.age_p50_ms - steps, 0.0, MAX_DELAY_MS)


def costs_of(report: BenchReport, need: Need, engine: BenchEngine, load: Load) -> StepCosts | None:
    """Return the cost of each step; None if the benchmark has no such video."""
    video = need.video
    hardware = _decode_row([row for row in report.decode if row.where == "nvdec"], video.codec, video.width, video.height)
    software = _decode_row([row for row in report.decode if row.where == "cpu"], video.codec, video.width, video.height)
    tiles = need.tiles_of_frame()
    each = [_convert_ms(report.convert, tile.size.width, tile.size.height) for tile in tiles]
    convert = None if None in each else statistics.fmean(one for one in each if one is not None)
    if (hardware is None and software is None) or convert is None:
        return None
    on_gpu = engine.accelerator and hardware is not None
    row = hardware if on_gpu else software or hardware
    assert row is not None
    alone = 1000 / row.fps.median if on_gpu else row.cpu_ms.median
    decode = alone + (0.0 if on_gpu else load.stream_ms)
    batches = {
        one.batch: load.correction
        * (1000 * one.batch / one.fps.median if engine.accelerator else one.cpu_ms.median * one.batch * load.inference)
        for one in engine.rows
    }
    first = engine.rows[0]
    # Without the last quantile: the slowest of some hundred batches depends on the machine, not the engine.
    spread = first.spread[:-1] if first.utilization > 0.8 or engine.accelerator else ()
    return StepCosts(
        decode_ms=decode * load.correction,
        convert_ms=(convert * load.inference + (first.cpu_ms.median if engine.accelerator else 0.0)) * load.correction,
        engine_ms=batches,
        slots=len(tiles),
        rest_ms=load.rest_ms * load.correction,
        in_flight=first.in_flight,
        spread=spread or (1.0,),
        alone=load.alone,
        delay_ms=load.delay_ms,
        accelerator=engine.accelerator,
        decoders=1 if on_gpu else 0,
        # The thread's work besides decoding is the same for each frame.
        decode_pattern=tuple(1 + (part - 1) * alone / decode for part in row.pattern) or (1.0,),
    )


def knows_size(report: BenchReport, need: Need) -> bool:
    """Return whether this size of video was measured, not estimated from another one."""
    video = need.video
    return any((row.codec, row.width, row.height) == (video.codec, video.width, video.height) for row in report.decode)


def mbit_of(report: BenchReport, need: Need) -> float | None:
    """Return the bit rate of one camera, in Mbit/s."""
    if need.video.mbit_s is not None:
        return need.video.mbit_s
    row = _decode_row(report.decode, need.video.codec, need.video.width, need.video.height)
    return None if row is None else row.mbit_s


def _decode_row(rows: Iterable[DecodeRow], codec: str, width: int, height: int) -> DecodeRow | None:
    """Return the row of this video, or that of the nearest size, scaled by the number of pixels."""
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
    """Return the time of conversion, interpolated by the number of pixels, because each pixel is read once."""
    pixels = width * height
    known = sorted((row.width * row.height, row.cpu_ms.median) for row in rows)
    if not known:
        return None
    if len(known) == 1 or any(count == pixels for count, _ in known):
        return min(known, key=lambda entry: abs(entry[0] - pixels))[1]
    (x0, y0), (x1, y1) = sorted(known, key=lambda entry: abs(entry[0] - pixels))[:2]
    return max(0.05, y0 + (y1 - y0) * (pixels - x0) / (x1 - x0))


def _quiet(rows: Sequence[PipelineRow], cores: int) -> Sequence[PipelineRow]:
    """Return the runs with little load from other programs, or all if there are none."""
    return [row for row in rows if row.other_cores <= OTHERS_DISTURB * cores] or rows


def _median_of_busy(rows: Sequence[PipelineRow]) -> PipelineRow:
    """Return the busiest run with the medians of all similarly busy runs, because a single one lasts only seconds."""
    most = max(rows, key=lambda row: row.cpu_cores)
    busy = [row for row in rows if row.cpu_cores >= ABOUT_AS_BUSY * most.cpu_cores]
    costs = ("stream_ms", "inference_ms", "rest_ms")
    return most.model_copy(update={name: statistics.median(getattr(row, name) for row in busy) for name in costs})


def _times(found: BenchInterval, factor: float) -> BenchInterval:
    return BenchInterval(median=found.median * factor, low=found.low * factor, high=found.high * factor)


def _within(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))
