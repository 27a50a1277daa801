"""Watch the configuration file while the service runs."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection
from pathlib import Path

from vision_infer.config.serve import ServeSettings
from vision_infer.core.clock import Clock

QUIET_NS = 1_000_000_000
"""The time without changes before the file is read, in nanoseconds: a program may still be writing it, and pause meanwhile."""
CONFIRM_NS = 5_000_000_000
"""The time without changes after which a file that removes most streams is read again, in nanoseconds."""

RELOADED_FIELDS = ("streams", "sinks", "credentials")
"""The settings that a running service takes over from a changed file."""

_log = logging.getLogger("vision_infer.service")

_Version = tuple[int, int, int, int, int]
"""The identity of a content: device, inode, size, modification time and status change time in nanoseconds."""


class FileWatch:
    """Detects changes of a file's content. It has no thread: the caller polls :meth:`changed`.

    The path is resolved each time, so that files replaced by renaming are detected, as are symbolic links that switch to another
    folder, as Kubernetes does. A missing file counts as unchanged, with a warning.

    Create the watch before reading the file, so that no change is missed in between.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.confirmed = False
        """Whether the last change was reported a second time, after :meth:`report_again`."""
        self._clock = clock
        self._quiet_ns = QUIET_NS
        self._reported = _version(path)
        self._new: _Version | None = None
        self._since_ns = 0
        self._warn_ns: float | None = None  # the time from which a missing file is logged; endless once it was

    def changed(self) -> bool:
        """Return whether the content has changed and is stable; True once for each change."""
        now = _version(self.path)
        time_ns = self._clock.monotonic_ns()
        if now is None:
            self._new = None
            self._warn_ns = self._warn_ns or time_ns + QUIET_NS  # an editor may be replacing it
            if time_ns >= self._warn_ns:
                self._warn_ns = math.inf
                _log.warning("%s is missing or cannot be read; the service continues with the last settings", self.path)
            return False
        self._warn_ns = None
        if now == self._reported:
            self._new = None
            return False
        if now != self._new:
            self._new, self._since_ns, self._quiet_ns = now, time_ns, QUIET_NS
            return False
        if time_ns - self._since_ns < self._quiet_ns:
            return False
        self._reported, self._new = now, None
        self.confirmed = self._quiet_ns == CONFIRM_NS
        return True

    def report_again(self) -> None:
        """Let :meth:`changed` report the last change again if the file is still the same after ``CONFIRM_NS``."""
        self._new, self._since_ns, self._quiet_ns = self._reported, self._clock.monotonic_ns(), CONFIRM_NS
        self._reported = None


def _version(path: Path) -> _Version | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def removes_most(before: Collection[str], after: Collection[str]) -> bool:
    """Return whether more than half of the streams are gone: the file may be incomplete."""
    return 2 * len(set(before).difference(after)) > len(before)


def restart_fields(before: ServeSettings, after: ServeSettings) -> list[str]:
    """Return the changed fields that require a restart, such as ``service.port``."""
    found: list[str] = []
    for name in ServeSettings.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if name in RELOADED_FIELDS or old == new:
            continue
        if name in ("service", "results"):
            found += [f"{name}.{key}" for key in type(old).model_fields if getattr(old, key) != getattr(new, key)]
        else:
            found.append(name)
    return found
