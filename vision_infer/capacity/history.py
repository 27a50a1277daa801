"""Earlier benches, a line of JSON each, and what has become slower since the last one by more than the noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from vision_infer.capacity.report import BenchReport, Interval
from vision_infer.core.errors import OutputError, UsageError

FILE = "bench.jsonl"
"""below the user's own folder"""
LINE_MOST = 1_000_000
"""bytes; what is longer is no bench"""
KEPT = 500
"""lines; older ones go when one is added"""


def read_history(path: Path) -> list[BenchReport]:
    """All benches of a file, oldest first; a line that cannot be read (of a later version, cut off) is left out.

    Raises:
        UsageError: the file is there, and cannot be read.
    """
    try:
        with path.open("rb") as file:
            lines = [line for line in file if len(line) <= LINE_MOST]
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


def last_like(history: Sequence[BenchReport], report: BenchReport) -> BenchReport | None:
    """The last whole bench of the same machine with the same settings."""
    return next((one for one in reversed(history) if one.key == report.key and not one.interrupted), None)


def changes(before: BenchReport, after: BenchReport) -> list[str]:
    """What has become slower or faster, a sentence each; what differs by less than the noise is not among it.

    CPU time is compared, which other programs disturb least.
    """
    old = dict(_costs(before))
    found = []
    for name, now in _costs(after):
        then = old.get(name)
        if then is not None and then.median > 0 and now.apart(then):
            change = now.median / then.median - 1
            word = "slower" if change > 0 else "faster"
            found.append(
                f"{name} has become {word}: {then.median:.2f} → {now.median:.2f} ms of CPU ({change:+.0%}, "
                f"intervals {then.low:.2f}–{then.high:.2f} and {now.low:.2f}–{now.high:.2f})"
            )
    return found


def _costs(report: BenchReport) -> Iterator[tuple[str, Interval]]:
    for row in report.decode:
        yield f"decoding {row.codec} {row.width}x{row.height} ({row.where})", row.cpu_ms
    for one in report.convert:
        yield f"conversion of {one.width}x{one.height}", one.cpu_ms
    for engine in report.engines:
        yield f"{engine.engine} at batch {engine.batch}", engine.cpu_ms
