"""The resources of the machine that are available to the process: CPU time, memory, disk space, and a synchronized clock."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
"""A limit above this, bytes, means no limit in control groups version 1."""


@dataclass(frozen=True, slots=True)
class Grants:
    """The limits of the control groups. None: no limit, or unknown."""

    cpus: float | None
    """The limit of CPU time, in CPUs."""
    throttled: float | None
    """The fraction of periods, since the group was created, in which its CPU time was used up."""
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class MemorySize:
    """The memory of the machine, or the limit of the control group if that is less."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder for files."""

    free_bytes: int
    problem: str
    """Why nothing can be written there; empty if files can be written."""


def grants(proc: Path = PROC, cgroup: Path = CGROUP) -> Grants:
    """Return the limits of this process's control groups, version 1 or 2: its own group and all its parents."""
    cpus: list[float] = []
    throttled: list[float] = []
    memory: list[int] = []
    for folder in _groups(proc, cgroup):
        cpus += _quota(folder)
        throttled += _throttled(folder)
        for name in ("memory.max", "memory.limit_in_bytes"):
            memory += [value for value in _numbers(folder / name) if value < _UNLIMITED]
    return Grants(min(cpus, default=None), max(throttled, default=None), min(memory, default=None))


def memory(proc: Path = PROC, cgroup: Path = CGROUP) -> MemorySize | None:
    """Return the total and the available memory; None if unknown."""
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        values = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        total, available = values["MemTotal"], values["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    limit = grants(proc, cgroup).memory_bytes
    if limit is not None and limit < total:
        used = [value for folder in _groups(proc, cgroup) for value in _numbers(folder / "memory.current")]
        total, available = limit, min(available, limit - (used[0] if used else 0))
    return MemorySize(total, max(0, available))


def clock_synchronized() -> bool | None:
    """Return whether the kernel considers the clock synchronized; None if unknown."""
    if not sys.platform.startswith("linux"):
        return None

    class Timex(ctypes.Structure):
        """The beginning of ``struct timex``, see adjtimex(2)."""

        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 256),
        )

    timex = Timex()
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
            return None
    except (OSError, AttributeError):
        return None
    unsynchronized = 0x0040
    return not timex.status & unsynchronized


def disk(folder: Path) -> Disk:
    """Return the free space of the disk of a folder, which need not exist yet, and whether files can be written there."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return Disk(0, f"{place} is not a folder")
    free = 0
    with suppress(OSError):
        found = os.statvfs(place)
        free = found.f_bavail * found.f_frsize
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return Disk(free, error.strerror or str(error))
    return Disk(free, "")


def nvidia_devices(pci: Path = Path("/sys/bus/pci/devices")) -> int:
    """Return the number of NVIDIA graphics devices on the PCI bus, with or without a driver."""
    count = 0
    for device in pci.glob("*"):
        with suppress(OSError):
            is_display = (device / "class").read_text().startswith("0x03")
            count += is_display and (device / "vendor").read_text().strip() == "0x10de"
    return count


def _groups(proc: Path, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups, from its own up to the root, of both versions."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    seen: set[Path] = set()
    for line in [*lines, "0::/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        tops = [root / name for name in controllers.split(",")] + [root / controllers] if controllers else [root]
        for top in tops:
            folder = top / path.strip("/")
            while folder == top or top in folder.parents:
                if folder not in seen and ".." not in folder.parts and folder.is_dir():
                    seen.add(folder)
                    yield folder
                folder = folder.parent


def _quota(folder: Path) -> list[float]:
    """Return the limit of CPU time, in CPUs; empty if there is none."""
    pairs = [_numbers(folder / "cpu.max")]
    pairs.append(_numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us"))
    return [pair[0] / pair[1] for pair in pairs if len(pair) == 2 and pair[0] > 0 and pair[1] > 0]


def _throttled(folder: Path) -> list[float]:
    with suppress(OSError, ValueError):
        lines = (folder / "cpu.stat").read_text(encoding="ascii").splitlines()
        values = {name: int(value) for name, value in (line.split() for line in lines)}
        if values.get("nr_periods"):
            return [values.get("nr_throttled", 0) / values["nr_periods"]]
    return []


def _numbers(path: Path) -> list[int]:
    """Return the numbers in a file; empty if it does not exist or contains ``max``."""
    try:
        return [int(word) for word in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
