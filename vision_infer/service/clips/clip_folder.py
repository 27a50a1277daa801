"""The folder of clips: bounded, the oldest out first; after a kill nothing half is left under a clip's own name.

Beside each clip stands a small file with its events, so that they are found again after a restart.
It is in place before the clip.
"""

from __future__ import annotations

import json
import logging
import os
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
_log = logging.getLogger("vision_infer.service")


class ClipFolder:
    """Any thread may ask; one thread changes it.

    Args:
        folder: need not exist; it is made for the first clip.
        max_bytes: of all clips together.
        keep_days: older ones go.
        keep_free_bytes: of the disk.
    """

    def __init__(self, folder: Path, max_bytes: int, keep_days: float, keep_free_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._keep_s = keep_days * _DAY_S
        self._keep_free_bytes = keep_free_bytes
        self._lock = threading.Lock()
        self._clips: OrderedDict[Path, tuple[int, float]] = OrderedDict()
        """bytes and time of change, by file, the oldest first"""

    @property
    def bytes(self) -> int:
        """Of all clips."""
        with self._lock:
            return sum(size for size, _ in self._clips.values())

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._clips)

    def read(self) -> list[EventRecord]:
        """Clear away what a kill has left, and find the clips that are there, with their events, the newest last."""
        records: list[EventRecord] = []
        with suppress(OSError):
            for left in self.folder.glob(".*.partial"):
                with suppress(OSError):
                    left.unlink()
            for path in sorted(self.folder.glob("*.mp4")):
                with suppress(OSError):
                    status = path.stat()
                    self._clips[path] = (status.st_size, status.st_mtime)
                    records += _records(path, status.st_size)
            for path in self.folder.glob("*.json"):
                if not path.with_suffix(".mp4").exists():
                    with suppress(OSError):
                        path.unlink()
        records.sort(key=lambda record: record.at_wall_ns)
        return records[-EVENTS_KEPT:]

    def check_room(self) -> None:
        """Make the folder where it is not there yet.

        Raises:
            OutputError: a clip cannot be written now: there is no space, or no folder.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            disk = os.statvfs(self.folder)
        except OSError as error:
            raise clip_failure(self.folder, error) from error
        free = disk.f_bavail * disk.f_frsize
        if free < self._keep_free_bytes:
            left = f"{free / 1e6:.0f} MB left, and {self._keep_free_bytes / 1e6:.0f} MB are kept free"
            raise OutputError(f"{self.folder}: the disk has {left}", "make room, or lower clips.keep_free_mb")

    def note(self, clip: Path, records: list[EventRecord], about: dict[str, Any]) -> None:
        """Write down the events of a clip that is about to be in its place.

        Raises:
            OutputError: it cannot be written.
        """
        beside = clip.with_suffix(".json")
        partial = beside.with_name(f".{beside.name}.partial")
        text = json.dumps({**about, "events": [record.to_dict() for record in records]}, indent=1)
        try:
            partial.write_text(text + "\n", encoding="utf-8")
            os.replace(partial, beside)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise clip_failure(self.folder, error) from error

    def take_back(self, clip: Path) -> None:
        """A clip did not come into its place."""
        with suppress(OSError):
            clip.with_suffix(".json").unlink()

    def add(self, clip: Path, size: int, at_s: float) -> list[Path]:
        """A clip is in its place; returns those that had to go for it, itself perhaps."""
        with self._lock:
            self._clips[clip] = (size, at_s)
        gone: list[Path] = []
        while self.bytes > self._max_bytes and self._clips:
            gone.append(self._remove_oldest())
        return gone

    def expire(self, now_s: float) -> list[Path]:
        """Remove what is too old; returns what went."""
        gone: list[Path] = []
        while self._clips and next(iter(self._clips.values()))[1] < now_s - self._keep_s:
            gone.append(self._remove_oldest())
        return gone

    def _remove_oldest(self) -> Path:
        with self._lock:
            path, _ = self._clips.popitem(last=False)
        for one in (path, path.with_suffix(".json")):
            try:
                one.unlink(missing_ok=True)
            except OSError as error:
                _log.error("%s: cannot be removed: %s", one, error.strerror)
        return path


def _records(clip: Path, size: int) -> list[EventRecord]:
    """The events of a clip, as they stand beside it; none where that cannot be read."""
    beside = clip.with_suffix(".json")
    try:
        if beside.stat().st_size > _MAX_SIDECAR_BYTES:
            return []
        about = json.loads(beside.read_text(encoding="utf-8"))
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
        _log.warning("%s: its events cannot be read: %s", beside, type(error).__name__)
        return []
