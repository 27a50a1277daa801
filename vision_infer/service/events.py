"""Changes while the service runs: states of streams, steps of degradation, swapped, hanging and removed engines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vision_infer.core.clock import Clock
from vision_infer.core.result import utc
from vision_infer.pipeline.status import StreamEvent
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.stream.redact import redact

EngineChange = Literal["swapped", "added", "hanging", "removed"]


@dataclass(frozen=True, slots=True)
class DegradeEvent:
    """A stream degrades because the machine is overloaded, or recovers."""

    stream: str
    step: DegradationStep
    before: DegradationStep
    at_ns: int
    """The time of the change, monotonic nanoseconds."""
    reason: str
    """The measurement that caused the change; one line."""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """A change of a lane's engine."""

    lane: str
    change: EngineChange
    """``swapped``: the lane now uses this engine; ``added``: it uses this one as well; ``hanging``: the engine does not return a
    batch; ``removed``: the engine failed, and the lane continues on other devices."""
    engine: str
    """The engine's name: runtime-device-precision."""
    at_ns: int
    """The time of the change, monotonic nanoseconds."""
    reason: str = ""
    """The details; one line without secrets."""


@dataclass(frozen=True, slots=True)
class MovedEvent:
    """Another process of a cluster runs a stream from now on: its track ids and counts start again."""

    stream: str
    before: str
    """The node that ran it."""
    node: str | None
    """The node that runs it; None if it waits for one."""
    epoch: int
    at_ns: int
    """The time of the change, monotonic nanoseconds."""
    reason: str
    """Why it waits, or what happened; one line."""


ServiceEvent: TypeAlias = StreamEvent | EngineEvent | DegradeEvent | MovedEvent


def wall_ns_of(event: ServiceEvent, clock: Clock) -> int:
    """Return the time of an event in nanoseconds since 1970 (UTC)."""
    return clock.wall_ns() - (clock.monotonic_ns() - event.at_ns)


def kind_of(event: ServiceEvent) -> Literal["state", "engine", "degraded", "moved"]:
    """Return the ``type`` of an event's row."""
    match event:
        case StreamEvent():
            return "state"
        case EngineEvent():
            return "engine"
        case DegradeEvent():
            return "degraded"
        case MovedEvent():
            return "moved"


def to_row(event: ServiceEvent, wall_ns: int) -> str:
    """Return an event as one line of JSON, without secrets.

    Args:
        event: The event.
        wall_ns: Its time, nanoseconds since 1970 (UTC).
    """
    row: dict[str, str | int | None] = {"type": kind_of(event)}
    match event:
        case StreamEvent():
            row |= {"stream": event.stream, "state": event.state.value}
        case EngineEvent():
            row |= {"lane": event.lane, "change": event.change, "engine": event.engine}
        case DegradeEvent():
            row |= {"stream": event.stream, "step": event.step.word, "before": event.before.word}
        case MovedEvent():
            row |= {"stream": event.stream, "before": event.before, "node": event.node, "epoch": event.epoch}
    return json.dumps(row | {"at": utc(wall_ns), "reason": redact(event.reason)}, ensure_ascii=False)
