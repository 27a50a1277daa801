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
    """A file, or standard output. It may be shared by streams: their rows do not mix within a line.

    A file is handed to the system at least once a second while results come; standard output after every row. With
    ``spec.rotate_bytes`` the rows go on in ``NAME-2.jsonl``, ``NAME-3.jsonl`` …, each in its place when it is finished.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        self._spec = spec
        self._clock = clock
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
        """The files that are in their place."""
        return [Written(rotated(self._spec.path, number)) for number in range(1, self._in_place + 1)]

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a row; a frame that was not inferred has none."""
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
        """Hand all rows so far to the system: they outlive the process.

        Raises:
            OutputError: they cannot be written.
        """
        with self._lock:
            if not self._closed:
                self._file.flush()

    def close(self, complete: bool) -> None:
        """Write what is buffered and put the file in its place; no rows of a run that broke replace nothing."""
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
        finally:  # rows before those that could not be written are in their place nevertheless
            self._in_place += self._file.in_place

    def _remove_older_parts(self) -> None:
        """A longer run that was here before left parts that would look as if they went on from ours."""
        if self._spec.rotate_bytes is None or not self._spec.overwrite:
            return
        number = self._part + 1
        with suppress(OSError):
            while (part := Path(rotated(self._spec.path, number))).is_file():
                part.unlink()
                number += 1

    def _named(self, error: OutputError) -> OutputError:
        if isinstance(error.__cause__, BrokenPipeError):
            return OutputError("standard output was closed by its reader", "nothing more can be written there")
        return error


def encode(result: Result) -> bytes:
    """Return the row of a result. Bytes of a name that are not valid text become escapes of JSON."""
    return (result.to_json() + "\n").encode("utf-8", "backslashreplace")


def rotated(path: str, number: int) -> str:
    """The name of a part, from 1: ``rows.jsonl``, ``rows-2.jsonl``, ``rows-3.jsonl`` …"""
    if number == 1:
        return path
    return str(Path(path).with_stem(f"{Path(path).stem}-{number}"))
