"""Files that grow by whole rows, and are cut back to the last whole row if a write fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import OutputError
from vision_infer.sink.files.output_file import OutputFile, output_error
from vision_infer.sink.sink import OutputSpec
from vision_infer.sink.space import NoSpaceError, SpaceReserve, is_full

FLUSH_INTERVAL_NS = 1_000_000_000
_BUFFER = 64 * 1024
_TAIL_RESERVE = 4096
"""The space reserved for the end of a file, bytes: one disk block."""


class RowWriter:
    """Buffers rows and writes whole ones. Not thread-safe: the sinks lock.

    Args:
        raw: The file.
        name: The name of the output, for errors.
        interval_ns: The maximum time that rows are buffered while more arrive, nanoseconds.
        clock: The clock.
    """

    def __init__(self, raw: FileIO, name: str, interval_ns: int = FLUSH_INTERVAL_NS, clock: Clock = SYSTEM_CLOCK) -> None:
        self.raw = raw
        self._name = name
        self._interval_ns = interval_ns
        self._clock = clock
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._flushed_ns = clock.monotonic_ns()
        self._written = 0
        self._failure: OutputError | None = None
        self.rows = 0
        """The number of rows that were added and are not lost."""

    @property
    def size(self) -> int:
        """The size of all rows, including buffered ones, bytes."""
        return self._written + self._waiting_bytes

    def write(self, rows: bytes) -> None:
        """Add a row, or rows that belong together.

        Raises:
            OutputError: They, or buffered rows, cannot be written; the file ends with the last row that could.
        """
        if self._failure is not None:
            raise self._failure
        self._waiting.append(rows)
        self._waiting_bytes += len(rows)
        self.rows += 1
        now = self._clock.monotonic_ns()
        if now - self._flushed_ns >= self._interval_ns or self._waiting_bytes >= _BUFFER:
            self._flushed_ns = now
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows to the system.

        Raises:
            OutputError: As for :meth:`write`.
        """
        if self._failure is not None:
            raise self._failure
        done = 0
        try:
            view = memoryview(b"".join(self._waiting))
            while done < len(view):
                done += os.write(self.raw.fileno(), view[done:])
        except OSError as error:
            self._written += self._cut_back(done)
            self._failure = self._error(error)
            raise self._failure from error
        finally:
            self._waiting.clear()
            self._waiting_bytes = 0
        self._written += done

    def _cut_back(self, done: int) -> int:
        """Cut the file after its last whole row, and return how many of the buffered bytes are in it."""
        whole = count = 0
        for row in self._waiting:
            if whole + len(row) > done:
                break
            whole += len(row)
            count += 1
        self.rows -= len(self._waiting) - count
        with suppress(OSError):  # standard output cannot be cut
            os.ftruncate(self.raw.fileno(), self._written + whole)
            os.lseek(self.raw.fileno(), 0, os.SEEK_END)
        return whole

    def _error(self, error: OSError) -> OutputError:
        if is_full(error):
            kept = f"the rows of {self.rows} frames are kept"
            free = shutil.disk_usage(self.raw.fileno()).free  # the name of standard output has no disk
            return NoSpaceError(self._name, self._written, kept=kept, free=free)
        return output_error(self._name, error)


class RowFile(RowWriter):
    """The temporary file of an output that grows by rows.

    Args:
        spec: The output.
        head: The beginning of the file; it does not count as a row.
        tail: The end of the file. Space for it is reserved, so that a full disk does not spoil the file.
        clock: The clock.
        reserve: The space reserved for the tail, bytes.

    Raises:
        OutputError: It cannot be written.
    """

    def __init__(
        self,
        spec: OutputSpec,
        head: bytes = b"",
        tail: bytes = b"",
        clock: Clock = SYSTEM_CLOCK,
        reserve: int = _TAIL_RESERVE,
    ) -> None:
        self.output = OutputFile(spec.path, spec.overwrite, spec.resume)
        super().__init__(self.output.raw, spec.path, FLUSH_INTERVAL_NS, clock)
        self._written = os.fstat(self.raw.fileno()).st_size
        self._before = False  # whether there are rows of an earlier run
        self.in_place = False
        """Whether the file has its final name."""
        self.finished = False
        self._tail = tail
        self._reserve: SpaceReserve | None = None
        if tail:
            try:
                self._reserve = SpaceReserve(self.output.path.parent, reserve)
            except OSError as error:
                self.output.discard()
                raise output_error(spec.path, error) from error
        self.begin(head)

    def begin(self, head: bytes) -> None:
        """Write the beginning of the file, unless it was written before.

        Raises:
            OutputError: It cannot be written.
        """
        self._before = self._written > len(head)
        if head and not self._written:
            try:
                self._written = os.write(self.raw.fileno(), head)
            except OSError as error:
                self.finished = True
                self.discard()
                raise output_error(self.output.path, error) from error

    def reserve(self, size: int) -> None:
        """Reserve ``size`` bytes in total for the end of the file.

        Raises:
            OutputError: There is not enough space. The earlier reservation is kept.
        """
        if self._reserve is not None:
            try:
                self._reserve.grow_to(size)
            except OSError as error:
                raise self._error(error) from error

    def finish(self, complete: bool, tail: Iterable[bytes] | None = None) -> None:
        """Write the buffered rows and give the file its final name; a failed run without rows leaves no file. Only once.

        Args:
            complete: Whether the run was not stopped early.
            tail: The end of the file, if it was unknown before.

        Raises:
            OutputError: The buffered rows cannot be written (those before them are kept), or the file cannot be renamed.
        """
        if self.finished:
            return
        self.finished = True
        failure: OutputError | None = None
        if self._failure is None:
            try:
                self.flush()
            except OutputError as error:
                failure = error
        kept = self.rows > 0 or self._before or (complete and self._failure is None)
        if kept:
            self._end([self._tail] if tail is None else tail)
            self.output.commit()
            self.in_place = True
        else:
            self.discard()
        if failure is not None:
            raise failure

    def _end(self, tail: Iterable[bytes]) -> None:
        if self._reserve is not None:
            self._reserve.release()
        try:
            for part in tail:
                view = memoryview(part)
                while view:
                    view = view[os.write(self.raw.fileno(), view) :]
        except OSError as error:
            self.discard()
            raise output_error(self.output.path, error) from error

    def discard(self) -> None:
        """Remove the temporary file."""
        if self._reserve is not None:
            self._reserve.release()
        self.output.discard()
