"""Lets streams give way while the machine is too small for them, in the order of :mod:`vision_infer.schedule.degradation`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from vision_infer.config.serve import StreamSettings
from vision_infer.core.clock import Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError
from vision_infer.pipeline.status import LaneStatus, StreamState, StreamStatus
from vision_infer.schedule.degradation import Change, Degradation, DegradationStep, StreamLoad
from vision_infer.service.events import DegradeEvent
from vision_infer.service.streams.configured import ConfiguredStream
from vision_infer.service.streams.cost import Cost, StreamCost
from vision_infer.stream.redact import redact

INTERVAL_S = 1.0
ALL_FPS = 1000.0
"""what a stream wants that wants all that come: more than any camera gives"""
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
"""reasons of frames that a faster machine would have inferred; on a busy one they count"""

_log = logging.getLogger("vision_infer.service")


def settings_at(settings: StreamSettings, step: DegradationStep) -> StreamSettings:
    """The settings by which a stream runs that has given way so far; a later step keeps what the earlier ones have changed."""
    changed = {}
    if step >= DegradationStep.SUBSTREAM and settings.degrade_detect is not None:
        changed["detect"] = settings.degrade_detect
    if step >= DegradationStep.MODEL and settings.degrade_model is not None:
        changed["model"] = settings.degrade_model
    return settings.model_copy(update=changed) if changed else settings


def can_give_way(settings: StreamSettings) -> bool:
    """Whether anything is configured for that."""
    return settings.degrade_detect is not None or settings.degrade_model is not None


def seen_streams(
    streams: Mapping[str, ConfiguredStream], statuses: Sequence[StreamStatus], lanes: Sequence[LaneStatus], cost: Cost
) -> dict[str, StreamLoad]:
    """What is known of the streams that want a rate, or can give way.

    Args:
        streams: by name.
        statuses: of those that run.
        lanes: the engines.
        cost: as measured.
    """
    engines = min(1.0, sum(lane.utilisation for lane in lanes))  # lanes share one device
    machine = max(cost.busy, engines)
    found: dict[str, StreamLoad] = {}
    for status in statuses:
        stream = streams.get(status.name)
        if stream is None or not status.live:
            continue
        able = _able(stream)
        if stream.settings.fps is None and not able:  # it takes what is left, and misses nothing
            continue
        found[status.name] = StreamLoad(
            step=stream.step,
            steps=able,
            live=status.state is StreamState.LIVE,
            wanted_fps=stream.settings.fps or ALL_FPS,
            weight=stream.settings.weight,
            results=status.results,
            lost=sum(count for reason, count in status.dropped.items() if reason in TOO_SLOW),
            busy=max(machine, min(1.0, status.usage.thread)),
        )
    return found


def remember_in_full(streams: Mapping[str, ConfiguredStream], statuses: Sequence[StreamStatus], cost: Cost) -> None:
    """Note what streams take while their picture and their network are those that are wanted: it is what they want back later.

    Args:
        streams: by name.
        statuses: of those that run.
        cost: as measured.
    """
    come = {status.name: status.decoded_fps for status in statuses}
    for one in cost.streams:
        stream = streams.get(one.name)
        if stream is not None and stream.step <= DegradationStep.RATE:
            wanted = stream.settings.fps
            rate = one.result_fps if wanted is None else min(wanted, max(one.result_fps, come.get(one.name, 0.0)))
            stream.in_full = one.at(rate, cost.machine) or stream.in_full


def in_full(streams: Mapping[str, ConfiguredStream]) -> dict[str, StreamCost | None]:
    """Of the streams that give way, what each would take if it did not; None where that was not measured."""
    return {name: stream.in_full for name, stream in streams.items() if stream.step}


def _able(stream: ConfiguredStream) -> frozenset[DegradationStep]:
    configured = {DegradationStep.SUBSTREAM: stream.settings.degrade_detect, DegradationStep.MODEL: stream.settings.degrade_model}
    return frozenset(step for step, what in configured.items() if what is not None and step not in stream.refused)


class Degrading:
    """Looks at the streams once a second, on a thread of its own, and lets the service carry out what is decided.

    Args:
        see: what is known of the streams now.
        carry_out: lets a stream go on at a step, for what was measured; raises what making a stream raises.
        tell: told each step that was taken.
    """

    def __init__(
        self,
        see: Callable[[], Mapping[str, StreamLoad]],
        carry_out: Callable[[str, DegradationStep, str], bool],
        tell: Callable[[DegradeEvent], None],
        clock: Clock,
    ) -> None:
        self._see = see
        self._carry_out = carry_out
        self._tell = tell
        self._clock = clock
        self._decide = Degradation()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service-degrade", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self) -> None:
        """Look no more; a step that is being taken may still be finished."""
        self._ended.set()

    def look(self) -> None:
        """Look once, and take the steps that are due."""
        for change in self._decide.look(self._clock.monotonic_ns(), self._see()):
            if self._ended.is_set():
                return
            reason = _measured(change)
            try:
                done = self._carry_out(change.stream, change.step, reason)
            except VisionInferError as error:
                _log.warning("%s: stays at %s: %s", change.stream, change.before.word, redact(str(error)))
                continue
            if done:
                event = DegradeEvent(change.stream, change.step, change.before, self._clock.monotonic_ns(), reason)
                level = logging.WARNING if change.step > change.before else logging.INFO
                _log.log(
                    level, "%s: degraded: %s, before: %s: %s", event.stream, event.step.word, event.before.word, event.reason
                )
                self._tell(event)

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - a thread is a boundary: nothing may vanish there
                _log.exception("the watch over the load met something unexpected, and goes on")


def _measured(change: Change) -> str:
    wanted = change.load.wanted_fps
    of = "" if wanted >= ALL_FPS else f" of {wanted:g}"
    return f"{change.got_fps:.1f}{of} fps, {change.load.busy:.0%} busy"
