"""Estimate the memory of a device for a number of cameras."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.capacity.costs import BenchEngine, mbit_of
from vision_infer.capacity.need import Need
from vision_infer.capacity.report import BenchReport

PROGRAM_BYTES = 150_000_000
"""The assumed size of the program with its libraries, if it was not measured."""
SURFACES = 8
"""The assumed number of images of a stream in the decoder and the mailbox, if not measured."""
KEY_INTERVAL_S = 4.0
"""A viewer starts at the last key frame, so the packets since then are buffered for each watched camera."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The memory in bytes by purpose."""

    program: int
    engine: int
    """The weights and the runtime's own memory."""
    activations: int
    """The input and output buffers of all batches in flight."""
    streams: int
    """The surfaces of decoders, and images in flight."""
    preview: int
    total: int | None
    """The memory of the device; None if unknown."""
    measured: bool
    """Whether the memory of a stream was measured, not calculated."""

    @property
    def needed(self) -> int:
        """The total memory needed."""
        return self.program + self.engine + self.activations + self.streams + self.preview

    def over(self, share: float) -> bool:
        """Return whether more than this share of the device's memory is needed."""
        return self.total is not None and self.needed > self.total * share


def memory_of(report: BenchReport, need: Need, engine: BenchEngine, batch: int, cameras: int) -> MemoryNeed:
    """Return the memory for a number of cameras on one device."""
    row = min((row for row in engine.rows if row.batch >= batch), key=lambda row: row.batch, default=engine.rows[-1])
    loaded = row.memory_bytes or 0
    activations = min(row.buffer_bytes, loaded) if loaded else row.buffer_bytes
    each, program = _measured(report, need)
    video = need.video
    calculated = SURFACES * video.width * video.height * 3 // 2
    watched = min(need.viewers, cameras)
    mbit = mbit_of(report, need) or 0.0
    return MemoryNeed(
        program=PROGRAM_BYTES if program is None else program,
        engine=max(0, loaded - activations),
        activations=activations,
        streams=cameras * (calculated if each is None else each),
        preview=int(watched * mbit * 1e6 / 8 * KEY_INTERVAL_S),
        total=report.machine.memory_bytes,
        measured=each is not None,
    )


def _measured(report: BenchReport, need: Need) -> tuple[int | None, int | None]:
    """Return the memory of a stream and of the program, from the growth during the benchmark; None if unknown."""
    asked = report.settings
    rows = [(row.streams, row.rss_bytes) for row in report.pipeline if row.rss_bytes is not None]
    same = (asked.width, asked.height) == (need.video.width, need.video.height)
    if len(rows) < 2 or not same or rows[-1][0] - rows[0][0] < 3:
        return None, None
    (few, low), (many, high) = rows[0], rows[-1]
    each = (high - low) // (many - few)
    ran = report.pipeline[0].engine
    engine = next((row.memory_bytes or 0 for row in report.engines if row.engine == ran and row.batch == 1), 0)
    # An upper bound: it includes leftovers of the engines that were measured before.
    return (each, max(PROGRAM_BYTES, low - few * each - engine)) if each > 0 else (None, None)
