"""Which file of an archive is read next, which are lost with their reader, and the progress. Pure: no Ray, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vision_infer.cluster.archive_files import ArchiveFile
from vision_infer.pipeline.runs.summary import FINISHED_EARLIER, unread
from vision_infer.stream.files.segments import Segment
from vision_infer.stream.redact import redact

MAX_LOSSES = 5
"""The number of lost readers after which a file fails, although each time the node was lost too."""


@dataclass(slots=True)
class _Split:
    """A file that is read in segments."""

    left: set[str] = field(default_factory=set)
    """The keys of the segments that are not read."""
    read_whole: bool = False


class ArchiveWork:
    """The files that are not done, and their segments.

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
        self._splits: dict[str, _Split] = {}

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
            opened: The keys of the files that the reader has.
        """
        keys = list(opened)
        if self._alone.intersection(keys):
            return None
        if self._todo:
            file = self._todo.popleft()
        elif self._suspects and not keys:
            file = self._suspects.popleft()
            self._alone.add(file.key)
        else:
            return None
        self._open[file.key] = file
        return file

    def finish(self, key: str) -> ArchiveFile:
        """Note that a file is done, and return it."""
        self._alone.discard(key)
        return self._open.pop(key)

    def split(self, key: str, segments: tuple[Segment, ...], read: Collection[int]) -> None:
        """Read a file in segments, next, and join their outputs at the end.

        Args:
            key: The file, which is open.
            segments: The segments.
            read: The numbers of those whose outputs exist already.
        """
        file = replace(self.finish(key), segments=segments)
        parts = [replace(file, part=number) for number in range(len(segments)) if number not in read]
        self._splits[file.name] = _Split({part.key for part in parts})
        self._todo.extendleft(reversed(parts))
        self._join_if_read(file)

    def finish_part(self, key: str, read_whole: bool) -> bool:
        """Note that a segment was read.

        Args:
            key: The segment.
            read_whole: Whether it was not as expected, so that the whole file has to be read.

        Returns:
            Whether its outputs are used.
        """
        file = self.finish(key)
        split = self._splits.get(file.name)
        if split is None:  # the file has failed
            return False
        split.left.discard(key)
        if read_whole and not split.read_whole:
            split.read_whole = True
            split.left.intersection_update(self._open)
            self._drop_parts(file.name)
        self._join_if_read(file)
        return not split.read_whole

    def fail(self, key: str) -> ArchiveFile | None:
        """Note that a file has failed, and return it; None if another of its segments has failed before."""
        file = self.finish(key)
        if file.part is not None:
            if self._splits.pop(file.name, None) is None:
                return None
            self._drop_parts(file.name)
        return replace(file, part=None)

    def lose(self, keys: Iterable[str], node_lost: bool) -> list[ArchiveFile]:
        """Note that a reader is lost, and return the files that have failed.

        Args:
            keys: The files that it had.
            node_lost: Whether its node was lost too.
        """
        failed = []
        for key in keys:
            losses = self._losses[key] = self._losses.get(key, 0) + 1
            if not self._is_needed(self._open[key]):
                self.finish_part(key, False)
            elif (key in self._alone and not node_lost) or losses >= MAX_LOSSES:
                failed.append(self.fail(key))
            elif node_lost and key not in self._alone:
                self._todo.appendleft(self.finish(key))
            else:
                self._suspects.append(self.finish(key))
        return [file for file in failed if file is not None]

    def _is_needed(self, file: ArchiveFile) -> bool:
        split = self._splits.get(file.name)
        return file.part is None or (split is not None and not split.read_whole)

    def _drop_parts(self, name: str) -> None:
        for waiting in (self._todo, self._suspects):
            kept = [file for file in waiting if file.name != name]
            waiting.clear()
            waiting.extend(kept)

    def _join_if_read(self, file: ArchiveFile) -> None:
        split = self._splits[file.name]
        if not split.left:
            del self._splits[file.name]
            self._todo.appendleft(replace(file, part=None, whole=split.read_whole))


class ArchiveProgress:
    """The account of a run over an archive.

    Args:
        todo: The files to read.
        finished: The files that an earlier run has finished.
        not_found: The arguments that name nothing, and why.
    """

    def __init__(self, todo: Iterable[ArchiveFile], finished: Iterable[ArchiveFile] = (), not_found: Iterable[Any] = ()) -> None:
        self.sources = [unread(file.name, redact(file.url), FINISHED_EARLIER) for file in finished]
        self._left = {file.key: float(max(1, file.size)) for file in todo}
        """The sizes of the files and segments that are not read, by key."""
        self._total = sum(self._left.values())
        self._not_done = set(self._left)
        self._read: dict[str, dict[str, Any]] = {}
        """The sums over the segments that are read, by file."""
        self._segments: dict[str, int] = {}
        """The number of segments of each file that is read in segments."""
        self.files = len(self._left) + len(self.sources)
        """The number of files, also those that were finished earlier."""
        self.interrupted = False
        self.seconds = 0.0
        """The time since the first reader was ready."""
        self.frames = 0
        self.failed = 0
        self.nodes: dict[str, int] = {}
        """The number of files that each node has read; of a file in segments, the node that has joined them."""
        self.exit_status = 0
        self._partly: dict[str, float] = {}
        for error in not_found:
            self.sources.append(unread(error.source, error.source, "failed") | {"error": str(error)})
            self._fail(error.exit_status)

    def add(self, file: ArchiveFile, node: str, source: Mapping[str, Any], exit_status: int) -> None:
        """Note what became of a file."""
        self.nodes[node] = self.nodes.get(node, 0) + 1
        self.frames += source["frames"]
        self._not_done.remove(file.name)
        self._left.pop(file.name, None)
        self._forget_segments(file)
        self.sources.append(_joined(self._read.pop(file.name, None), source))
        if source["error"]:
            self._fail(exit_status)

    def split(self, file: ArchiveFile, left: Collection[int], count: int) -> None:
        """Note that a file is read in segments.

        Args:
            file: The file.
            left: The numbers of the segments that have to be read.
            count: The number of its segments.
        """
        size = self._left.pop(file.name) / count
        self._segments[file.name] = count
        self._left |= {replace(file, part=number).key: size for number in left}

    def add_part(self, file: ArchiveFile, node: str, source: Mapping[str, Any]) -> None:
        """Note that a segment was read."""
        self.nodes.setdefault(node, 0)
        self._left.pop(file.key, None)
        self.frames += source["frames"]
        self._read[file.name] = _joined(self._read.get(file.name), source)

    def read_whole(self, file: ArchiveFile) -> None:
        """Note that a file is read as a whole after all; what was read of it does not count."""
        if file.name in self._not_done:
            self._discard(file)
            self._left[file.name] = float(max(1, file.size))

    def lost(self, file: ArchiveFile, node: str, losses: str) -> None:
        """Note that a file has failed because it ends its readers."""
        source = unread(file.name, redact(file.url), "failed")
        self._discard(file)
        self.add(file, node, source | {"error": f"{redact(file.url)}: {losses}"}, 1)

    def partly(self, fractions: Mapping[str, float]) -> None:
        """Note how much of the open files of a reader is read, 0–1."""
        self._partly.update((key, fraction) for key, fraction in fractions.items() if key in self._left)

    @property
    def done(self) -> int:
        """The number of files that are done."""
        return self.files - len(self._not_done)

    @property
    def seconds_left(self) -> float | None:
        """The remaining time by the bytes that were read so far, seconds; None if it is unknown."""
        left = sum(size * (1 - self._partly.get(key, 0.0)) for key, size in self._left.items())
        read = self._total - left
        return self.seconds / read * left if read and self.seconds else None

    def line(self) -> str:
        """Return ``17/50 files, 1200 frames, 93.1 fps, 2 nodes, 1 failed, 00:01:30 left``."""
        parts = [f"{self.done}/{self.files} files", f"{self.frames} frames"]
        parts += [f"{self.frames / self.seconds:.1f} fps"] if self.seconds else []
        parts += [] if self.seconds or self.done == self.files else ["waiting for a node"]
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

    def _discard(self, file: ArchiveFile) -> None:
        read = self._read.pop(file.name, None)
        self.frames -= 0 if read is None else read["frames"]
        self._forget_segments(file)

    def _forget_segments(self, file: ArchiveFile) -> None:
        for number in range(self._segments.pop(file.name, 0)):
            self._left.pop(replace(file, part=number).key, None)

    def _fail(self, exit_status: int) -> None:
        self.failed += 1
        self.exit_status = max(self.exit_status, exit_status)


def _joined(read: Mapping[str, Any] | None, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the summary about segments, from the sums so far and the next one, or the whole file."""
    if read is None:
        return dict(source)
    sums = {name: read[name] + source[name] for name in ("frames", "decoded", "detections")}
    reasons = {*read["dropped"], *source["dropped"]}
    dropped = {reason: read["dropped"].get(reason, 0) + source["dropped"].get(reason, 0) for reason in sorted(reasons)}
    warnings = list(dict.fromkeys([*read["warnings"], *source["warnings"]]))
    decoder = {"decoder": read["decoder"] or source["decoder"]}
    return {**source, **sums, **decoder, "dropped": dropped, "warnings": warnings}
