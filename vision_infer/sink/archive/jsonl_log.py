"""The rows of a service that runs for months: appended to a file, rotated, and never in the way of the streams."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.archive.log_file import LogFile, rotated_files
from vision_infer.sink.sink import Written

_log = logging.getLogger("vision_infer.rows")

RETRY_NS = 1_000_000_000
"""so long after a failure the next row is tried"""
_LONGEST_NAME = 100
"""characters of a stream's name in that of its file"""


class JsonlLog:
    """A sink that appends JSON lines to a file, or to one for each stream, and goes on whatever happens to the disk.

    What is in the file stays; a row that was torn when a process was killed is cut off. Each row is with the system when
    :meth:`write` returns. A row that cannot be written is dropped and counted, and the file is tried again every second. The
    first failure is logged, and that it works again. A file that was moved or deleted is made anew. An older file gets a name
    with the time, ``NAME-20261124T180000Z.jsonl``; where that fails, rows still go into the old one.

    Streams may share it; :attr:`dropped` and :attr:`error` may be read on any thread.

    Args:
        path: the file. ``{stream}`` in it stands for the name of the stream: then each has a file of its own.
        rotate_bytes: a new file is begun before one gets larger than this; None: never.
        daily: a new file is begun with each day (UTC).
        keep: rotated files that are kept, of each name; older ones are deleted.
        clock: tells the time.
        most_open: files that are open at the same time, at least 1.
    """

    needs_images = False
    kind = "jsonl"

    def __init__(
        self,
        path: str,
        rotate_bytes: int | None = None,
        daily: bool = False,
        keep: int = 10,
        clock: Clock = SYSTEM_CLOCK,
        most_open: int = 64,
    ) -> None:
        if most_open < 1 or keep < 0:
            raise ValueError(f"most_open must be at least 1 and keep at least 0, got {most_open} and {keep}")
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._daily = daily
        self._keep = keep
        self._clock = clock
        self._most_open = most_open
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        """by file name, the one that was not written to for longest first"""
        self._closed = False
        self.written = 0
        """rows that were"""
        self.dropped = 0
        """rows that could not be written"""
        self.error: str | None = None
        """what is wrong at present, one line"""
        self._dropped_before = 0

    @property
    def outputs(self) -> Sequence[Written]:
        """The files that are open."""
        with self._lock:
            return [Written(name) for name, place in self._places.items() if place.file is not None]

    @property
    def drops(self) -> Mapping[str, int]:
        """The same by reason."""
        return {"disk_error": self.dropped}

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a row; a frame that was not inferred has none. Raises nothing that has to do with the file."""
        if result is None:
            return
        # A name may hold bytes that are no text; backslashes make JSON's own escapes of them.
        row = (result.to_json() + "\n").encode("utf-8", "backslashreplace")
        with self._lock:
            if not self._closed:
                self._write(self._place(result.stream), row)

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """Close the files; rows that come later are passed over."""
        with self._lock:
            self._closed = True
            for place in self._places.values():
                place.close()
            self._places.clear()

    def _place(self, stream: str) -> _Place:
        """The file of a stream, as the one that was written to last."""
        name = self._path.replace("{stream}", safe_name(stream)) if "{stream}" in self._path else self._path
        place = self._places.pop(name, None) or _Place(Path(name))
        while len(self._places) >= self._most_open:
            # What fails stays, or it would be told again and again.
            names = iter(self._places)
            oldest = next((one for one in names if self._places[one].error is None), next(iter(self._places)))
            self._places.pop(oldest).close()
        self._places[name] = place
        return place

    def _write(self, place: _Place, row: bytes) -> None:
        now_ns = self._clock.monotonic_ns()
        if place.file is None and now_ns < place.retry_ns:
            self.dropped += 1
            return
        try:
            file = self._file(place, len(row), now_ns)
            file.append(row)
            self.written += 1
        except (OSError, ValueError) as error:  # ValueError: a name that holds a zero
            self._failed(place, error, "rows are dropped", now_ns)
            self.dropped += 1
            place.close()  # opened anew it is cut back to its last whole row
            return
        if place.error is not None and not place.grows:
            self._works(place)

    def _file(self, place: _Place, more: int, now_ns: int) -> LogFile:
        """The file that the next row goes into.

        Raises:
            OSError: it cannot be opened.
        """
        if place.file is not None and not place.file.is_in_place():
            place.close()
        file = place.file = place.file or LogFile(place.path, self._clock.wall_ns)
        if now_ns < place.retry_ns:
            return file
        if not file.is_due(more, self._rotate_bytes, self._daily):
            place.grows = False
            return file
        try:
            file.move_away()
        except OSError as error:
            place.grows = True
            self._failed(place, error, "it cannot be renamed and grows on", now_ns)
            return file
        place.grows = False
        place.close()
        self._delete_older(place.path)
        place.file = LogFile(place.path, self._clock.wall_ns)
        return place.file

    def _delete_older(self, path: Path) -> None:
        with suppress(OSError):
            files = rotated_files(path)
            for older in files[: max(0, len(files) - self._keep)]:
                with suppress(OSError):
                    older.unlink()

    def _failed(self, place: _Place, error: Exception, so: str, now_ns: int) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        first = self.error is None
        place.error = self.error = " ".join(f"{place.path}: {reason}: {so}".split())
        place.retry_ns = now_ns + RETRY_NS
        if first:
            self._dropped_before = self.dropped
            _log.warning("%s; it is tried again every second", self.error)

    def _works(self, place: _Place) -> None:
        place.error = None
        self.error = next((one.error for one in self._places.values() if one.error is not None), None)
        if self.error is None:
            _log.warning("%s: works again; %d rows were dropped", place.path, self.dropped - self._dropped_before)


class _Place:
    """A file that rows go into, open or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: LogFile | None = None
        self.retry_ns = 0
        """monotonic time before which what has failed is not tried again"""
        self.grows = False
        """it is due for a new file, and could not get one"""
        self.error: str | None = None

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def safe_name(stream: str) -> str:
    """A file name for a stream: its own where it is one already, else what can be kept of it and a number of its own."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", stream)[:_LONGEST_NAME]
    name = re.sub(r"^\.", "_", name)
    if name == stream and name:
        return name
    return f"{name}-{hashlib.sha256(stream.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
