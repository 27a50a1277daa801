"""JSON Lines: a row for each result; ``vision-infer schema result`` prints its JSON Schema."""

from __future__ import annotations

import os
import sys
import threading
from typing import IO

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.output_file import OutputFile, output_error
from vision_infer.sink.sink import OutputSpec

FLUSH_INTERVAL_NS = 1_000_000_000


class JsonlSink:
    """A file, or standard output. It may be shared by streams: their rows do not mix within a line.

    A file is handed to the system at least once a second while results come; standard output after every row.
    """

    needs_pictures = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._name = "standard output" if spec.path == "-" else spec.path
        self._output: OutputFile | None = None
        self._file: IO[str]
        if spec.path == "-":
            # A duplicate: closing it must not close the process's own standard output.
            self._file = open(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n")  # noqa: SIM115
            self._interval_ns = 0
        else:
            self._output = OutputFile(spec.path, spec.overwrite)
            self._file = open(self._output.partial, "w", encoding="utf-8", newline="\n")  # noqa: SIM115
            self._interval_ns = FLUSH_INTERVAL_NS
        self._flushed_ns = clock.monotonic_ns()
        self._closed = False
        self._rows = 0

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a row; a frame that was not inferred has none."""
        if result is None:
            return
        row = result.to_json() + "\n"
        now = self._clock.monotonic_ns()
        with self._lock:
            try:
                self._file.write(row)
                self._rows += 1
                if now - self._flushed_ns >= self._interval_ns:
                    self._flushed_ns = now
                    self._file.flush()
            except OSError as error:
                raise self._error(error) from error

    def close(self, complete: bool) -> None:
        """Write what is buffered and put the file in its place; no rows of a run that broke replace nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._file.close()
            except OSError as error:
                raise self._error(error) from error
            if self._output is None:
                return
            if complete or self._rows:
                self._output.commit()
            else:
                self._output.discard()

    def _error(self, error: OSError) -> OutputError:
        if isinstance(error, BrokenPipeError):
            return OutputError("standard output was closed by its reader", "nothing more can be written there")
        return output_error(self._name, error)
