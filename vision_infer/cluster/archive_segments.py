"""Long files of an archive: which runs can read them in segments, the outputs of the segments, and copies of objects.

The outputs of a segment are in the folder of the outputs: ``.film.jsonl.7500-15000.part`` has the rows of frames 7,500 to
14,999 of ``film``. They are complete or absent, like all outputs, so that a resumed run uses them.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer.cluster.archive_files import ArchiveFile, fetch, is_stored
from vision_infer.config.run import RunSettings
from vision_infer.pipeline.runs.outputs import OutputPlan
from vision_infer.sink.files.join import JOIN
from vision_infer.stream.files.segments import Segment

SEGMENT_S = 300.0
"""The minimum duration of a segment, seconds. Files that are shorter than two segments are read as a whole."""
_PART = re.compile(r"\.(.+)\.[0-9]+-[0-9]+\.part")
_WITH_MEMORY = ("track", "zones", "gate", "fps", "hook", "secondary")
_OWN_RANGE = ("start", "end", "keyframes_only")


def can_split(settings: RunSettings, outputs: OutputPlan) -> bool:
    """Return whether the results of a file are the same if it is read in segments.

    They are not if results depend on earlier frames: with tracking, zones, the motion gate, a frame rate, or a hook. Rows of a
    secondary model have columns that depend on the first detection. Video and COCO files cannot be joined.
    """
    default = {name: RunSettings.model_fields[name].default for name in (*_WITH_MEMORY, *_OWN_RANGE)}
    joinable = all(output.kind in JOIN for output in outputs.specs())
    return joinable and all(getattr(settings, name) == value for name, value in default.items())


def part_name(output: str, segment: Segment) -> str:
    """Return the name of a segment's part of an output."""
    return f".{output}.{segment.first}-{segment.first + segment.frames}.part"


def output_of(name: str) -> str | None:
    """Return the output that a file is a part of; None if it is not a part."""
    found = _PART.fullmatch(name)
    return None if found is None else found[1]


@dataclass(slots=True)
class _LocalCopy:
    folder: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the object is copied."""
    path: str = ""
    """What a decoder can open; empty until it is copied."""
    users: int = 0


class Copies:
    """The copies of objects on this machine. The segments of a file share a copy, which stays until another file is split.

    Args:
        folder: The folder of the copies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Guards the copies and their users: every thread that reads a file holds it for a moment.
        self._lock = threading.Lock()
        self._copies: dict[str, _LocalCopy] = {}
        self._count = 0
        self._kept = ""

    @contextmanager
    def of(self, file: ArchiveFile) -> Iterator[str]:
        """Yield what a decoder can open: a path of this machine, or an ``http://`` URL.

        Raises:
            StreamError: The object cannot be copied.
        """
        if not is_stored(file.url):
            yield file.url
            return
        with self._lock:
            copy = self._copies.get(file.url)
            if copy is None:
                self._count += 1
                copy = self._copies[file.url] = _LocalCopy(self._folder / str(self._count))
            copy.users += 1
        try:
            with copy.lock:
                if not copy.path:
                    copy.folder.mkdir(parents=True, exist_ok=True)
                    copy.path = fetch(file, copy.folder)
            yield copy.path
        finally:
            with self._lock:
                copy.users -= 1
                self._remove_unused()

    def keep(self, file: ArchiveFile) -> None:
        """Keep the copy of a file that is open, because its segments are read next."""
        with self._lock:
            self._kept = file.url
            self._remove_unused()

    def _remove_unused(self) -> None:
        for url in [url for url, copy in self._copies.items() if not copy.users and url != self._kept]:
            shutil.rmtree(self._copies.pop(url).folder, ignore_errors=True)
