"""What the pipeline asks of a sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vision_infer.core.frame import Frame
from vision_infer.core.result import Result

OutputKind = Literal["jsonl", "csv", "parquet", "coco", "mot", "video", "pictures", "crops"]


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """Which sink to open; a plain value, so that it can go to another process."""

    kind: OutputKind
    path: str
    """the file; ``-`` is standard output; for ``pictures`` the file, or the folder, of the pictures; for ``crops`` the folder"""
    overwrite: bool = False
    rotate_bytes: int | None = None
    """``jsonl`` goes on in a new file before one gets larger than this"""
    fps: float | None = None
    """most frames a second of ``video``; None: all of the source's"""
    height: int | None = None
    """of ``video``, pixels; None, or more than the source has: the source's"""
    resume: bool = False
    """``jsonl``, ``csv``: go on in the temporary file that an earlier run has left, where there is one"""
    numbered: bool = False
    """``coco``: the pictures' own names are their numbers"""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that a sink has put in its place, or a folder in which it has."""

    path: str
    how: str = ""
    """what is worth telling: a video's encoder"""


class Sink(Protocol):
    """A place for the results of one stream, or of all. Whoever writes, one thread at a time."""

    @property
    def needs_images(self) -> bool:
        """True when it draws: it gets every frame of the stream, also those that were not inferred."""
        ...

    @property
    def outputs(self) -> Sequence[Written]:
        """What is in its place by now; all of it once the sink is closed."""
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
