"""The configuration file while the service runs: whether it has changed, and what that means for the streams."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer.config.serve import ServeSettings
from vision_infer.core.clock import Clock

QUIET_NS = 200_000_000
"""so long a file must be as it is before it is read: an editor may be in the middle of writing it"""

_Version = tuple[int, int, int, int, int]
"""what tells one content from another: device, inode, size, and the times of the last change of content and of anything, ns"""


class FileWatch:
    """Tells when a file has another content than before. It is asked now and then; it has no thread.

    What counts is what the name leads to: files that editors replace by renaming are noticed, and so are symbolic links that are
    turned to another folder, as Kubernetes does. While the file is away nothing has changed.

    Make it before the file is read: what changes in between is then not missed.

    Args:
        path: the file; need not be there.
        clock: tells how long it has been quiet.
        quiet_ns: how long it must be, nanoseconds.
    """

    def __init__(self, path: Path, clock: Clock, quiet_ns: int = QUIET_NS) -> None:
        self.path = path
        self._clock = clock
        self._quiet_ns = quiet_ns
        self._told = _version(path)
        self._new: _Version | None = None
        self._since_ns = 0

    def changed(self) -> bool:
        """Whether there is another content that is quiet by now; true once for each."""
        now = _version(self.path)
        if now is None or now == self._told:
            self._new = None
            return False
        time_ns = self._clock.monotonic_ns()
        if now != self._new:
            self._new, self._since_ns = now, time_ns
            return False
        if time_ns - self._since_ns < self._quiet_ns:
            return False
        self._told, self._new = now, None
        return True


def _version(path: Path) -> _Version | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, slots=True)
class StreamChanges:
    """What is different between two configurations. Names are in the order of the later one."""

    added: tuple[str, ...] = ()
    changed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """streams that have other settings, and which fields"""
    removed: tuple[str, ...] = ()
    ignored_fields: tuple[str, ...] = ()
    """fields beside the streams that differ, such as ``service.port``: they need a restart"""

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.ignored_fields)


def diff_streams(before: ServeSettings, after: ServeSettings) -> StreamChanges:
    """What has to be done to get from one configuration to another."""
    old, new = before.streams, after.streams
    return StreamChanges(
        added=tuple(name for name in new if name not in old),
        changed={
            name: tuple(one for one in type(new[name]).model_fields if getattr(old[name], one) != getattr(new[name], one))
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
            found += [f"{name}.{one}" for one in type(old).model_fields if getattr(old, one) != getattr(new, one)]
        else:
            found.append(name)
    return found
