"""Parquet files of a service that runs for months. A Parquet file can be read only once its end is written: so what is not
finished yet are small whole files, *parts*, in a hidden folder. When it is time they become one file, which takes its name then.

``NAME-20261124T180000Z.parquet`` is made of ``.NAME-20261124T180000Z.parquet.parts/000001.parquet`` and so on. Whoever is killed
leaves parts; the next start makes the file of them.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vision_infer.sink.archive.log_file import rotated_files

ROWS_OF_A_GROUP = 65_536
"""in finished files, where the parts together have so many"""
_SUFFIX = ".parts"


class PartsError(OSError):
    """Parts that cannot be read: somebody changed them, or the disk failed."""


class Parts:
    """The parts of one file that is not finished.

    Args:
        path: as in the settings, ``NAME.parquet``.
        wall_ns: when it begins, nanoseconds since 1970 (UTC); a time that is taken is followed by a number.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, path: Path, wall_ns: int) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_ns // 1_000_000_000))
        number = 1
        while True:
            name = f"{path.stem}-{stamp}" if number == 1 else f"{path.stem}-{stamp}-{number}"
            self.final = path.with_name(name + path.suffix)
            self.folder = self.final.with_name(f".{self.final.name}{_SUFFIX}")
            if not self.final.exists():
                with suppress(FileExistsError):
                    self.folder.mkdir(parents=True)
                    break
            number += 1
        self.size = 0
        """bytes of its parts"""
        self._count = 0

    def add(self, table: Any) -> None:
        """Write rows as a part; it is whole and on the disk afterwards, or it is not there.

        Raises:
            OSError: it cannot be written.
        """
        import pyarrow.parquet as pq

        place = self.folder / f"{self._count + 1:06d}.parquet"
        partial = place.with_suffix(".partial")
        try:
            pq.write_table(table, partial, compression="zstd")
            _to_disk(partial)
            partial.replace(place)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
        self._count += 1
        self.size += place.stat().st_size


def finish(folder: Path, between: Callable[[], None]) -> Path | None:
    """Make a file of the parts in a folder, and take the folder away.

    Args:
        folder: as of :attr:`Parts.folder`.
        between: called again and again meanwhile.

    Returns:
        the file; None where there was no part.

    Raises:
        PartsError: none of the parts can be read; they are left where they are.
        OSError: the file cannot be written; the parts are left.
    """
    import pyarrow.parquet as pq

    final = folder.with_name(folder.name.removeprefix(".").removesuffix(_SUFFIX))
    if final.exists():  # we were killed when it was done but for the parts
        shutil.rmtree(folder)
        return final
    parts = sorted(folder.glob("*.parquet"))
    if not parts:
        shutil.rmtree(folder)
        return None
    partial = final.with_name(f".{final.name}.partial")
    writer: Any = None
    try:
        for table in _groups(parts, between):
            if writer is None:
                writer = pq.ParquetWriter(partial, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROWS_OF_A_GROUP)
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
    return final


def _groups(parts: list[Path], between: Callable[[], None]) -> Iterator[Any]:
    """Tables that are large enough for a row group, but for the last; parts that cannot be read are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held: list[Any] = []
    rows = 0
    for part in parts:
        between()
        try:
            table = pq.read_table(part)
        except (OSError, pa.ArrowInvalid):
            continue
        if held and table.schema != held[0].schema:
            continue
        held.append(table)
        rows += len(table)
        if rows >= ROWS_OF_A_GROUP:
            yield pa.concat_tables(held).unify_dictionaries().combine_chunks()
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held).unify_dictionaries().combine_chunks()


def left_behind(path: Path) -> list[Path]:
    """Folders of parts that an earlier process has left for a file of this name, oldest first.

    Raises:
        OSError: the folder cannot be read.
    """
    pattern = re.compile(
        rf"\.{re.escape(path.stem)}-\d{{8}}T\d{{6}}Z(-\d+)?{re.escape(path.suffix)}{re.escape(_SUFFIX)}", re.ASCII
    )
    if not path.parent.is_dir():
        return []
    return sorted(one for one in path.parent.iterdir() if pattern.fullmatch(one.name))


def delete_older(path: Path, keep: int) -> None:
    """Delete finished files but for the newest ones."""
    with suppress(OSError):
        files = rotated_files(path)
        for older in files[: max(0, len(files) - keep)]:
            with suppress(OSError):
                older.unlink()


def _to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
