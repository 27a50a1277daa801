"""All lanes of a supervisor by name, and how they do."""

from __future__ import annotations

from collections.abc import Iterable

from vision_infer.core.clock import Clock
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.lane import Lane
from vision_infer.pipeline.status import LaneStatus, lane_status_of


class LaneTable:
    """The lanes, in step with the dispatch."""

    def __init__(self, lanes: Iterable[Lane], dispatch: Dispatch, clock: Clock) -> None:
        self.by_name: dict[str, Lane] = {}
        self._dispatch = dispatch
        self._clock = clock
        self._failures: dict[str, tuple[int, str]] = {}
        for lane in lanes:
            self.add(lane)

    def add(self, lane: Lane) -> None:
        """Open a lane.

        Raises:
            ValueError: there is one with this name.
        """
        self._dispatch.add_lane(lane.settings)
        self.by_name[lane.name] = lane

    def remove(self, name: str) -> None:
        """Close a lane.

        Raises:
            ValueError: it is in use.
        """
        self._dispatch.remove_lane(name)
        del self.by_name[name]
        self._failures.pop(name, None)

    def window(self, name: str) -> int:
        """How many frames of a stream may be on their way: what the largest batches in flight hold, as much again waiting, and
        a few between the engine and the sinks."""
        engine = self.by_name[name].engine
        return 4 + 2 * engine.in_flight * engine.batch_sizes[-1]

    def failed(self, name: str, error: Exception) -> None:
        """The engine of a lane failed on a batch."""
        count, _ = self._failures.get(name, (0, ""))
        self._failures[name] = (count + 1, str(error))

    def statuses(self) -> list[LaneStatus]:
        """Every lane as it is now."""
        now = self._clock.monotonic_ns()
        statuses: list[LaneStatus] = []
        for lane in list(self.by_name.values()):
            load, waiting, flying = self._dispatch.load(lane.name)
            failures, error = self._failures.get(lane.name, (0, None))
            statuses.append(lane_status_of(lane, load, waiting, flying, failures, error, now))
        return statuses
