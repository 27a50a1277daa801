"""Parquet files of a service that runs for months.

A Parquet file can be read only once its end is written. Until a file is finished, its rows are in small whole files, *parts*, in
a hidden folder: ``NAME-20261124T180000Z.parquet`` is made of ``.NAME-20261124T180000Z.parquet.parts/000001.parquet`` and so on.
A process that is killed leaves parts; the next start makes the file of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vision_infer.sink.archive.rotation import PARTS, next_name
from vision_infer.sink.files.parquet import ROWS_PER_GROUP


class PartsError(OSError):
    """The parts cannot be read: they were changed, or the disk failed."""


class Parts:
    """The parts of one unfinished file.

    Args:
        path: The path from the settings, ``NAME.parquet``.
        wall_ns: The time at which the file begins, nanoseconds since 1970 (UTC); if the time is taken, a number is added.

    Raises:
        OSError: The folder cannot be created.
    """

    def __init__(self, path: Path, wall_ns: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.final = next_name(path, wall_ns)
        self.folder = self.final.with_name(f".{self.final.name}{PARTS}")
        self.folder.mkdir()
        self.size = 0
        """The size of all parts, bytes."""
        self._count = 0

    def add(self, table: Any) -> None:
        """Write rows as a part, which is whole and on the disk afterwards, or does not exist.

        Raises:
            OSError: It cannot be written.
        """
        import pyarrow.parquet as pq

        path = self.folder / f"{self._count + 1:06d}.parquet"
        partial = path.with_suffix(".partial")
        try:
            pq.write_table(table, partial, compression="zstd")
            _to_disk(partial)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
        self._count += 1
        self.size += path.stat().st_size


def finish(folder: Path, between: Callable[[], None]) -> None:
    """Make a file of the parts in a folder, if there are any, and delete the folder.

    Args:
        folder: The folder, as in :attr:`Parts.folder`.
        between: A function that is called repeatedly meanwhile.

    Raises:
        PartsError: None of the parts can be read; they are left as they are.
        OSError: The file cannot be written; the parts are left.
    """
    import pyarrow.parquet as pq

    final = folder.with_name(folder.name.removeprefix(".").removesuffix(PARTS))
    parts = sorted(folder.glob("*.parquet"))
    if final.exists() or not parts:  # final exists: a kill came before the parts were deleted
        shutil.rmtree(folder)
        return
    partial = final.with_name(f".{final.name}.partial")
    writer: Any = None
    try:
        for table in _groups(parts, between):
            if writer is None:
                writer = pq.ParquetWriter(partial, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            between()
        if writer is None:
            raise PartsError(f"{folder}: no part can be read")
        writer.close()
        _to_disk(partial)
        partial.replace(final)
        _to_disk(final.parent)
    except BaseException:
        if writer is not None:
            with suppress(OSError):
                writer.close()
        with suppress(OSError):
            partial.unlink()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _groups(parts: list[Path], between: Callable[[], None]) -> Iterator[Any]:
    """Yield tables that are large enough for a row group, except the last; unreadable parts are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[Any] = []
    rows = 0
    for part in parts:
        between()
        try:
            table = pq.read_table(part)
        except (OSError, pa.ArrowInvalid):
            continue
        if waiting and table.schema != waiting[0].schema:
            continue
        waiting.append(table)
        rows += len(table)
        if rows >= ROWS_PER_GROUP:
            yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()


def _to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
