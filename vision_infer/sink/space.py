"""Full disks: a little space is reserved for the end of a file, so that what was written before is kept."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from io import FileIO
from pathlib import Path

from vision_infer.core.errors import OutputError

KEPT = "complete data is kept"


def is_full(error: OSError) -> bool:
    """Return whether the disk, or the quota of the user, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class NoSpaceError(OutputError):
    """The disk of an output is full.

    Args:
        path: The output.
        written: The number of bytes written so far; None if unknown.
        more: The approximate number of bytes still needed; None if unknown.
        kept: The part of the output that is complete, in words.
        free: The number of free bytes when it happened; None: those free now.
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
        message = f"{path}: no space left ({size_in_words(self.free)} free)"
        if more is not None:
            message += f"; this output needs about {size_in_words(more)} more"
        super().__init__(message, f"free some space or choose another path with --out; {kept}")

    def at(self, progress: float | None) -> NoSpaceError:
        """Return the error with an estimate of the missing space.

        Args:
            progress: The fraction of the work that is done, 0–1; None if unknown.
        """
        if progress is None or not 0 < progress <= 1 or not self.written:
            return self
        estimated = NoSpaceError(self.path, self.written, round(self.written * (1 / progress - 1)), self.kept, self.free)
        estimated.__cause__ = self.__cause__
        return estimated


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of a file, which need not exist; 0 if unknown."""
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return 0


def size_in_words(size: int) -> str:
    """Return a size for people: ``3.4 MB``."""
    amount, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{size} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


class SpaceReserve:
    """Space on a disk that is reserved until it is released: an unnamed file, which disappears with the process.

    Args:
        folder: The folder.
        size: The size, bytes.

    Raises:
        OSError: There is not enough space.
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
        """Reserve ``size`` bytes in total.

        Raises:
            OSError: There is not enough space; the earlier reservation is kept.
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
        """Return whether the system allocated the space without writing it: macOS and some file systems cannot."""
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
        """Release the space. Further calls do nothing."""
        self._file.close()


class ReservedFile:
    """A file for a library that writes: when the disk is full, the reserve is released for the current write, and ``full`` is
    set.

    The owner checks ``full`` after each step, stops, and finishes the file with the remaining space.
    """

    def __init__(self, raw: FileIO, reserve: SpaceReserve) -> None:
        self._raw = raw
        self.reserve = reserve
        self.full = False
        self.free = 0
        """The number of free bytes when the disk was full."""

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._raw.closed

    @property
    def size(self) -> int:
        """The size of the file, bytes."""
        return os.fstat(self._raw.fileno()).st_size

    def write(self, data: bytes) -> int:
        """Write all of ``data``.

        Raises:
            OSError: It cannot be written, even with the reserve released.
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
        """Reserve ``size`` bytes in total; if there is not enough space, the disk counts as full.

        Raises:
            OSError: Any other error.
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
        """Move to a position, as for any file."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the position, bytes."""
        return self._raw.tell()

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def close(self) -> None:
        """Do nothing: the owner closes the file."""

    def readable(self) -> bool:
        """Return False: the file is for writing only."""
        return False

    def writable(self) -> bool:
        """Return True: the file is for writing."""
        return True

    def seekable(self) -> bool:
        """Return True: any position can be reached."""
        return True
