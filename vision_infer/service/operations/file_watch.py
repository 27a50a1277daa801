"""Watch the settings file while the service runs, and compare the old and new settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer.config.serve import ServeSettings
from vision_infer.core.clock import Clock

QUIET_NS = 200_000_000
"""The time without changes before the file is read, in nanoseconds: an editor may still be writing it."""

_Version = tuple[int, int, int, int, int]
"""The identity of a content: device, inode, size, modification time and status change time in nanoseconds."""


class FileWatch:
    """Detects changes of a file's content. It has no thread: the caller polls :meth:`changed`.

    The path is resolved each time, so that files replaced by renaming are detected, as are symbolic links that switch to another
    folder, as Kubernetes does. A missing file counts as unchanged.

    Create the watch before reading the file, so that no change is missed in between.

    Args:
        path: The file; it need not exist.
        clock: The monotonic clock.
        quiet_ns: The time without changes before a change is reported, in nanoseconds.
    """

    def __init__(self, path: Path, clock: Clock, quiet_ns: int = QUIET_NS) -> None:
        self.path = path
        self._clock = clock
        self._quiet_ns = quiet_ns
        self._reported = _version(path)
        self._new: _Version | None = None
        self._since_ns = 0

    def changed(self) -> bool:
        """Return whether the content has changed and is stable; True once for each change."""
        now = _version(self.path)
        if now is None or now == self._reported:
            self._new = None
            return False
        time_ns = self._clock.monotonic_ns()
        if now != self._new:
            self._new, self._since_ns = now, time_ns
            return False
        if time_ns - self._since_ns < self._quiet_ns:
            return False
        self._reported, self._new = now, None
        return True


def _version(path: Path) -> _Version | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, slots=True)
class StreamChanges:
    """The differences between two configurations, with names in the order of the newer one."""

    added: tuple[str, ...] = ()
    changed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The streams with changed settings, and the changed fields."""
    removed: tuple[str, ...] = ()
    ignored_fields: tuple[str, ...] = ()
    """The changed fields outside of streams, such as ``service.port``, which require a restart."""

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.ignored_fields)


def diff_streams(before: ServeSettings, after: ServeSettings) -> StreamChanges:
    """Compare two configurations."""
    old, new = before.streams, after.streams
    return StreamChanges(
        added=tuple(name for name in new if name not in old),
        changed={
            name: tuple(key for key in type(new[name]).model_fields if getattr(old[name], key) != getattr(new[name], key))
            for name in new
            if name in old and old[name] != new[name]
        },
        removed=tuple(name for name in old if name not in new),
        ignored_fields=tuple(_different(before, after)),
    )


def _different(before: ServeSettings, after: ServeSettings) -> list[str]:
    found: list[str] = []
    for name in ServeSettings.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if name in ("streams", "sinks") or old == new:
            continue
        if name in ("service", "results"):
            found += [f"{name}.{key}" for key in type(old).model_fields if getattr(old, key) != getattr(new, key)]
        else:
            found.append(name)
    return found
