"""One file that is appended to for months: whole rows only, rotated, found again when somebody has moved it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_DAY_NS = 86_400 * 1_000_000_000
_BLOCK = 64 * 1024
_LONGEST_ROW = 64 * 1024 * 1024
"""bytes; a file without a line end in so many at its end holds no rows"""


class LogFile:
    """A file of rows, open for appending. Every row goes to the system at once: nothing of it is lost with the process.

    What a killed process has left of a row at the end is cut off. A file that another process has open in this way is refused.

    Not for several threads at once: the sink locks.

    Args:
        path: of the file; it and its folders come into being where they are not there.
        wall_ns: the time of day, nanoseconds since 1970.

    Raises:
        OSError: it cannot be opened, or holds something else.
    """

    def __init__(self, path: Path, wall_ns: Callable[[], int]) -> None:
        self.path = path
        self._wall_ns = wall_ns
        with suppress(FileExistsError):  # a file in the place of the folder: opening tells it better
            path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is no ordinary file")
            _lock(self._fd)
            self._size = _cut_torn_row(self._fd)
        except OSError:
            os.close(self._fd)
            raise
        self._identity = (status.st_dev, status.st_ino)
        self._day = (status.st_mtime_ns if self._size else wall_ns()) // _DAY_NS

    def is_due(self, more: int, rotate_bytes: int | None, daily: bool) -> bool:
        """Whether so many more bytes belong into a new file: this one would be larger than allowed, or is of an earlier day."""
        if not self._size:
            return False
        if rotate_bytes is not None and self._size + more > rotate_bytes:
            return True
        return daily and self._wall_ns() // _DAY_NS > self._day

    def is_in_place(self) -> bool:
        """Whether the file still has its name: nobody has moved it, deleted it, or put another there."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        self._size = status.st_size  # somebody may have emptied it: logrotate's copytruncate
        return (status.st_dev, status.st_ino) == self._identity

    def append(self, row: bytes) -> None:
        """Write a row, with its line end, whole or not at all.

        Raises:
            OSError: it cannot be written. The file ends with the row before, or, where it cannot even be cut back, is to be
                opened anew, which does that.
        """
        done = 0
        try:
            while done < len(row):
                done += os.write(self._fd, row[done:] if done else row)
        except OSError:
            if done:
                os.ftruncate(self._fd, max(0, os.fstat(self._fd).st_size - done))
            raise
        self._size += done
        self._day = self._wall_ns() // _DAY_NS

    def move_away(self) -> None:
        """Give the file a name with the time, ``NAME-20261124T180000Z.jsonl``, that comes after those that others have.

        Raises:
            OSError: it cannot be renamed.
        """
        stamp, number = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._wall_ns() // 1_000_000_000)), 1
        others = _rotated(self.path)
        if others and others[-1][0] >= stamp:  # the same second, or a clock that was set back: else it would count as the oldest
            stamp, number = others[-1][0], others[-1][1] + 1
        name = f"{self.path.stem}-{stamp}" if number == 1 else f"{self.path.stem}-{stamp}-{number}"
        os.rename(self.path, self.path.with_stem(name))

    def close(self) -> None:
        """Close it; what it holds is with the system already."""
        with suppress(OSError):
            os.close(self._fd)


def rotated_files(path: Path) -> list[Path]:
    """The files that :meth:`LogFile.move_away` has made of this one, oldest first.

    Raises:
        OSError: the folder cannot be read.
    """
    return [path.with_name(name) for _, _, name in _rotated(path)]


def _rotated(path: Path) -> list[tuple[str, int, str]]:
    """Time, number and name of the files that were rotated, oldest first."""
    pattern = re.compile(rf"{re.escape(path.stem)}-(\d{{8}}T\d{{6}}Z)(?:-(\d+))?{re.escape(path.suffix)}", re.ASCII)
    with os.scandir(path.parent) as entries:
        matches = [pattern.fullmatch(entry.name) for entry in entries]
    return sorted((match[1], int(match[2] or 1), match[0]) for match in matches if match)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(errno.EBUSY, "another process writes it") from error
    except OSError:
        pass  # a file system without locks


def _cut_torn_row(fd: int) -> int:
    """Cut a file after its last line end; returns its size.

    Raises:
        OSError: it holds something else.
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
        if size - whole > _LONGEST_ROW:
            raise OSError(errno.EINVAL, "is no file of rows")
    if not (_may_be_rows(fd, 0) and _may_be_rows(fd, whole)):
        raise OSError(errno.EINVAL, "is no file of rows")
    if whole < size:
        os.ftruncate(fd, whole)
    return whole


def _may_be_rows(fd: int, start: int) -> bool:
    """Whether what is there is nothing, or begins as a row, or is zeros only: where the power failed, files may end with them."""
    block = os.pread(fd, _BLOCK, start)
    return block.startswith(b"{") or not block.strip(b"\0")
