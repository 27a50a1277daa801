"""Which file of an archive is read next, which are lost with their reader, and the progress. Pure: no Ray, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from vision_infer.cluster.archive_files import ArchiveFile
from vision_infer.pipeline.runs.summary import FINISHED_EARLIER, unread
from vision_infer.stream.redact import redact

MAX_LOSSES = 5
"""The number of lost readers after which a file fails, although each time the node was lost too."""


class ArchiveWork:
    """The files that are not done.

    A file may end the process that reads it, for example if it takes too much memory. All files that the process had open are
    then suspects. They are read at the end, each alone in its reader: the file that ends its reader again has failed, and the
    others are complete. The files of a lost node are not suspects.

    Args:
        files: The files to read.
    """

    def __init__(self, files: Iterable[ArchiveFile]) -> None:
        self._todo = deque(files)
        self._suspects: deque[ArchiveFile] = deque()
        self._alone: set[str] = set()
        self._losses: dict[str, int] = {}
        self._open: dict[str, ArchiveFile] = {}

    @property
    def done(self) -> bool:
        """Whether all files are done."""
        return not (self._todo or self._suspects or self._open)

    @property
    def waiting(self) -> int:
        """The number of files that no reader has."""
        return len(self._todo) + len(self._suspects)

    def take(self, opened: Iterable[str]) -> ArchiveFile | None:
        """Return the next file for a reader; None if it gets none now.

        Args:
            opened: The names of the files that the reader has.
        """
        names = list(opened)
        if self._alone.intersection(names):
            return None
        if self._todo:
            file = self._todo.popleft()
        elif self._suspects and not names:
            file = self._suspects.popleft()
            self._alone.add(file.name)
        else:
            return None
        self._open[file.name] = file
        return file

    def finish(self, name: str) -> ArchiveFile:
        """Note that a file is done, and return it."""
        self._alone.discard(name)
        return self._open.pop(name)

    def lose(self, names: Iterable[str], node_lost: bool) -> list[ArchiveFile]:
        """Note that a reader is lost, and return the files that have failed.

        Args:
            names: The files that it had.
            node_lost: Whether its node was lost too.
        """
        failed = []
        for name in names:
            alone = name in self._alone
            file = self.finish(name)
            losses = self._losses[name] = self._losses.get(name, 0) + 1
            if (alone and not node_lost) or losses >= MAX_LOSSES:
                failed.append(file)
            elif node_lost and not alone:
                self._todo.appendleft(file)
            else:
                self._suspects.append(file)
        return failed


class ArchiveProgress:
    """The account of a run over an archive.

    Args:
        todo: The files to read.
        finished: The files that an earlier run has finished.
        not_found: The arguments that name nothing, and why.
    """

    def __init__(self, todo: Iterable[ArchiveFile], finished: Iterable[ArchiveFile] = (), not_found: Iterable[Any] = ()) -> None:
        self.sources = [unread(file.name, redact(file.url), FINISHED_EARLIER) for file in finished]
        self._left = {file.name: max(1, file.size) for file in todo}
        self._total = sum(self._left.values())
        self.files = len(self._left) + len(self.sources)
        """The number of files, also those that were finished earlier."""
        self.interrupted = False
        self.seconds = 0.0
        """The time since the first reader was ready."""
        self.frames = 0
        self.failed = 0
        self.nodes: dict[str, int] = {}
        """The number of files that each node has read."""
        self.exit_status = 0
        self._partly: dict[str, float] = {}
        for error in not_found:
            self.sources.append(unread(error.source, error.source, "failed") | {"error": str(error)})
            self._fail(error.exit_status)

    def add(self, file: ArchiveFile, node: str, source: Mapping[str, Any], exit_status: int) -> None:
        """Note what became of a file."""
        self.sources.append(dict(source))
        self._partly.pop(file.name, None)
        self._left.pop(file.name)
        self.frames += source["frames"]
        self.nodes[node] = self.nodes.get(node, 0) + 1
        if source["error"]:
            self._fail(exit_status)

    def lost(self, file: ArchiveFile, node: str, losses: str) -> None:
        """Note that a file has failed because it ends its readers."""
        source = unread(file.name, redact(file.url), "failed")
        self.add(file, node, source | {"error": f"{redact(file.url)}: {losses}"}, 1)

    def partly(self, fractions: Mapping[str, float]) -> None:
        """Note how much of the open files of a reader is read, 0–1."""
        self._partly.update((name, fraction) for name, fraction in fractions.items() if name in self._left)

    @property
    def done(self) -> int:
        """The number of files that are done."""
        return self.files - len(self._left)

    @property
    def seconds_left(self) -> float | None:
        """The remaining time by the bytes that were read so far, seconds; None if it is unknown."""
        left = sum(size * (1 - self._partly.get(name, 0.0)) for name, size in self._left.items())
        read = self._total - left
        return self.seconds / read * left if read and self.seconds else None

    def line(self) -> str:
        """Return ``17/50 files, 1200 frames, 93.1 fps, 2 nodes, 1 failed, 00:01:30 left``."""
        parts = [f"{self.done}/{self.files} files", f"{self.frames} frames"]
        parts += [f"{self.frames / self.seconds:.1f} fps"] if self.seconds else []
        parts += [f"{len(self.nodes)} node{'s' if len(self.nodes) > 1 else ''}"] if self.nodes else []
        parts += [f"{self.failed} failed"] if self.failed else []
        if self.seconds_left is not None and self.done < self.files:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            parts.append(f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02} left")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; ``sources`` is as in the summary of a run on one machine."""
        return {
            "files": self.files,
            "frames": self.frames,
            "decoded": sum(source["decoded"] for source in self.sources),
            "detections": sum(source["detections"] for source in self.sources),
            "seconds": round(self.seconds, 4),
            "fps": round(self.frames / self.seconds, 3) if self.seconds else 0.0,
            "files_by_node": self.nodes,
            "sources": sorted(self.sources, key=lambda source: str(source["name"])),
            "interrupted": self.interrupted,
        }

    def _fail(self, exit_status: int) -> None:
        self.failed += 1
        self.exit_status = max(self.exit_status, exit_status)
