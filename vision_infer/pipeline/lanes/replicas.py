"""Opens the engines of a lane: one on each device of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import devices_of
from vision_infer.engine.engine import Engine, device_of
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.warm_start import WarmStart
from vision_infer.engine.store.cache import OnMessage
from vision_infer.pipeline.lanes.lane import Lane

if TYPE_CHECKING:
    from vision_infer.pipeline.supervisor import Supervisor

OpenEngine = Callable[[Path, EngineRequest, OnMessage], tuple[Engine, WarmStart | None]]
"""Opens an engine on one device; returns it, and what to do to get a better one."""


@dataclass(frozen=True, slots=True)
class OpenedReplica:
    """An open engine on one device."""

    engine: Engine
    quick: WarmStart | None
    """What to do to get a better engine in its place; None: nothing."""
    others: list[WarmStart] = field(default_factory=list)
    """What to do to get engines on further devices, for which this one on the CPU runs until then."""


def open_replicas(path: Path, request: EngineRequest, open_it: OpenEngine, on_message: OnMessage) -> list[OpenedReplica]:
    """Open a model on each device of a request, at least one. A device on which it cannot be opened is reported and left out.

    An engine that opens on the CPU until one for its GPU is built is kept once: it runs for all of these GPUs.

    Args:
        path: The deployment graph.
        request: Which engine to open, on one or more devices.
        open_it: Opens it on one device.
        on_message: Receives lines of text.

    Raises:
        EngineError: It cannot be opened on any of the devices: the error of the first.
        VisionInferError: What else ``open_it`` raises.
    """
    opened: list[OpenedReplica] = []
    failed: list[tuple[str, EngineError]] = []
    with ExitStack() as engines:
        for device in devices_of(request.device, on_message):
            try:
                engine, quick = open_it(path, replace(request, device=device), on_message)
            except EngineError as error:
                failed.append((device, error))
                continue
            on_cpu = None if device == "cpu" else _on_cpu(engine, opened)
            if on_cpu is None:
                engines.push(engine)
                opened.append(OpenedReplica(engine, quick))
                continue
            engine.__exit__(None, None, None)
            if quick is None:
                failed.append((device, EngineError("the lane runs on the CPU already")))
            else:
                samples = None if on_cpu.quick is None else on_cpu.quick.samples
                on_cpu.others.append(replace(quick, samples=samples))
        if not opened:
            raise failed[0][1]
        engines.pop_all()
    for device, reason in failed:
        on_message(f"{device} is not used: {reason}")
    return opened


def _on_cpu(engine: Engine, opened: Sequence[OpenedReplica]) -> OpenedReplica | None:
    """Return the open engine on the CPU, if this one is there too."""
    if device_of(engine) != "cpu":
        return None
    return next((one for one in opened if device_of(one.engine) == "cpu"), None)


def make_replicated(opened: Sequence[OpenedReplica], make: Callable[[Engine], Lane]) -> Lane:
    """Make a lane of open engines, which are closed if that fails."""
    with ExitStack() as engines:
        for replica in opened:
            engines.push(replica.engine)
        lane = make(opened[0].engine)
        for replica in opened[1:]:
            lane.add_engine(replica.engine)
        engines.pop_all()
    return lane


def put_in(supervisor: Supervisor, lane: Lane, opened: Sequence[OpenedReplica]) -> None:
    """Give engines to a running lane that has none."""
    supervisor.swap_engine(lane.name, opened[0].engine)
    for replica in opened[1:]:
        supervisor.swap_engine(lane.name, replica.engine, replica=None)
