"""Disks become full. What was whole before is kept: for that, a little space is put aside for the end of a file."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from io import FileIO
from pathlib import Path

from vision_infer.core.errors import OutputError

KEPT = "what was whole before is kept"


def is_full(error: OSError) -> bool:
    """Whether the disk is full, or the user's part of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class NoSpaceError(OutputError):
    """The disk of an output is full.

    Args:
        path: the output.
        written: bytes of it that are written; None if unknown.
        more: bytes that are still needed for it, about; None if unknown.
        free: bytes that were free when it happened; None: that are free now.
        kept: what has become of it.
    """

    def __init__(
        self,
        path: str | Path,
        written: int | None = None,
        more: int | None = None,
        kept: str = KEPT,
        free: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.written = written
        self.kept = kept
        self.free = free_bytes(self.path) if free is None else free
        message = f"{path}: no space left: {size_in_words(self.free)} are free there"
        if more is not None:
            message += f", about {size_in_words(more)} more are needed for this output"
        super().__init__(message, f"free some space or choose another place with --out; {kept}")

    def at(self, progress: float | None) -> NoSpaceError:
        """The same with an estimate of what is missing.

        Args:
            progress: how much of the work is done, 0–1; None if unknown.
        """
        if progress is None or not 0 < progress <= 1 or not self.written:
            return self
        told = NoSpaceError(self.path, self.written, round(self.written * (1 / progress - 1)), self.kept, self.free)
        told.__cause__ = self.__cause__
        return told


def free_bytes(path: Path) -> int:
    """Bytes that are free on the disk of a file, which need not exist; 0 where that cannot be found out."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 0


def size_in_words(size: int) -> str:
    """A number of bytes for people: ``3.4 MB``."""
    amount, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{size} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


class SpaceReserve:
    """Space on a disk that nobody else gets until it is released: an unnamed file, which goes with the process.

    Args:
        folder: where.
        size: bytes.

    Raises:
        OSError: there is not as much.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._size = 0
        try:
            self.grow_to(size)
        except OSError:
            self._file.close()
            raise

    def grow_to(self, size: int) -> None:
        """Reserve ``size`` bytes altogether.

        Raises:
            OSError: there is not as much; what was reserved before is kept.
        """
        if size <= self._size or self._file.closed:
            return
        if not self._allocated(size):
            try:
                self._fill(size)
            except OSError:
                os.ftruncate(self._file.fileno(), self._size)
                raise
        self._size = size

    def _fill(self, size: int) -> None:
        self._file.seek(self._size)
        while (missing := size - self._file.tell()) > 0:
            self._file.write(bytes(missing))

    def _allocated(self, size: int) -> bool:
        """Whether the system could set so much aside without writing it: macOS and some file systems cannot."""
        if not hasattr(os, "posix_fallocate"):
            return False
        try:
            os.posix_fallocate(self._file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                return False
            raise
        return True

    def release(self) -> None:
        """Give it back. Further calls do nothing."""
        self._file.close()


class ReservedFile:
    """A file for a library that writes: when the disk is full, what is being written goes into the reserve, and ``full`` says so.

    Whoever owns it looks at ``full`` after each step, stops, and finishes the file with what is left of the reserve.
    """

    def __init__(self, raw: FileIO, reserve: SpaceReserve) -> None:
        self._raw = raw
        self.reserve = reserve
        self.full = False
        self.free = 0
        """bytes that were free when the disk was full"""

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._raw.closed

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._raw.fileno()).st_size

    def write(self, data: bytes) -> int:
        """Write all of ``data``.

        Raises:
            OSError: it cannot be written, not even into the reserve.
        """
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            try:
                done += self._raw.write(view[done:])
            except OSError as error:
                if not is_full(error) or self.full:
                    raise
                self._now_full()
        return len(view)

    def grow_reserve(self, size: int) -> None:
        """Put ``size`` bytes aside altogether; where there is not as much, the disk counts as full.

        Raises:
            OSError: anything else.
        """
        try:
            self.reserve.grow_to(size)
        except OSError as error:
            if not is_full(error):
                raise
            self._now_full()

    def _now_full(self) -> None:
        self.full = True
        disk = os.fstatvfs(self._raw.fileno())
        self.free = disk.f_bavail * disk.f_frsize
        self.reserve.release()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, as for any file."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """The place, bytes."""
        return self._raw.tell()

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """Left to whoever opened the file."""

    def readable(self) -> bool:
        """It is for writing only."""
        return False

    def writable(self) -> bool:
        """It is for writing."""
        return True

    def seekable(self) -> bool:
        """One may go to any place."""
        return True
