"""All lanes of a supervisor by name, with their failures and statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from vision_infer.core.clock import Clock
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.engine import Engine
from vision_infer.engine.gpu.ledger import gpu_memory_of
from vision_infer.engine.placeholder import PlaceholderEngine
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.loads import LaneLoad, ReplicaLoad
from vision_infer.pipeline.status import LaneStatus, ReplicaStatus

FAILING = 5
"""The number of failures in a row after which an engine counts as failing."""


class LaneTable:
    """The lanes, in sync with the dispatch."""

    def __init__(self, lanes: Iterable[Lane], dispatch: Dispatch, clock: Clock) -> None:
        self.by_name: dict[str, Lane] = {}
        self._dispatch = dispatch
        self._clock = clock
        for lane in lanes:
            self.add(lane)

    def add(self, lane: Lane) -> None:
        """Open a lane.

        Raises:
            ValueError: A lane with this name exists.
        """
        self._dispatch.add_lane(lane.settings, lane.engine)
        for settings, engine in zip(lane.replicas[1:], lane.engines[1:], strict=True):
            self._dispatch.add_replica(settings, engine)
        self.by_name[lane.name] = lane

    def remove(self, name: str) -> None:
        """Close a lane.

        Raises:
            ValueError: The lane is in use.
        """
        self._dispatch.remove_lane(name)
        del self.by_name[name]

    def swap(self, name: str, engine: Engine, timeout_s: float, replica: int | None) -> Engine | None:
        """Replace the engine of a replica, or add a replica (None); see :meth:`Supervisor.swap_engine`.

        Raises:
            ValueError: The new engine does not fit.
        """
        lane = self.by_name[name]
        if replica is None:
            self._dispatch.add_replica(lane.add_engine(engine), engine)
            return None
        old = lane.engines[replica]
        settings = lane.change_engine(engine, replica)
        return old if self._dispatch.swap_engine(settings, engine, timeout_s, replica) else None

    def of_group(self, group: str) -> list[Lane]:
        """Return the lanes of a group; the first has the model's own input size."""
        return [lane for lane in list(self.by_name.values()) if lane.group == group]

    def window(self, group: str) -> int:
        """Return the size of a stream's window: the frames of the largest batches in flight, the same number waiting, and a few
        between the engine and the sinks."""
        lanes = self.of_group(group)
        return 4 + 2 * max(sum(engine.in_flight * engine.batch_sizes[-1] for engine in lane.engines) for lane in lanes)

    def gpus(self, group: str) -> list[int]:
        """Return the GPUs whose engines read images from GPU memory, now or soon; empty if the engines read host memory."""
        for lane in self.of_group(group):
            if not isinstance(lane.engine, PlaceholderEngine):
                replicas = self._dispatch.load(lane.name)[0].replicas
                gpus = {replica.settings.gpu for replica in replicas} | lane.next_gpus
                removed = {replica.settings.gpu for replica in replicas if replica.removed}
                return sorted(gpu for gpu in gpus - removed if gpu is not None)
        return []

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
            statuses.append(_status_of(lane, load, waiting, flying, now))
        return statuses


def _status_of(lane: Lane, load: LaneLoad, waiting: int, flying: int, now_ns: int) -> LaneStatus:
    engine = lane.engine
    size = engine.input_size
    in_use = [replica for replica in load.replicas if not replica.removed]
    busy_ns = sum(replica.rate.per_second[0] for replica in in_use)
    in_flight = sum(replica.settings.in_flight for replica in in_use)
    return LaneStatus(
        name=lane.name,
        model=engine.card.name,
        engine=engine.name,
        input_size=(size.width, size.height),
        batch_sizes=engine.batch_sizes,
        in_flight=in_flight,
        flying=flying,
        waiting=waiting,
        batches=load.batches,
        frames=load.frames,
        busy_ns=load.engine_ns,
        utilization=_utilization(busy_ns, in_flight),
        inference_ms=load.times.quantiles_ms(now_ns),
        padded=load.padded,
        buffer_bytes=sum(engine.buffer_bytes for engine in lane.engines),
        failures=load.failures,
        error=load.error,
        failing=all(replica.failures_in_a_row >= FAILING for replica in in_use),
        replicas=tuple(_replica_status(replica) for replica in load.replicas),
        skeleton=() if engine.card.keypoints is None else engine.card.keypoints.skeleton,
    )


def _replica_status(replica: ReplicaLoad) -> ReplicaStatus:
    return ReplicaStatus(
        replica.settings.device,
        replica.engine.name,
        replica.batches,
        replica.frames,
        _utilization(replica.rate.per_second[0], replica.settings.in_flight),
        replica.failures,
        replica.removed or None,
        gpu_memory_of(replica.engine),
    )


def _utilization(busy_ns: float, in_flight: int) -> float:
    return min(1.0, round(busy_ns / 1e9 / in_flight, 4))
