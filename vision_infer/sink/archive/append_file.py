"""A file that a service appends to for months: whole rows only, rotated, and found again when it was moved."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from vision_infer.core.clock import Clock
from vision_infer.sink.archive.rotation import DAY_NS, Rotation, next_name
from vision_infer.sink.files.row_file import RowWriter

_BLOCK = 64 * 1024
_MAX_ROW_BYTES = 64 * 1024 * 1024
"""The maximum length of a row; a file without a line end in its last part of this size holds no rows."""


class AppendFile(RowWriter):
    """Writes each row to the system at once, so that none is lost with the process.

    An incomplete row at the end, left by a killed process, is cut off. A file that another process has open in this way is
    refused.

    Args:
        path: The file; it and its folders are created if they do not exist.
        clock: The clock.

    Raises:
        OSError: The file cannot be opened, or does not hold rows.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        with suppress(FileExistsError):  # a file in place of the folder: the error of open() is clearer
            path.parent.mkdir(parents=True, exist_ok=True)
        # Non-blocking: opening a named pipe must not wait for a reader.
        raw = open(path, "a+b", 0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK, 0o666))  # noqa: SIM115
        super().__init__(raw, str(path), 0, clock)
        try:
            status = os.fstat(raw.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            _lock(raw.fileno())
            self._written = _cut_torn_row(raw.fileno())
        except OSError:
            raw.close()
            raise
        self._identity = (status.st_dev, status.st_ino)
        self._day = (status.st_mtime_ns if self._written else clock.wall_ns()) // DAY_NS

    def is_due(self, more: int, rotation: Rotation) -> bool:
        """Return whether the next bytes belong in a new file: this one would be too large, or is of an earlier day."""
        if not self._written:
            return False
        if rotation.max_bytes is not None and self._written + more > rotation.max_bytes:
            return True
        return rotation.daily and self._clock.wall_ns() // DAY_NS > self._day

    def is_in_place(self) -> bool:
        """Return whether the file still has its name: it was not moved, deleted or replaced."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        self._written = status.st_size  # it may have been emptied: copytruncate of logrotate
        return (status.st_dev, status.st_ino) == self._identity

    def write(self, rows: bytes) -> None:
        """Write rows, whole or not at all.

        Raises:
            OutputError: They cannot be written. The file must be opened again, which cuts it to its last whole row.
        """
        super().write(rows)
        self._day = self._clock.wall_ns() // DAY_NS

    def move_away(self) -> None:
        """Rename the file to one with the time, ``NAME-20261124T180000Z.jsonl``.

        Raises:
            OSError: It cannot be renamed.
        """
        os.rename(self.path, next_name(self.path, self._clock.wall_ns()))

    def close(self) -> None:
        """Close the file; the system has its rows already."""
        with suppress(OSError):
            self.raw.close()


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(errno.EBUSY, "another process writes it") from error
    except OSError:
        pass  # a file system without locks


def _cut_torn_row(fd: int) -> int:
    """Cut a file after its last line end, and return its size.

    Raises:
        OSError: It does not hold rows.
    """
    size = os.fstat(fd).st_size
    whole = size
    while whole > 0:
        start = max(0, whole - _BLOCK)
        found = os.pread(fd, whole - start, start).rfind(b"\n")
        if found >= 0:
            whole = start + found + 1
            break
        whole = start
        if size - whole > _MAX_ROW_BYTES:
            raise OSError(errno.EINVAL, "not a file of rows")
    if not (_may_be_rows(fd, 0) and _may_be_rows(fd, whole)):
        raise OSError(errno.EINVAL, "not a file of rows")
    if whole < size:
        os.ftruncate(fd, whole)
    return whole


def _may_be_rows(fd: int, start: int) -> bool:
    """Return whether nothing follows, a row begins, or only zeros follow: after a power failure, files may end with zeros."""
    block = os.pread(fd, _BLOCK, start)
    return block.startswith(b"{") or not block.strip(b"\0")
