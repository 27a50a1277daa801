"""The memory of each GPU: what this process uses, by purpose, and whether more fits.

Something that is about to be allocated counts from the moment it is added: two streams that start at the same time do not both
rely on the same free memory. What the device reports as used and no entry explains is CUDA itself, or another program.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary, ref

from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.accelerator import Accelerator, DeviceMemoryError

Kind = Literal["engine", "graphs", "decoder", "builder"]
"""An engine's weights, working memory and buffers; its recorded batches; a video decoder; the workspace of a build."""
BUILD_BYTES = 1_000_000_000
"""The maximum GPU memory for intermediate results of a build while other engines run on the GPU, bytes."""
_NAMES = {
    "engine": "engines",
    "graphs": "CUDA graphs",
    "decoder": "decoders",
    "builder": "builds",
    "other": "CUDA and other programs",
}


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """The memory of a GPU at one moment, bytes."""

    device: str
    """The name, such as ``cuda:0``."""
    total: int
    free: int
    """What the device reports as free, for all programs."""
    promised: int
    """The part of ``free`` that this process is about to allocate."""
    used: dict[str, int]
    """What this process uses by purpose: ``engine``, ``graphs``, ``decoder``, ``builder``; and ``other``, the remainder of what
    the device reports as used: CUDA itself, and other programs."""

    def __str__(self) -> str:
        used = ", ".join(f"{_NAMES[purpose]} {_mb(nbytes)}" for purpose, nbytes in self.used.items() if nbytes)
        promised = f", {_mb(self.promised)} MB of them promised" if self.promised else ""
        return f"{self.device} has {_mb(self.free)} of {_mb(self.total)} MB free{promised} (in use: {used or 'nothing'})"


@dataclass(frozen=True, slots=True, eq=False)
class LedgerEntry:
    """Something that uses memory."""

    kind: Kind
    measure: Callable[[], tuple[int, bool]]
    """Returns its size, bytes, and whether it is allocated already, so that the device reports it as used."""
    other: int | None = None
    """For a build in another process: what the device reported as used by CUDA and other programs before, bytes. What is added
    to that meanwhile belongs to the build, up to its size."""


class MemoryLedger:
    """What this process uses of one GPU's memory; use :func:`ledger_of` to get it."""

    def __init__(self, device: Accelerator) -> None:
        self._name = device.name
        self._device = ref(device)
        # Guards _entries. Held in add() while the free memory is compared, by the threads that open engines and streams.
        self._lock = threading.Lock()
        self._entries: list[LedgerEntry] = []

    def check(self, nbytes: int, what: str) -> None:
        """Refuse what does not fit into the free memory, less what was added before and is not allocated yet.

        Args:
            nbytes: Its approximate size.
            what: What needs the memory, for the message.

        Raises:
            DeviceMemoryError: It does not fit; the message says what uses the memory.
            EngineError: The device has failed.
        """
        with self._lock:
            self._check(nbytes, what)

    def add(self, kind: Kind, nbytes: int, what: str, measure: Callable[[], tuple[int, bool]]) -> LedgerEntry:
        """Add something that is about to be allocated; arguments and errors are those of :meth:`check`.

        Args:
            measure: See :class:`LedgerEntry`.
        """
        entry = LedgerEntry(kind, measure)
        with self._lock:
            self._check(nbytes, what)
            self._entries.append(entry)
        return entry

    def promise_build(self) -> LedgerEntry:
        """Promise the memory of a build in another process, which no stream can take meanwhile: see :func:`build_bytes`.

        Raises:
            EngineError: The device has failed.
        """
        with self._lock:
            now = self._report()
            nbytes = build_bytes(now.free)
            entry = LedgerEntry("builder", lambda: (nbytes, False), now.used["other"])
            self._entries.append(entry)
        return entry

    def note(self, kind: Kind, nbytes: int) -> LedgerEntry:
        """Add something that is allocated already."""
        entry = LedgerEntry(kind, lambda: (nbytes, True))
        with self._lock:
            self._entries.append(entry)
        return entry

    def remove(self, entry: LedgerEntry) -> None:
        """Remove something that is freed; it may have been removed before."""
        with self._lock:
            if entry in self._entries:
                self._entries.remove(entry)

    def report(self) -> GpuMemory:
        """Compare the entries with what the device reports.

        Raises:
            EngineError: The device has failed.
        """
        with self._lock:
            return self._report()

    def _check(self, nbytes: int, what: str) -> None:
        memory = self._report()
        if nbytes > memory.free - memory.promised:
            raise DeviceMemoryError(f"about {_mb(nbytes)} MB are needed for {what}, but {memory}")

    def _report(self) -> GpuMemory:
        device = self._device()
        if device is None:
            raise EngineError(f"{self._name} is closed")
        device.use()
        free, total = device.memory()
        used, promised = dict.fromkeys(_NAMES, 0), 0
        for entry in self._entries:
            nbytes, allocated = entry.measure()
            if allocated:
                used[entry.kind] += nbytes
            else:
                promised += nbytes
        used["other"] = max(0, total - free - sum(used.values()))
        for entry in self._entries:
            if entry.other is not None:
                allocated_there = min(entry.measure()[0], max(0, used["other"] - entry.other))
                used["builder"] += allocated_there
                used["other"] -= allocated_there
                promised -= allocated_there
        return GpuMemory(self._name, total, free, promised, used)


_ledgers: WeakKeyDictionary[Accelerator, MemoryLedger] = WeakKeyDictionary()
# Guards _ledgers. Held by ledger_of() only.
_ledgers_lock = threading.Lock()


def ledger_of(device: Accelerator) -> MemoryLedger:
    """Return the ledger of a device; there is one for each."""
    with _ledgers_lock:
        if device not in _ledgers:
            _ledgers[device] = MemoryLedger(device)
        return _ledgers[device]


def ledger_of_gpu(index: int) -> MemoryLedger | None:
    """Return the ledger of a GPU, as CUDA counts them; None if CUDA cannot use it."""
    try:
        from vision_infer.engine.gpu.cuda import cuda_device

        return ledger_of(cuda_device(index))
    except EngineError:
        return None


def build_bytes(free: int) -> int:
    """Return the memory that a build may use while other engines run on the GPU: a quarter of the free memory, at most 1 GB."""
    return min(BUILD_BYTES, free // 4)


@contextmanager
def kept_for_a_build(device: str) -> Iterator[None]:
    """Promise the memory of a build in another process, so that no stream takes it meanwhile.

    Args:
        device: The name, such as ``cuda:0``; for ``cpu``, or if CUDA cannot use the GPU, nothing is promised.
    """
    kind, _, index = device.partition(":")
    ledger = ledger_of_gpu(int(index or 0)) if kind == "cuda" else None
    entry = None
    if ledger is not None:
        with suppress(EngineError):
            entry = ledger.promise_build()
    try:
        yield
    finally:
        if ledger is not None and entry is not None:
            ledger.remove(entry)


def gpu_memory_of(engine: object) -> GpuMemory | None:
    """Return the memory of the GPU on which an engine accepts images; None if there is none, or it does not answer."""
    device = getattr(engine, "device", None)
    try:
        return None if device is None else ledger_of(device).report()
    except EngineError:
        return None


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.0f}"
