"""JSON Lines: a row for each result; ``vision-infer schema result`` prints its JSON Schema."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.files.output_file import output_error
from vision_infer.sink.files.row_file import RowFile, RowWriter
from vision_infer.sink.sink import OutputSpec, SinkStream, Written


def open_sink(spec: OutputSpec, stream: SinkStream) -> JsonlSink:  # noqa: ARG001
    """Open the sink of a run."""
    return JsonlSink(spec)


class JsonlSink:
    """Writes JSON lines to a file or to standard output. Streams may share it: their rows do not mix within a line.

    A file is flushed to the system at least once a second while results arrive; standard output after every row. With
    ``spec.rotate_bytes`` the rows continue in ``NAME-2.jsonl``, ``NAME-3.jsonl`` …, each with its name once it is finished.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        self._spec = spec
        self._clock = clock
        # Guards the whole state: streams may share the sink, and the thread that writes holds it.
        self._lock = threading.Lock()
        self._part = 1
        self._in_place = 0
        self._failure: OutputError | None = None
        self._file: RowFile | RowWriter
        if spec.path == "-":
            # A duplicate: closing it must not close the process's own standard output.
            raw = open(os.dup(sys.stdout.fileno()), "wb", buffering=0)  # noqa: SIM115
            self._file = RowWriter(raw, "standard output", 0, clock)
        else:
            self._file = RowFile(spec, clock=clock)
        self._closed = False

    @property
    def outputs(self) -> Sequence[Written]:
        """The files that are finished."""
        return [Written(rotated(self._spec.path, number)) for number in range(1, self._in_place + 1)]

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a row; a frame without inference has none."""
        if result is None:
            return
        row = encode(result)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                if self._is_full(len(row)):
                    self._rotate()
                self._file.write(row)
            except OutputError as error:
                raise self._named(error) from error.__cause__

    def flush(self) -> None:
        """Write all rows so far to the system, so that they survive a kill of the process.

        Raises:
            OutputError: They cannot be written.
        """
        with self._lock:
            if not self._closed:
                self._file.flush()

    def close(self, complete: bool) -> None:
        """Write the buffered rows and finish the file; a failed run without rows leaves no file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if isinstance(self._file, RowFile):
                if not self._file.finished:
                    self._finish(complete)
                if complete:
                    self._remove_older_parts()
                return
            try:
                self._file.raw.close()
            except OSError as error:
                raise self._named(output_error("standard output", error)) from error

    def _is_full(self, more: int) -> bool:
        limit = self._spec.rotate_bytes
        return limit is not None and self._file.rows > 0 and self._file.size + more > limit and isinstance(self._file, RowFile)

    def _rotate(self) -> None:
        self._finish(True)
        self._part += 1
        try:
            self._file = RowFile(replace(self._spec, path=rotated(self._spec.path, self._part)), clock=self._clock)
        except OutputError as error:
            self._failure = error
            raise

    def _finish(self, complete: bool) -> None:
        assert isinstance(self._file, RowFile)
        try:
            self._file.finish(complete)
        finally:  # earlier rows are kept even if the last ones could not be written
            self._in_place += self._file.in_place

    def _remove_older_parts(self) -> None:
        """Delete the parts of an earlier, longer run, which would look like a continuation of this one."""
        if self._spec.rotate_bytes is None or not self._spec.overwrite:
            return
        number = self._part + 1
        with suppress(OSError):
            while (part := Path(rotated(self._spec.path, number))).is_file():
                part.unlink()
                number += 1

    def _named(self, error: OutputError) -> OutputError:
        if isinstance(error.__cause__, BrokenPipeError):
            return OutputError("standard output was closed by its reader", "Check the program that reads it.")
        return error


def encode(result: Result) -> bytes:
    """Return the row of a result. Bytes of a name that are not valid text become escapes of JSON."""
    return (result.to_json() + "\n").encode("utf-8", "backslashreplace")


def rotated(path: str, number: int) -> str:
    """Return the name of a part, from 1: ``rows.jsonl``, ``rows-2.jsonl``, ``rows-3.jsonl`` …"""
    if number == 1:
        return path
    return str(Path(path).with_stem(f"{Path(path).stem}-{number}"))
