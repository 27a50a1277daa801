"""What a device's memory holds, with so many cameras."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.capacity.costs import BenchEngine, mbit_of
from vision_infer.capacity.need import Need
from vision_infer.capacity.report import BenchReport

PROGRAM_BYTES = 150_000_000
"""the program with its libraries, where it was not measured"""
SURFACES = 8
"""pictures that a decoder and a mailbox hold of a stream, where it was not measured"""
KEY_INTERVAL_S = 4.0
"""a viewer begins with the last key frame: the packets since then are kept of a camera that is watched"""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes, by what holds them."""

    program: int
    engine: int
    """weights and what the runtime adds"""
    activations: int
    """input and output buffers of all batches in flight"""
    streams: int
    """decoders' surfaces, and pictures on their way"""
    preview: int
    total: int | None
    """that the device has; None where it is not known"""
    measured: bool
    """what a stream takes was measured, and not reckoned"""

    @property
    def needed(self) -> int:
        """All together."""
        return self.program + self.engine + self.activations + self.streams + self.preview

    def over(self, share: float) -> bool:
        """Whether it takes more than this share of what there is."""
        return self.total is not None and self.needed > self.total * share


def memory_of(report: BenchReport, need: Need, engine: BenchEngine, batch: int, cameras: int) -> MemoryNeed:
    """The memory of so many cameras on one device."""
    row = min((one for one in engine.rows if one.batch >= batch), key=lambda one: one.batch, default=engine.rows[-1])
    loaded = row.memory_bytes or 0
    activations = min(row.buffer_bytes, loaded) if loaded else row.buffer_bytes
    each, program = _measured(report, need)
    video = need.video
    reckoned = SURFACES * video.width * video.height * 3 // 2
    watched = min(need.viewers, cameras)
    mbit = mbit_of(report, need) or 0.0
    return MemoryNeed(
        program=PROGRAM_BYTES if program is None else program,
        engine=max(0, loaded - activations),
        activations=activations,
        streams=cameras * (reckoned if each is None else each),
        preview=int(watched * mbit * 1e6 / 8 * KEY_INTERVAL_S),
        total=report.machine.memory_bytes,
        measured=each is not None,
    )


def _measured(report: BenchReport, need: Need) -> tuple[int | None, int | None]:
    """What a stream takes and what the program takes, from how the bench grew with its streams; None where it cannot be told."""
    asked = report.settings
    rows = [(row.streams, row.rss_bytes) for row in report.pipeline if row.rss_bytes is not None]
    same = (asked.width, asked.height) == (need.video.width, need.video.height)
    if len(rows) < 2 or not same or rows[-1][0] - rows[0][0] < 3:
        return None, None
    (few, low), (many, high) = rows[0], rows[-1]
    each = (high - low) // (many - few)
    ran = report.pipeline[0].engine
    engine = next((row.memory_bytes or 0 for row in report.engines if row.engine == ran and row.batch == 1), 0)
    # What the engines that were measured before have left behind is in it: it is an upper bound.
    return (each, max(PROGRAM_BYTES, low - few * each - engine)) if each > 0 else (None, None)
