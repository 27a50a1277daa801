"""The outcomes of a stream's frames, and explanations of why it had results at a given time, or none."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from vision_infer.core.clock import Clock
from vision_infer.core.result import utc
from vision_infer.service.http.api_models import ApiModel, StateChange, shared_fields, state_change
from vision_infer.service.http.context import Shared, StreamName, Time
from vision_infer.service.http.openapi import problems
from vision_infer.service.operations.why import explain
from vision_infer.telemetry.flight_recorder import FRAMES_KEPT, RESULT, FrameOutcome, Minute

router = APIRouter(prefix="/api/v1/streams/{name}", tags=["streams"])

DEFAULT_NS = 10_000_000_000


class FrameOutcomeAnswer(ApiModel):
    """The outcome of one frame."""

    outcome: str = Field(description="`result`, or the reason of the drop.")
    at: str = Field(description="The time when the outcome was determined (UTC).")
    index: int | None = Field(description="The frame number; null if the frame was dropped before decoding.")
    captured: str | None = Field(description="The capture time (UTC).")
    clock: str = Field(description="The source of the capture time: `arrival`, `camera` or `playout`.")
    pts_s: float | None
    since_capture_ms: dict[str, float] = Field(description="The time of each stage, milliseconds after capture.")
    age_ms: float | None = Field(description="The age of the result; null without one.")
    batch: int = Field(description="The number of frames in its batch; 0 if the frame was not inferred.")
    engine: str
    detections: int


class MinuteAnswer(ApiModel):
    """The outcomes of the frames of one minute."""

    from_: str = Field(alias="from", serialization_alias="from", description="The start of the minute (UTC).")
    outcomes: dict[str, int] = Field(description="The number of frames by outcome.")
    max_age_ms: int = Field(description="The maximum age of its results; 0 without results.")
    packets_received: int = Field(description="The number of RTP packets that were received; 0 if FFmpeg reads the stream.")
    packets_lost: int = Field(description="The number of RTP packets that were lost.")


class FramesAnswer(ApiModel):
    """The outcomes of a stream's frames: the last 4,096 individually, the last day by minute."""

    stream: str
    known_since: str | None = Field(description="The earliest time with individually recorded frames (UTC).")
    frames: list[FrameOutcomeAnswer] = Field(description="The frames in the order in which their outcomes were determined.")
    minutes: list[MinuteAnswer]
    changes: list[StateChange] = Field(description="The changes of the stream's state in this time range.")


class WhyAnswer(ApiModel):
    """The explanation of why a stream had results at a given time, or none."""

    stream: str
    at: str = Field(description="The time in question (UTC).")
    explanation: str = Field(description="The explanation.")
    hint: str = Field(description="The recommended action; may be empty.")
    ingest: Literal["rtp", "ffmpeg"] | None = Field(description="What reads the stream now, as in its status.")
    ingest_reason: str = Field(description="Why FFmpeg reads an RTSP camera although `ingest` is `auto`; else empty.")
    state: StateChange | None = Field(description="The stream's state at that time; null if unknown.")
    until: StateChange | None = Field(description="The next change of state; null if the state still applies.")
    minute: MinuteAnswer | None
    frames: list[FrameOutcomeAnswer] = Field(description="The frames captured around that time.")


@router.get("/frames", responses=problems(404, 422, 503))
def list_frames(
    name: StreamName,
    context: Shared,
    from_: Annotated[
        Time | None, Query(alias="from", description="The earliest capture time (UTC). Defaults to ten seconds ago.")
    ] = None,
    to: Annotated[Time | None, Query(description="The latest capture time, exclusive (UTC). Defaults to now.")] = None,
    limit: Annotated[
        int, Query(ge=1, le=FRAMES_KEPT, description="The maximum number of frames; the newest are returned.")
    ] = 1000,
) -> FramesAnswer:
    """List the outcome of each frame: the time of each stage, its batch and engine, and the reason if it has no result."""
    clock = context.clock
    flight = context.backend.flight(name)
    to_ns = clock.monotonic_ns() + 1 if to is None else _monotonic(to, clock)
    from_ns = to_ns - DEFAULT_NS if from_ is None else _monotonic(from_, clock)
    since = flight.frames.frames_since_ns
    return FramesAnswer(
        stream=name,
        known_since=None if since is None else _utc(since, clock),
        frames=[_frame(frame, clock) for frame in flight.frames.frames(from_ns, to_ns, limit)],
        minutes=[_minute(minute, clock) for minute in flight.frames.minutes(from_ns, to_ns)],
        changes=[state_change(event, clock) for event in flight.changes if from_ns <= event.at_ns < to_ns],
    )


@router.get("/why", responses=problems(404, 422, 503))
def get_why(
    name: StreamName,
    context: Shared,
    at: Annotated[Time | None, Query(description="The time in question (UTC). Defaults to now.")] = None,
) -> WhyAnswer:
    """Explain why the stream had results at a given time, or none."""
    clock = context.clock
    now_ns = clock.monotonic_ns()
    at_ns = now_ns if at is None else _monotonic(at, clock)
    flight = context.backend.flight(name)
    verdict = explain(flight, at_ns, now_ns)
    return WhyAnswer(
        stream=name,
        at=_utc(at_ns, clock),
        explanation=verdict.text,
        hint=verdict.hint,
        ingest=flight.ingest,
        ingest_reason=flight.ingest_reason,
        state=None if verdict.state is None else state_change(verdict.state, clock),
        until=None if verdict.until is None else state_change(verdict.until, clock),
        minute=None if verdict.minute is None else _minute(verdict.minute, clock),
        frames=[_frame(frame, clock) for frame in verdict.frames],
    )


def _monotonic(time: Time, clock: Clock) -> int:
    return round(time.timestamp() * 1e9) - clock.wall_ns() + clock.monotonic_ns()


def _utc(at_ns: int, clock: Clock) -> str:
    return utc(clock.wall_ns() - clock.monotonic_ns() + at_ns)


def _frame(frame: FrameOutcome, clock: Clock) -> FrameOutcomeAnswer:
    captured = frame.captured_ns
    times: dict[str, float] = {}
    if captured is not None and frame.times is not None:
        times = {_name(time): round((at_ns - captured) / 1e6, 3) for time, at_ns in frame.times.items()}
    return FrameOutcomeAnswer.model_validate(
        shared_fields(FrameOutcomeAnswer, frame)
        | {
            "at": _utc(frame.at_ns, clock),
            "captured": None if captured is None else _utc(captured, clock),
            "since_capture_ms": times,
            "age_ms": times.get("result") if frame.outcome == RESULT else None,
        }
    )


def _name(time: str) -> str:
    """Return the name of a time of a trace; a result is complete when it is emitted."""
    return "result" if time == "emitted_ns" else time.removesuffix("_ns")


def _minute(minute: Minute, clock: Clock) -> MinuteAnswer:
    return MinuteAnswer(**{"from": _utc(minute.from_ns, clock)}, **shared_fields(MinuteAnswer, minute))
