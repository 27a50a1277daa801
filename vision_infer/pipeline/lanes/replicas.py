"""Opens the engines of a lane: one on each device of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import devices_of
from vision_infer.engine.engine import Engine
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

    request: EngineRequest
    """The request for this device."""
    engine: Engine
    quick: WarmStart | None
    """What to do to get a better engine; None: nothing."""


def open_replicas(path: Path, request: EngineRequest, open_it: OpenEngine, on_message: OnMessage) -> list[OpenedReplica]:
    """Open a model on each device of a request, at least one. A device on which it cannot be opened is reported and left out.

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
            on_device = replace(request, device=device)
            try:
                engine, quick = open_it(path, on_device, on_message)
            except EngineError as error:
                failed.append((device, error))
                continue
            engines.push(engine)
            opened.append(OpenedReplica(on_device, engine, quick))
        if not opened:
            raise failed[0][1]
        engines.pop_all()
    for device, reason in failed:
        on_message(f"{device} is not used: {reason}")
    return opened


def make_replicated(opened: Sequence[OpenedReplica], make: Callable[[Engine], Lane]) -> Lane:
    """Make a lane of open engines, which are closed if that fails."""
    with ExitStack() as engines:
        for replica in opened:
            engines.push(replica.engine)
        first, *others = opened
        lane = make(first.engine)
        lane.set_device(first.request.device)
        for replica in others:
            lane.add_engine(replica.engine, replica.request.device)
        engines.pop_all()
    return lane


def put_in(supervisor: Supervisor, lane: Lane, opened: Sequence[OpenedReplica]) -> None:
    """Give engines to a running lane that has none."""
    first, *others = opened
    lane.set_device(first.request.device)
    supervisor.swap_engine(lane.name, first.engine)
    for replica in others:
        supervisor.add_replica(lane.name, replica.engine, replica.request.device)
