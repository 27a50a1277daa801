"""Degrade streams while the machine is overloaded, in the order of :mod:`vision_infer.schedule.degradation`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from vision_infer.config.serve import StreamSettings
from vision_infer.core.clock import Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError
from vision_infer.engine.device import available_cpus
from vision_infer.pipeline.status import LaneStatus, StreamState, StreamStatus
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.schedule.degradation import Change, Degradation, DegradationStep, StreamLoad
from vision_infer.service.events import DegradeEvent
from vision_infer.service.streams.configured import ConfiguredStream
from vision_infer.service.streams.cost import Cost, MachineUsage, StreamCost, cost_of
from vision_infer.stream.redact import redact

INTERVAL_S = 1.0
ALL_FPS = 1000.0
"""The wanted rate of a stream without ``fps``: more than any camera delivers."""
TOO_SLOW = frozenset(
    reason.value
    for reason in (
        DropReason.SUPERSEDED,
        DropReason.OUTDATED,
        DropReason.BACKLOGGED,
        DropReason.STALE,
        DropReason.NOT_REFERENCED,
        DropReason.TO_KEYFRAME,
    )
)
"""The drop reasons that a faster machine would have avoided."""

_log = logging.getLogger("vision_infer.service")


def settings_at(settings: StreamSettings, step: DegradationStep) -> StreamSettings:
    """Return the settings of a stream at a step of degradation. Later steps include the changes of earlier ones."""
    changed = {}
    if step >= DegradationStep.SUBSTREAM and settings.degrade_detect is not None:
        changed["detect"] = settings.degrade_detect
    if step >= DegradationStep.MODEL and settings.degrade_model is not None:
        changed["model"] = settings.degrade_model
    return settings.model_copy(update=changed) if changed else settings


def can_degrade(settings: StreamSettings) -> bool:
    """Return whether a substream or a smaller model is configured."""
    return settings.degrade_detect is not None or settings.degrade_model is not None


def observe_streams(
    streams: Mapping[str, ConfiguredStream], statuses: Sequence[StreamStatus], lanes: Sequence[LaneStatus], cost: Cost
) -> dict[str, StreamLoad]:
    """Return the measurements of all streams that want a rate or can degrade.

    Args:
        streams: The streams by name.
        statuses: The status of the running streams.
        lanes: The engines.
        cost: The measured costs.
    """
    engines = min(1.0, sum(lane.utilization for lane in lanes))  # lanes share one device
    machine = max(cost.busy, engines)
    observed: dict[str, StreamLoad] = {}
    for status in statuses:
        stream = streams.get(status.name)
        if stream is None or not status.live:
            continue
        steps = _available_steps(stream)
        if stream.settings.fps is None and not steps:  # it uses the remaining capacity and has no rate to miss
            continue
        observed[status.name] = StreamLoad(
            step=stream.step,
            steps=steps,
            live=status.state is StreamState.LIVE,
            wanted_fps=stream.settings.fps or ALL_FPS,
            weight=stream.settings.weight,
            results=status.results,
            lost=sum(count for reason, count in status.dropped.items() if reason in TOO_SLOW),
            busy=max(machine, min(1.0, status.usage.thread)),
        )
    return observed


def record_full_costs(streams: Mapping[str, ConfiguredStream], statuses: Sequence[StreamStatus], cost: Cost) -> None:
    """Record the cost of streams that use their configured source and model: they need it again when they recover.

    Args:
        streams: The streams by name.
        statuses: The status of the running streams.
        cost: The measured costs.
    """
    decoded_fps = {status.name: status.decoded_fps for status in statuses}
    for measured in cost.streams:
        stream = streams.get(measured.name)
        if stream is not None and stream.step <= DegradationStep.RATE:
            wanted, rate = stream.settings.fps, measured.result_fps
            if wanted is not None:
                rate = min(wanted, max(rate, decoded_fps.get(measured.name, 0.0)))
            stream.full_cost = measured.at(rate, cost.machine) or stream.full_cost


def full_costs(streams: Mapping[str, ConfiguredStream]) -> dict[str, StreamCost | None]:
    """Return the cost of each degraded stream at full quality; None if not measured."""
    return {name: stream.full_cost for name, stream in streams.items() if stream.step}


def _available_steps(stream: ConfiguredStream) -> frozenset[DegradationStep]:
    configured = {DegradationStep.SUBSTREAM: stream.settings.degrade_detect, DegradationStep.MODEL: stream.settings.degrade_model}
    return frozenset(step for step, value in configured.items() if value is not None and step not in stream.refused)


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


class DegradationMonitor:
    """Checks the load once a second on its own thread and applies the steps that the policy decides.

    Args:
        observe: Returns the current measurements of the streams.
        apply: Changes the step of a stream for a reason; returns False if the stream is gone. Raises the errors of a new stream.
        on_event: Called with each step that was applied.
    """

    def __init__(
        self,
        observe: Callable[[], Mapping[str, StreamLoad]],
        apply: Callable[[str, DegradationStep, str], bool],
        on_event: Callable[[DegradeEvent], None],
        clock: Clock,
    ) -> None:
        self._observe = observe
        self._apply = apply
        self._on_event = on_event
        self._clock = clock
        self._policy = Degradation()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service-degrade", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self) -> None:
        """Stop the thread; a step in progress may still complete."""
        self._ended.set()

    def check(self) -> None:
        """Check the load once and apply the steps that are due."""
        for change in self._policy.look(self._clock.monotonic_ns(), self._observe()):
            if self._ended.is_set():
                return
            reason = _measurement(change)
            try:
                done = self._apply(change.stream, change.step, reason)
            except VisionInferError as error:
                _log.warning("%s: stays at %s: %s", change.stream, change.before.word, redact(str(error)))
                continue
            if done:
                event = DegradeEvent(change.stream, change.step, change.before, self._clock.monotonic_ns(), reason)
                level = logging.WARNING if change.step > change.before else logging.INFO
                _log.log(
                    level, "%s: degraded: %s, before: %s: %s", event.stream, event.step.word, event.before.word, event.reason
                )
                self._on_event(event)

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            try:
                self.check()
            except Exception:  # noqa: BLE001 - errors must not end the thread silently
                _log.exception("unexpected error in the load monitor; it continues")


def _measurement(change: Change) -> str:
    wanted = change.load.wanted_fps
    of = "" if wanted >= ALL_FPS else f" of {wanted:g}"
    return f"{change.got_fps:.1f}{of} fps, {change.load.busy:.0%} busy"
