"""CPU time, memory and threads of processes, and the load of other programs, read from ``/proc``. Linux only."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process so far, seconds, without its children.

    Raises:
        ProcessLookupError: If the process has ended.
    """
    fields = _stat(pid)
    if fields is None:
        raise ProcessLookupError(f"process {pid} has ended")
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int((_PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pss_bytes(pid: int) -> int:
    """Return the resident memory of a process, with its share of the pages that several processes use; 0 if it has ended."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def descendants(pid: int) -> set[int]:
    """Return a process and all processes that it or its descendants have started."""
    return _descendants(pid, _all_fields())


def threads(pid: int) -> int:
    """Return the number of threads of a process."""
    return len(os.listdir(_PROC / str(pid) / "task"))


def open_files(pid: int) -> int:
    """Return the number of open file descriptors of a process."""
    return len(os.listdir(_PROC / str(pid) / "fd"))


class ForeignLoad:
    """Measures the cores that other programs used during the context: all but this process and its descendants.

    Time that the host took (steal) counts as well.
    """

    cores = 0.0
    """The number of cores; available after the context has ended."""

    def __enter__(self) -> ForeignLoad:
        self._began, self._machine, self._own = time.monotonic(), _machine_s(), _own_s()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        others = (_machine_s() - self._machine) - (_own_s() - self._own)
        self.cores = max(0.0, others / (time.monotonic() - self._began))


def _stat(pid: int) -> list[str] | None:
    """Return the fields after the name; None if the process has ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _machine_s() -> float:
    """Return the CPU time of the machine, all cores: user, nice, system, interrupts, steal."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + soft + steal) / _TICKS


def _own_s() -> float:
    """Return the CPU time of this process and its descendants, including those that have ended."""
    fields = _all_fields()
    return sum(sum(map(int, fields[pid][11:15])) for pid in _descendants(os.getpid(), fields) if pid in fields) / _TICKS


def _all_fields() -> dict[int, list[str]]:
    return {int(name): found for name in os.listdir(_PROC) if name.isdigit() and (found := _stat(int(name))) is not None}


def _descendants(pid: int, fields: dict[int, list[str]]) -> set[int]:
    ours, more = {pid}, True
    while more:
        born = {one for one, found in fields.items() if int(found[1]) in ours} - ours
        ours, more = ours | born, bool(born)
    return ours
