"""Earlier benches, a line of JSON each, and what has become slower since the last one by more than the noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from vision_infer.capacity.report import BenchInterval, BenchReport
from vision_infer.core.errors import OutputError, UsageError

FILE = "bench.jsonl"
"""below the user's own folder"""
MAX_LINE = 1_000_000
"""bytes; what is longer is no bench"""
KEPT = 500
"""lines; older ones go when one is added"""
COMPARED = 5
"""earlier benches that a new one is compared with"""
FLOOR = 0.05
"""by which two benches differ where nothing has changed: clocks, caches and places in memory"""


def read_history(path: Path) -> list[BenchReport]:
    """All benches of a file, oldest first; a line that cannot be read (of a later version, cut off) is left out.

    Raises:
        UsageError: the file is there, and cannot be read.
    """
    try:
        with path.open("rb") as file:
            lines = [line for line in file if len(line) <= MAX_LINE]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "name another file with --history") from error
    found: list[BenchReport] = []
    for line in lines:
        try:
            found.append(BenchReport.model_validate_json(line))
        except ValidationError:
            continue
    return found


def add_to_history(path: Path, report: BenchReport) -> None:
    """Add a bench; the file is written anew where it has grown too long.

    Raises:
        OutputError: it cannot be written.
    """
    line = report.model_dump_json() + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(line.encode())
        lines = path.read_bytes().splitlines(keepends=True)
        if len(lines) > KEPT:
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(b"".join(lines[-KEPT:]))
            part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}", "name another file with --history") from error


def like(history: Sequence[BenchReport], report: BenchReport) -> list[BenchReport]:
    """The last few benches that this one may be compared with, newest first: same machine, same settings, whole, undisturbed."""
    return [one for one in reversed(history) if one.key == report.key and one.comparable][:COMPARED]


def changes(earlier: Sequence[BenchReport], now: BenchReport) -> list[str]:
    """What has become slower or faster than in all of some earlier benches, a sentence each.

    CPU time is compared, which other programs disturb least. What lies within the intervals of any of them, or differs from all
    of them by less than :data:`FLOOR`, is noise: rounds of one bench lie closer together than two benches do.

    Args:
        earlier: as :func:`like` gives them.
        now: the new one.
    """
    before: dict[str, list[BenchInterval]] = defaultdict(list)
    for report in earlier:
        for name, interval in _costs(report):
            before[name].append(interval)
    found = []
    for name, new in _costs(now):
        known = before[name]
        if not known:
            continue
        low, high = min(one.low for one in known), max(one.high for one in known)
        if new.low > high * (1 + FLOOR) or new.high < low * (1 - FLOOR):
            then = known[0].median
            word = "slower" if new.median > then else "faster"
            found.append(
                f"{name} has become {word}: {then:.2f} → {new.median:.2f} ms of CPU ({new.median / then - 1:+.0%}; "
                f"it was {low:.2f}–{high:.2f} and is {new.low:.2f}–{new.high:.2f})"
            )
    return found


def _costs(report: BenchReport) -> Iterator[tuple[str, BenchInterval]]:
    for row in report.decode:
        yield f"decoding {row.codec} {row.width}x{row.height} ({row.where})", row.cpu_ms
    for one in report.convert:
        yield f"conversion of {one.width}x{one.height}", one.cpu_ms
    for engine in report.engines:
        yield f"{engine.engine} at batch {engine.batch}", engine.cpu_ms
