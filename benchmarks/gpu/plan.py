"""Run the parts of a plan in order: write each row as it is measured, stop when the time is used up, print a table.

Standard library only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Step = tuple[str, Callable[[], Iterable[Row]]]
"""A name, and a function that measures and returns rows. It may take long; everything else of a part must not."""
Part = Callable[[], Iterable[Step]]
"""Yields steps. Each step has run, failed or been left out before the next one is requested."""
NO_TIME = "the time is used up"
_MAX_CELL = 60


class Rows:
    """A file of JSON lines to which rows are added. A row is on the disk before the next one is measured.

    Args:
        path: The file; earlier rows stay.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.written: list[Row] = []
        """The rows of this run."""

    def add(self, row: Row) -> None:
        """Write a row and print it."""
        self.written.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())
        shown = (f"{key} {_cell(row[key])}" for key in row if key not in ("part", "step") and row[key] is not None)
        print(f"  {row.get('step', row['part'])}:", "  ".join(shown), flush=True)


def run_parts(
    parts: Mapping[str, Part], rows: Rows, minutes: float | None = None, clock: Callable[[], float] = time.monotonic
) -> int:
    """Run the parts. A step or a part that fails does not end the others.

    A step begins only if there is as much time left as the longest step of its part has taken.

    Args:
        parts: The parts by name, in order.
        rows: Receives the rows, each with the names of its part and step, and one row for each step that failed or was left out.
        minutes: The time for all parts, minutes; None: no limit.
        clock: Returns the time, seconds.

    Returns:
        The number of steps and parts that failed.
    """
    end = None if minutes is None else clock() + 60 * minutes
    failed = 0
    for name, part in parts.items():
        print(f"{name}:", flush=True)
        longest = 0.0
        try:
            for step, measure in part():
                names, began = {"part": name, "step": step}, clock()
                if end is not None and began + longest >= end:
                    rows.add({**names, "left_out": NO_TIME})
                    continue
                try:
                    for row in measure():
                        rows.add({**names, **row})
                except Exception as error:  # noqa: BLE001 - any failure: the other steps must still run
                    failed += 1
                    rows.add({**names, "failed": _explain(error)})
                longest = max(longest, clock() - began)
        except Exception as error:  # noqa: BLE001 - any failure: the other parts must still run
            failed += 1
            rows.add({"part": name, "failed": _explain(error)})
    return failed


def tables(rows: Sequence[Row]) -> str:
    """Return a table for each part: a column for each key of its rows that has a plain value."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(str(row["part"]), []).append(row)
    return "\n\n".join(_table(name, part) for name, part in parts.items())


def _table(name: str, rows: Sequence[Row]) -> str:
    keys = dict.fromkeys(
        key for row in rows for key, value in row.items() if key != "part" and not isinstance(value, (dict, list))
    )
    lines = [[*keys], *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join([name, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)])


def _cell(value: object) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"


def _explain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
