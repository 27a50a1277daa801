"""What the pipeline asks of a sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from vision_infer.core.frame import Frame
from vision_infer.core.result import Result

OutputKind = Literal["jsonl", "video", "pictures"]


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """Which sink to open; a plain value, so that it can go to another process."""

    kind: OutputKind
    path: str
    """the file; ``-`` is standard output; for ``pictures`` the file, or the folder, of the pictures"""
    overwrite: bool = False


class Sink(Protocol):
    """A place for the results of one stream, or of all. Whoever writes, one thread at a time."""

    @property
    def needs_pictures(self) -> bool:
        """True when it draws: it gets every frame of the stream, also those that were not inferred."""
        ...

    def write(self, frame: Frame, result: Result | None) -> None:
        """Take the next frame, in the stream's order; ``result`` is None where it was not inferred.

        Raises:
            OutputError: it cannot be written.
        """
        ...

    def close(self, complete: bool) -> None:
        """Finish: what was written is whole and in its place afterwards. Further calls do nothing.

        Args:
            complete: the stream was read to its end, not stopped before.

        Raises:
            OutputError: it cannot be finished.
        """
        ...
