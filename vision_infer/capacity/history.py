"""The history of benchmarks, one JSON line each, and changes larger than the noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from vision_infer.capacity.report import BenchInterval, BenchReport
from vision_infer.core.errors import OutputError, UsageError

FILE = "bench.jsonl"
"""The file name in the user's folder."""
MAX_LINE = 1_000_000
"""The maximum length of a line, in bytes."""
KEPT = 500
"""The maximum number of lines; older ones are removed."""
COMPARED = 5
"""The number of earlier benchmarks to compare with."""
FLOOR = 0.05
"""The relative difference of two benchmarks without any change, due to clocks, caches and memory layout."""


def read_history(path: Path) -> list[BenchReport]:
    """Read all benchmarks of a file, oldest first. Invalid lines, such as those of a later version, are skipped.

    Raises:
        UsageError: The file exists but cannot be read.
    """
    try:
        with path.open("rb") as file:
            lines = [line for line in file if len(line) <= MAX_LINE]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "Use another file for --history.") from error
    found: list[BenchReport] = []
    for line in lines:
        try:
            found.append(BenchReport.model_validate_json(line))
        except ValidationError:
            continue
    return found


def add_to_history(path: Path, report: BenchReport) -> None:
    """Add a benchmark, and shorten the file if it is too long.

    Raises:
        OutputError: The file cannot be written.
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
        raise OutputError(f"{path}: cannot be written: {error.strerror}", "Use another file for --history.") from error


def like(history: Sequence[BenchReport], report: BenchReport) -> list[BenchReport]:
    """Return the last comparable benchmarks, newest first: same machine and settings, complete and undisturbed."""
    return [earlier for earlier in reversed(history) if earlier.key == report.key and earlier.comparable][:COMPARED]


def changes(earlier: Sequence[BenchReport], now: BenchReport) -> list[str]:
    """Return what is slower or faster than in all earlier benchmarks (from :func:`like`), one sentence each.

    CPU time is compared, because other programs affect it least. Differences within any of the intervals, or smaller than
    :data:`FLOOR`, are noise: the rounds of one benchmark vary less than two benchmarks do.
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
        low, high = min(interval.low for interval in known), max(interval.high for interval in known)
        if new.low > high * (1 + FLOOR) or new.high < low * (1 - FLOOR):
            then = known[0].median
            word = "slower" if new.median > then else "faster"
            found.append(
                f"{name} is {word}: {then:.2f} → {new.median:.2f} ms of CPU ({new.median / then - 1:+.0%}; "
                f"it was {low:.2f}–{high:.2f} and is {new.low:.2f}–{new.high:.2f})"
            )
    return found


def _costs(report: BenchReport) -> Iterator[tuple[str, BenchInterval]]:
    for row in report.decode:
        yield f"decoding {row.codec} {row.width}x{row.height} ({row.where})", row.cpu_ms
    for size in report.convert:
        yield f"conversion of {size.width}x{size.height}", size.cpu_ms
    for engine in report.engines:
        yield f"{engine.engine} at batch {engine.batch}", engine.cpu_ms
