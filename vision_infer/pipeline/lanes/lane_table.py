"""All lanes of a supervisor by name, with their failures and statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from vision_infer.core.clock import Clock
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.engine import Engine, gpu_of
from vision_infer.engine.gpu.ledger import memory_of
from vision_infer.engine.placeholder import PlaceholderEngine
from vision_infer.pipeline.dispatch import Dispatch, LaneLoad
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.status import LaneStatus

FAILING = 5
"""The number of failures in a row after which an engine counts as failing."""


@dataclass(frozen=True, slots=True)
class _LaneFailures:
    count: int
    in_a_row: int = 0
    frames: int = 0
    """The number of frames inferred until the last failure."""
    error: str = ""


class LaneTable:
    """The lanes, in sync with the dispatch."""

    def __init__(self, lanes: Iterable[Lane], dispatch: Dispatch, clock: Clock) -> None:
        self.by_name: dict[str, Lane] = {}
        self._dispatch = dispatch
        self._clock = clock
        self._failures: dict[str, _LaneFailures] = {}
        for lane in lanes:
            self.add(lane)

    def add(self, lane: Lane) -> None:
        """Open a lane.

        Raises:
            ValueError: A lane with this name exists.
        """
        self._dispatch.add_lane(lane.settings, lane.engine)
        self.by_name[lane.name] = lane

    def remove(self, name: str) -> None:
        """Close a lane.

        Raises:
            ValueError: The lane is in use.
        """
        self._dispatch.remove_lane(name)
        del self.by_name[name]
        self._failures.pop(name, None)

    def swap(self, name: str, engine: Engine, timeout_s: float) -> Engine | None:
        """Replace the engine of a lane; return the old one once it is free, or None if it is not free in this time.

        Raises:
            ValueError: The new engine does not fit.
        """
        lane = self.by_name[name]
        old = lane.engine
        settings = lane.change_engine(engine)
        return old if self._dispatch.swap_engine(settings, engine, timeout_s) else None

    def of_group(self, group: str) -> list[Lane]:
        """Return the lanes of a group; the first has the model's own input size."""
        return [lane for lane in list(self.by_name.values()) if lane.group == group]

    def window(self, group: str) -> int:
        """Return the size of a stream's window: the frames of the largest batches in flight, the same number waiting, and a few
        between the engine and the sinks."""
        engines = [lane.engine for lane in self.of_group(group)]
        return 4 + 2 * max(engine.in_flight * engine.batch_sizes[-1] for engine in engines)

    def gpu(self, group: str) -> int | None:
        """Return the GPU whose engine reads images from GPU memory, now or soon; None if the engine reads host memory."""
        opened = [lane for lane in self.of_group(group) if not isinstance(lane.engine, PlaceholderEngine)]
        return next((lane.next_gpu if gpu_of(lane.engine) is None else gpu_of(lane.engine) for lane in opened), None)

    def chooser(self, group: str) -> Callable[[Size], str]:
        """Return a function from an image size to the name of its lane. It starts to open the lane's engine if needed."""
        lanes = self.of_group(group)
        by_size = {lane.engine.input_size: lane for lane in reversed(lanes)}
        if len(by_size) == 1:
            (only,) = by_size.values()
            return lambda size: only.name  # noqa: ARG005
        best = lru_cache(maxsize=16)(lambda size: by_size[best_input(size, tuple(by_size))])

        def choose(size: Size) -> str:
            lane = best(size)
            if isinstance(lane.engine, PlaceholderEngine):
                if lane.engine.failure is not None:  # the lane of the own input size is always open
                    return lanes[0].name
                if lane.want is not None:
                    lane.want()
            return lane.name

        return choose

    def give_up(self, name: str, error: EngineError) -> None:
        """Report that a lane gets no engine: frames that wait there fail, and later ones go into the first lane of its group."""
        lane = self.by_name.get(name)
        if lane is None:  # closed meanwhile
            return
        broken = PlaceholderEngine(lane.engine.card, lane.engine, error)
        self._dispatch.swap_engine(lane.change_engine(broken), broken, 0)

    def failed(self, name: str, error: Exception) -> None:
        """Count a failure of a lane's engine on a batch."""
        load, _, _ = self._dispatch.load(name)
        before = self._failures.get(name)
        if before is None or load.frames > before.frames:
            before = _LaneFailures(0 if before is None else before.count)
        self._failures[name] = _LaneFailures(before.count + 1, before.in_a_row + 1, load.frames, str(error))

    def statuses(self) -> list[LaneStatus]:
        """Return the status of every lane that has an engine."""
        now = self._clock.monotonic_ns()
        statuses: list[LaneStatus] = []
        for lane in list(self.by_name.values()):
            if isinstance(lane.engine, PlaceholderEngine):
                continue
            try:
                load, waiting, flying = self._dispatch.load(lane.name)
            except KeyError:  # it is being closed
                continue
            status = _status_of(lane, load, waiting, flying, now)
            failures = self._failures.get(lane.name)
            if failures is not None:
                failing = failures.in_a_row >= FAILING and failures.frames == load.frames
                status = replace(status, failures=failures.count, error=failures.error, failing=failing)
            statuses.append(status)
        return statuses


def _status_of(lane: Lane, load: LaneLoad, waiting: int, flying: int, now_ns: int) -> LaneStatus:
    engine = lane.engine
    size = engine.input_size
    return LaneStatus(
        name=lane.name,
        model=engine.card.name,
        engine=engine.name,
        input_size=(size.width, size.height),
        batch_sizes=engine.batch_sizes,
        in_flight=engine.in_flight,
        flying=flying,
        waiting=waiting,
        batches=load.batches,
        frames=load.frames,
        busy_ns=load.engine_ns,
        utilization=min(1.0, round(load.rate.per_second[0] / 1e9 / engine.in_flight, 4)),
        inference_ms=load.times.quantiles_ms(now_ns),
        padded=load.padded,
        buffer_bytes=engine.buffer_bytes,
        gpu_memory=memory_of(engine),
    )
