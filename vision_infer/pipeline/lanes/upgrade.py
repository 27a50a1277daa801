"""Better engines for running lanes: a child process of low priority makes them, a swap between two batches installs them."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from vision_infer.core.errors import VisionInferError
from vision_infer.engine.device import parse_device
from vision_infer.engine.engine import Engine
from vision_infer.engine.gpu.ledger import kept_for_a_build
from vision_infer.engine.open import EngineRequest, largest_batch, open_candidate
from vision_infer.engine.selection.lookup import find_choice
from vision_infer.engine.selection.tuning_store import EngineChoice
from vision_infer.engine.selection.warm_start import WarmStart
from vision_infer.engine.store.cache import OnMessage
from vision_infer.pipeline.lanes.child_process import run_child
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.replicas import OpenedReplica
from vision_infer.pipeline.status import LaneStatus
from vision_infer.stream.redact import redact

BUILD_AFTER_S = 1.0
"""The minimum age of a lane, seconds: a shorter run does not gain from another engine."""
AUTOTUNE_AFTER_S = 10.0
"""The same for autotuning, which costs several seconds of a core."""
LOOK_AGAIN_S = 1.0
"""The interval of checks whether a waiting lane is in use by now, seconds."""
BUILD_NICE = 5
"""The niceness of a build. A run keeps all cores busy: at 19, a build of 1.1 s of CPU time was not done after 22 s, two cores."""
AUTOTUNE_NICE = 10
COMPILE = "vision_infer.pipeline.lanes.engine_child"
AUTOTUNE = "vision_infer.precision.autotune_with_accuracy"
"""The modules that run in a child process; a pipeline must not import the second one."""

Runner = Callable[[Sequence[str], int, Callable[[], bool], OnMessage, BinaryIO | None], str | None]
"""Runs a command until it ends or has to stop; returns what failed, as a line, or None: see :func:`run_child`."""


class Swap(Protocol):
    """Puts an engine into a lane; returns the old one once it is free, as :meth:`Supervisor.swap_engine` does."""

    def __call__(self, name: str, engine: Engine, *, replica: int | None) -> Engine | None: ...


Statuses = Callable[[], Sequence[LaneStatus]]
"""Returns the status of all lanes, as :meth:`Supervisor.lane_statuses` does."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A lane that can get a better engine."""

    lane: str
    path: Path
    """The model's deployment graph."""
    request: EngineRequest
    quick: WarmStart
    data: tuple[str, ...] = ()
    """Videos on which autotuning can judge accuracy on the CPU."""
    on_kept: Callable[[], None] = lambda: None
    """Called if the lane keeps the engine that it has."""
    replica: int | None = 0
    """The number of the lane's replica that gets the engine; None: the lane has none on that device yet."""


