"""JSON Lines of a service that runs for months: appended to a file, rotated, and never in the way of the streams."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.archive.append_file import AppendFile
from vision_infer.sink.archive.rotation import NO_ROTATION, Rotation, delete_older
from vision_infer.sink.files.jsonl import encode
from vision_infer.sink.sink import Written

_log = logging.getLogger("vision_infer.rows")

RETRY_NS = 1_000_000_000
"""The time after a failure until the next row is tried."""
_MAX_NAME = 100
"""The maximum length of a stream's name in that of its file, characters."""


class JsonlLog:
    """A sink that appends JSON lines to a file, or to one for each stream, and goes on whatever happens to the disk.

    Existing rows stay; an incomplete row that a killed process left is cut off. The system has each row when :meth:`write`
    returns. A row that cannot be written is dropped and counted, and the file is tried again every second. The log reports the
    first failure and the recovery. A file that was moved or deleted is created again. A finished file gets a name with the time,
    ``NAME-20261124T180000Z.jsonl``; where renaming fails, rows still go into the old one.

    Streams may share it; :attr:`dropped` and :attr:`error` may be read on any thread.

    Args:
        path: The file. ``{stream}`` in it is replaced by the name of the stream, so that each stream has a separate file.
        rotation: When a new file is begun.
        clock: The clock.
        max_open: The maximum number of open files, at least 1.
    """

    needs_images = False
    kind = "jsonl"

    def __init__(
        self,
        path: str,
        rotation: Rotation = NO_ROTATION,
        clock: Clock = SYSTEM_CLOCK,
        max_open: int = 64,
    ) -> None:
        if max_open < 1 or rotation.keep < 0:
            raise ValueError(f"max_open must be at least 1 and keep at least 0, got {max_open} and {rotation.keep}")
        self._path = path
        self._rotation = rotation
        self._clock = clock
        self._max_open = max_open
        # Guards all that follows; a thread of results holds it while it writes one row.
        self._lock = threading.Lock()
        self._targets: dict[str, _RowTarget] = {}
        """The targets by file name, the least recently written first."""
        self._closed = False
        self.written = 0
        """The number of rows that were written."""
        self.dropped = 0
        """The number of rows that could not be written."""
        self.error: str | None = None
        """The present problem, one line."""
        self._dropped_before = 0

    @property
    def outputs(self) -> Sequence[Written]:
        """The files that are open."""
        with self._lock:
            return [Written(name) for name, target in self._targets.items() if target.file is not None]

    @property
    def drops(self) -> Mapping[str, int]:
        """The number of dropped rows by reason."""
        return {"disk_error": self.dropped}

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Append a row; a frame without inference has none. Problems with the file are counted, not raised."""
        if result is None:
            return
        row = encode(result)
        with self._lock:
            if not self._closed:
                self._write(self._target(result.stream), row)

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """Close the files; later rows are ignored."""
        with self._lock:
            self._closed = True
            for target in self._targets.values():
                target.close()
            self._targets.clear()

    def _target(self, stream: str) -> _RowTarget:
        """Return the file of a stream, and mark it as the most recently written."""
        name = self._path.replace("{stream}", safe_name(stream)) if "{stream}" in self._path else self._path
        target = self._targets.pop(name, None) or _RowTarget(Path(name))
        while len(self._targets) >= self._max_open:
            # A target that fails stays, or its failure would be logged again and again.
            names = iter(self._targets)
            oldest = next((name for name in names if self._targets[name].error is None), next(iter(self._targets)))
            self._targets.pop(oldest).close()
        self._targets[name] = target
        return target

    def _write(self, target: _RowTarget, row: bytes) -> None:
        now_ns = self._clock.monotonic_ns()
        if target.file is None and now_ns < target.retry_ns:
            self.dropped += 1
            return
        try:
            self._file(target, len(row), now_ns).write(row)
            self.written += 1
        except (OSError, OutputError, ValueError) as error:  # ValueError: a name that holds a zero
            self._failed(target, error, "rows are dropped", now_ns)
            self.dropped += 1
            target.close()  # opening it again cuts it back to its last whole row
            return
        if target.error is not None and not target.grows:
            self._works(target)

    def _file(self, target: _RowTarget, more: int, now_ns: int) -> AppendFile:
        """Return the file for the next row.

        Raises:
            OSError: It cannot be opened.
        """
        if target.file is not None and not target.file.is_in_place():
            target.close()
        file = target.file = target.file or AppendFile(target.path, self._clock)
        if now_ns < target.retry_ns:
            return file
        if not file.is_due(more, self._rotation):
            target.grows = False
            return file
        try:
            file.move_away()
        except OSError as error:
            target.grows = True
            self._failed(target, error, "it cannot be renamed and keeps growing", now_ns)
            return file
        target.grows = False
        target.close()
        delete_older(target.path, self._rotation.keep)
        target.file = AppendFile(target.path, self._clock)
        return target.file

    def _failed(self, target: _RowTarget, error: Exception, consequence: str, now_ns: int) -> None:
        cause = error.__cause__ if isinstance(error, OutputError) else error
        reason = getattr(cause, "strerror", None) or str(error)
        first = self.error is None
        target.error = self.error = " ".join(f"{target.path}: {reason}: {consequence}".split())
        target.retry_ns = now_ns + RETRY_NS
        if first:
            self._dropped_before = self.dropped
            _log.warning("%s; the next attempt is in a second", self.error)

    def _works(self, target: _RowTarget) -> None:
        target.error = None
        self.error = next((other.error for other in self._targets.values() if other.error is not None), None)
        if self.error is None:
            _log.warning("%s: works again; %d rows were dropped", target.path, self.dropped - self._dropped_before)


class _RowTarget:
    """A file for rows, open or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: AppendFile | None = None
        self.retry_ns = 0
        """The monotonic time of the next attempt after a failure."""
        self.grows = False
        """Whether a new file is due and the old one could not be renamed."""
        self.error: str | None = None

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def safe_name(stream: str) -> str:
    """Return a file name for a stream: its own if it is valid, else a similar one with a hash."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", stream)[:_MAX_NAME]
    name = re.sub(r"^\.", "_", name)
    if name == stream and name:
        return name
    return f"{name}-{hashlib.sha256(stream.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
