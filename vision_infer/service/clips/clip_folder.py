"""The folder of clips, limited in size: the oldest clips are removed first. A killed process leaves no incomplete clips.

A small JSON file next to each clip contains its events, so that they are available after a restart. It is written before the
clip.

Files of others are safe: a folder becomes a clip folder only while it contains nothing but clips, which a marker file records,
and only names of the clips' own pattern are read and removed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from vision_infer.core.errors import OutputError
from vision_infer.service.clips.event_log import EVENTS_KEPT, EventRecord
from vision_infer.sink.clip_file import clip_failure

_DAY_S = 86_400
_MAX_SIDECAR_BYTES = 16_000_000
MARKER = ".vision-infer-clips"
"""The file that marks a folder of clips."""
_OWN = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[A-Za-z0-9._-]+-[0-9a-f]{16}\.(mp4|json)", re.ASCII)
_PARTIAL = re.compile(rf"\.{_OWN.pattern}\.partial", re.ASCII)
_MAX_NAMES = 10
"""The maximum number of names in a line of the log."""
_log = logging.getLogger("vision_infer.service")


class ClipFolder:
    """The clips on disk. Any thread may read; only one thread may change them.

    Args:
        folder: The folder; created for the first clip.
        max_bytes: The maximum size of all clips together.
        keep_days: The maximum age of clips.
        keep_free_bytes: The disk space that must remain free.
    """

    def __init__(self, folder: Path, max_bytes: int, keep_days: float, keep_free_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._keep_s = keep_days * _DAY_S
        self._keep_free_bytes = keep_free_bytes
        # Guards _clips: the writer thread changes it, and threads that serve metrics read it.
        self._lock = threading.Lock()
        self._clips: OrderedDict[Path, tuple[int, float]] = OrderedDict()
        """The size in bytes and the modification time of each clip, oldest first."""

    @property
    def bytes(self) -> int:
        """The size of all clips."""
        with self._lock:
            return sum(size for size, _ in self._clips.values())

    @property
    def count(self) -> int:
        """The number of clips."""
        return len(self._clips)

    def read(self) -> list[EventRecord]:
        """Remove files that a killed process left, and return the events of all clips, oldest first."""
        records: list[EventRecord] = []
        try:
            if self.folder.is_dir():
                self._check_owned()
            names = sorted(os.listdir(self.folder))
        except OutputError as error:
            _log.error("%s", error)
            return []
        except OSError:
            return []
        own = [self.folder / name for name in names if _OWN.fullmatch(name)]
        partial = [self.folder / name for name in names if _PARTIAL.fullmatch(name)]
        for path in own:
            if path.suffix == ".mp4":
                with suppress(OSError):
                    status = path.stat()
                    self._clips[path] = (status.st_size, status.st_mtime)
                    records += _records(path, status.st_size)
        orphans = [path for path in own if path.suffix == ".json" and path.with_suffix(".mp4") not in self._clips]
        for path in partial + orphans:
            with suppress(OSError):
                path.unlink()
        log_removed(partial + orphans, "removed because a killed process left it")
        records.sort(key=lambda record: record.at_wall_ns)
        return records[-EVENTS_KEPT:]

    def check_space(self) -> None:
        """Create the folder if necessary and check the free disk space.

        Raises:
            OutputError: The folder cannot be created or holds other files, or the disk space is too low.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_owned()
            (self.folder / MARKER).touch()
            disk = os.statvfs(self.folder)
        except OSError as error:
            raise clip_failure(self.folder, error) from error
        free = disk.f_bavail * disk.f_frsize
        if free < self._keep_free_bytes:
            space = f"{free / 1e6:.0f} MB free, but clips.keep_free_mb requires {self._keep_free_bytes / 1e6:.0f} MB"
            raise OutputError(f"{self.folder}: the disk has {space}", "Free disk space, or lower clips.keep_free_mb.")

    def _check_owned(self) -> None:
        names = set(os.listdir(self.folder))
        # lost+found: an empty file system
        others = [name for name in names if name != "lost+found" and not (_OWN.fullmatch(name) or _PARTIAL.fullmatch(name))]
        if MARKER not in names and others:
            hint = f"Set clips.dir to an empty folder. If this folder is for clips only, create the file {MARKER} in it."
            raise OutputError(f"{self.folder}: contains other files, so no clips are stored there", hint)

    def write_sidecar(self, clip: Path, records: list[EventRecord], about: dict[str, Any]) -> None:
        """Write the events of a clip that is about to be complete.

        Raises:
            OutputError: The file cannot be written.
        """
        sidecar = clip.with_suffix(".json")
        partial = sidecar.with_name(f".{sidecar.name}.partial")
        text = json.dumps({**about, "events": [record.to_dict() for record in records]}, indent=1)
        try:
            partial.write_text(text + "\n", encoding="utf-8")
            os.replace(partial, sidecar)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise clip_failure(self.folder, error) from error

    def remove_sidecar(self, clip: Path) -> None:
        """Remove the events of a clip that could not be completed."""
        with suppress(OSError):
            clip.with_suffix(".json").unlink()

    def add(self, clip: Path, size: int, at_s: float) -> list[Path]:
        """Register a complete clip; return the clips that were removed to make space, possibly including this one."""
        with self._lock:
            self._clips[clip] = (size, at_s)
        gone: list[Path] = []
        while self.bytes > self._max_bytes and self._clips:
            gone.append(self._remove_oldest())
        return gone

    def expire(self, now_s: float) -> list[Path]:
        """Remove clips that are too old, and return them."""
        gone: list[Path] = []
        while self._clips and next(iter(self._clips.values()))[1] < now_s - self._keep_s:
            gone.append(self._remove_oldest())
        return gone

    def _remove_oldest(self) -> Path:
        with self._lock:
            path, _ = self._clips.popitem(last=False)
        for file in (path, path.with_suffix(".json")):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                _log.error("%s: cannot be removed: %s", file, error.strerror)
        return path


def log_removed(files: list[Path], why: str) -> None:
    """Log removed files in one line, which begins with the reason."""
    if files:
        more = f" and {len(files) - _MAX_NAMES} more" if len(files) > _MAX_NAMES else ""
        names = ", ".join(file.name for file in files[:_MAX_NAMES])
        _log.info("%s: %s: %s%s", files[0].parent, why, names, more)


def _records(clip: Path, size: int) -> list[EventRecord]:
    """Return the events in the JSON file of a clip; none if it cannot be read."""
    sidecar = clip.with_suffix(".json")
    try:
        if sidecar.stat().st_size > _MAX_SIDECAR_BYTES:
            return []
        about = json.loads(sidecar.read_text(encoding="utf-8"))
        return [
            EventRecord(
                str(one["event"]["id"]),
                str(one["stream"]),
                int(one["at_ns"]),
                dict(one["event"]),
                "ready",
                str(about["reason"]),
                clip,
                int(about["from_ns"]),
                float(about["seconds"]),
                size,
            )
            for one in about["events"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: the events cannot be read: %s", sidecar, type(error).__name__)
        return []