class EngineUpgrade:
    """One thread that upgrades lanes, one after the other. Leave it before the supervisor is closed.

    The owner of a lane closes the engine that the lane has at the end; this class closes the engines that it replaces. If no
    better engine can be made for a graph and device, it is not tried again.

    Args:
        swap: Puts an engine into a lane.
        on_message: Receives a line for each engine that was swapped in, and for each failure.
        stopping: Ends the child process at once when it is set.
        runner: Runs the child processes; tests pass their own.
        statuses: Returns the status of the lanes: a lane without frames is not upgraded until it gets some. None: all are in use.
    """

    def __init__(
        self,
        swap: Swap,
        on_message: OnMessage,
        stopping: threading.Event | None = None,
        runner: Runner | None = None,
        statuses: Statuses | None = None,
    ) -> None:
        self._statuses = statuses
        self._swap = swap
        self._on_message = on_message
        self._stopping = stopping or threading.Event()
        self._runner = runner or run_child
        self._waiting: deque[Upgrade] = deque()
        self._failed: set[tuple[Path, str]] = set()
        # Guards the queue, the failures and the end. The callers of add() and close() hold it, and the thread while it picks an
        # upgrade or notes a failure.
        self._changed = threading.Condition()
        self._ended = False
        self._thread: threading.Thread | None = None

    def add(self, upgrade: Upgrade) -> None:
        """Queue an upgrade of a lane; return at once."""
        with self._changed:
            if self._ended:
                return
            if (upgrade.path, upgrade.quick.device) in self._failed:
                upgrade.on_kept()
                return
            self._waiting.append(upgrade)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine-upgrade", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the child process, if there is one, and wait until no lane is being changed."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> EngineUpgrade:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while (upgrade := self._next()) is not None:
            try:
                self._carry_out(upgrade)
            except Exception as error:  # noqa: BLE001 - the boundary of a thread: the lane keeps its engine
                reason = str(error) if isinstance(error, VisionInferError | ValueError) else f"{type(error).__name__}: {error}"
                self._keeps(upgrade, reason)

    def _next(self) -> Upgrade | None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._ended or self._waiting)
                if self._ended:
                    return None
                used = None if self._statuses is None else {lane.name for lane in self._statuses() if lane.frames}
                for upgrade in self._waiting:
                    if used is None or upgrade.lane in used:
                        self._waiting.remove(upgrade)
                        return upgrade
                self._changed.wait_for(lambda: self._ended, LOOK_AGAIN_S)

    def _stopped(self) -> bool:
        return self._ended or self._stopping.is_set()

    def _carry_out(self, upgrade: Upgrade) -> None:
        quick = upgrade.quick
        with self._changed:
            self._changed.wait_for(self._stopped, AUTOTUNE_AFTER_S if quick.better is None else BUILD_AFTER_S)
        if self._stopped():
            return
        # On a GPU, the upgrade of another replica may have decided meanwhile.
        better = None if quick.device == "cpu" else _choice_of(upgrade)
        if better is None:
            if quick.samples is not None and quick.samples.closed:  # with its lane, which may open again: this is not a failure
                upgrade.on_kept()
                return
            failure = self._run_child(upgrade)
            if self._stopped():
                return
            if failure is not None:
                self._keeps(upgrade, failure)
                return
            better = quick.better or _choice_of(upgrade)
        if better is None or better.candidate == quick.first:
            upgrade.on_kept()
            self._on_message(f"{upgrade.lane}: keeps {quick.first.engine if better is None else better.reason}")
            return
        self._put_in(upgrade, better)

    def _run_child(self, upgrade: Upgrade) -> str | None:
        """Let a child process compile the better engine, or find it; return what failed."""
        if upgrade.quick.better is None:
            command, nice = autotune_command(upgrade), AUTOTUNE_NICE
        else:
            command, nice = build_command(upgrade), BUILD_NICE

        def on_line(line: str) -> None:
            self._on_message(redact(f"{upgrade.lane}: {line}"))

        with kept_for_a_build(upgrade.quick.device):
            return self._runner(command, nice, self._stopped, on_line, upgrade.quick.samples)

    def _keeps(self, upgrade: Upgrade, reason: str) -> None:
        with self._changed:
            self._failed.add((upgrade.path, upgrade.quick.device))
        upgrade.on_kept()
        self._on_message(redact(f"{upgrade.lane}: keeps {upgrade.quick.first.engine}: {reason}"))

    def _put_in(self, upgrade: Upgrade, better: EngineChoice) -> None:
        engine = open_candidate(better.candidate, upgrade.request, self._on_message)
        try:
            engine.warm_up()
            if self._stopped():
                engine.__exit__(None, None, None)
                return
            old = self._swap(upgrade.lane, engine, replica=upgrade.replica)
        except BaseException:
            engine.__exit__(None, None, None)
            raise
        self._on_message(f"{upgrade.lane}: continues with {better.reason}")
        if old is not None:
            old.__exit__(None, None, None)


def upgrades_of(
    lane: Lane, path: Path, request: EngineRequest, opened: Sequence[OpenedReplica], data: tuple[str, ...] = ()
) -> list[Upgrade]:
    """Return the upgrades of a lane. While an engine for a GPU is being made, sources that open are decoded on that GPU.

    Args:
        lane: The lane, which runs the opened engines.
        path: The model's deployment graph.
        request: How the engines are used; its device does not matter.
        opened: The engines, in the order of the lane.
        data: Videos on which autotuning can judge accuracy on the CPU.
    """
    upgrades: list[Upgrade] = []
    for replica, one in enumerate(opened):
        # Those on further devices first: they need the frames that this engine keeps, and it ends when it is replaced.
        for quick, number in (*((other, None) for other in one.others), (one.quick, replica)):
            if quick is not None and quick.device == "cpu":
                upgrades.append(Upgrade(lane.name, path, request, quick, data, replica=number))
            elif quick is not None:
                gpu = parse_device(quick.device)[1]
                lane.next_gpus.add(gpu)
                upgrades.append(Upgrade(lane.name, path, request, quick, data, partial(lane.next_gpus.discard, gpu), number))
    return upgrades


def _choice_of(upgrade: Upgrade) -> EngineChoice | None:
    """Return what was decided for an upgrade's device."""
    folder = upgrade.request.engine_dir
    if folder is None:
        return None
    return find_choice(upgrade.path, folder, upgrade.quick.device, largest_batch(upgrade.path, upgrade.request))


def build_command(upgrade: Upgrade) -> list[str]:
    """Return the command that compiles the better engine into the cache. It times nothing, because the machine is busy."""
    assert upgrade.quick.better is not None
    candidate = upgrade.quick.better.candidate
    return [sys.executable, "-P", "-m", COMPILE, str(candidate.graph), candidate.engine, "cpu", *_profile(upgrade.request)]


def autotune_command(upgrade: Upgrade) -> list[str]:
    """Return the command that times all engines in turns and stores which one is best."""
    arguments = [str(upgrade.path), "auto", upgrade.quick.device, *_profile(upgrade.request), *upgrade.data]
    return [sys.executable, "-P", "-m", AUTOTUNE, *arguments]


def _profile(request: EngineRequest) -> list[str]:
    """Return the engine folder, and the batch size, workers and threads; 0 for a default."""
    assert request.engine_dir is not None, "a warm start needs an engine folder"
    return [str(request.engine_dir), *(str(number or 0) for number in (request.batch, request.workers, request.threads))]
