"""Measure the load of the machine: the cost of each stream, and the measurements on which degradation is decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vision_infer.engine.device import available_cpus
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.schedule.degradation import StreamLoad
from vision_infer.service.streams.configured import ConfiguredStream
from vision_infer.service.streams.cost import Cost, MachineUsage, cost_of
from vision_infer.service.streams.degradation import can_degrade, full_costs, observe_streams, record_full_costs


class LoadMeter:
    """Measures running streams; safe to call from any thread.

    Args:
        supervisor: Runs the streams.
        configured: Returns the configured streams by name.
    """

    def __init__(self, supervisor: Supervisor, configured: Callable[[], Mapping[str, ConfiguredStream]]) -> None:
        self._supervisor = supervisor
        self._configured = configured

    def cost(self) -> Cost:
        """Return the resources that each stream uses, measured over about ten seconds."""
        full = full_costs(self._configured())
        return cost_of(self._supervisor.statuses(), self._supervisor.lane_statuses(), self._machine(), full)

    def observe(self) -> Mapping[str, StreamLoad]:
        """Return the measurements of streams that can degrade or have a rate, and record their costs at full quality."""
        streams = self._configured()
        if not any(stream.settings.fps or can_degrade(stream.settings) for stream in streams.values()):
            return {}
        statuses, lanes = self._supervisor.statuses(), self._supervisor.lane_statuses()
        cost = cost_of(statuses, lanes, self._machine())
        record_full_costs(streams, statuses, cost)
        return observe_streams(streams, statuses, lanes, cost)

    def _machine(self) -> MachineUsage:
        used, others = self._supervisor.cpu_cores
        return MachineUsage(available_cpus(), used, others)
