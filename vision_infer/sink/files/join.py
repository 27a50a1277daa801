"""Joins the output files of the segments of a video into the file that one run over the whole video writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path


def _join_lines(parts: Sequence[Path], path: Path) -> None:
    with path.open("wb") as joined:
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, joined)


def _join_csv(parts: Sequence[Path], path: Path) -> None:
    with path.open("wb") as joined:
        for number, part in enumerate(parts):
            with part.open("rb") as lines:
                header = lines.readline()
                joined.write(b"" if number else header)
                shutil.copyfileobj(lines, joined)


def _join_parquet(parts: Sequence[Path], path: Path) -> None:
    """Copy one row group after the other, so that memory does not depend on the length of the video."""
    from pyarrow import parquet

    # A segment without detections has the columns of a detector, whatever the model is.
    filled = [part for part in parts if parquet.read_metadata(part).num_rows] or parts[:1]
    with parquet.ParquetWriter(path, parquet.read_schema(filled[0]), compression="zstd") as writer:
        for part in filled:
            with parquet.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(number))


JOIN: dict[str, Callable[[Sequence[Path], Path], None]] = {
    "jsonl": _join_lines,
    "csv": _join_csv,
    "mot": _join_lines,
    "parquet": _join_parquet,
}
"""The functions that join files, by the kind of output; they take the parts in order, and the path of the whole.

All rows of these kinds are about one frame. Parquet gets the same table, with smaller row groups."""
