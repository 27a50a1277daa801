"""Events: changes of streams and engines, events in zones and at lines, and their clips."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from vision_infer.core.result import utc
from vision_infer.core.scene_event import Direction, EventKind
from vision_infer.service.clips.event_log import EVENTS_KEPT, ClipState, EventRecord
from vision_infer.service.http.api_models import ApiModel, ChangeAnswer, Crossings, event_answer
from vision_infer.service.http.context import Shared, Time
from vision_infer.service.http.openapi import answer_of, problems
from vision_infer.service.http.problem import Problem
from vision_infer.stream.redact import redact

router = APIRouter(prefix="/api/v1", tags=["events"])

_NONE_NS, _ALL_NS = 0, 1 << 63
_WHY_NOT = {
    "none": "the stream's `clips` setting excludes this event",
    "missing": "this event has no clip",
    "failed": "the clip could not be written",
    "removed": "the clip was removed",
}


class ClipAnswer(ApiModel):
    """The clip of an event."""

    state: ClipState = Field(
        description="`none`: not configured; `recording`: being written; `ready`; `missing`: the video was no longer in memory; "
        "`failed`; `removed`: deleted to make space for newer clips."
    )
    reason: str = Field(description="The reason why there is no clip or why it ended early; may be empty.")
    url: str | None = Field(description="The URL of the clip; null unless it is ready.")
    from_: str | None = Field(alias="from", serialization_alias="from", description="The time of the first frame (UTC).")
    seconds: float | None
    bytes: int | None


class SceneEventAnswer(ApiModel):
    """An event of a track in a zone or at a line."""

    type: Literal["scene"] = "scene"
    id: str
    stream: str
    at: str = Field(description="The capture time of the frame (UTC).")
    kind: EventKind
    place: str = Field(description="The name of the zone or line.")
    track_id: int
    class_id: int
    label: str
    seconds: float | None = Field(description="For `leave` and `dwell`: the time spent inside the zone.")
    direction: Direction | None = Field(description="For `cross`: the direction.")
    counts: Crossings | None = Field(description="For `cross`: the crossings of the line up to this event.")
    clip: ClipAnswer


class ClipDownload(FileResponse):
    """A file whose errors about the ``Range`` header are problems, as all errors of the API."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_clip(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 416:
                headers = {"Content-Range": Headers(raw=message["headers"])["content-range"]}
                raise Problem("range-not-satisfiable", "the Range header is beyond the end of the clip", headers)
            if message["type"] == "http.response.start" and message["status"] == 400:
                raise Problem("bad-request", "the Range header is invalid")
            await send(message)

        await super().__call__(scope, receive, send_clip)


@router.get("/events", responses=problems(422))
def list_events(
    context: Shared,
    type_: Annotated[
        Literal["changes", "scene"],
        Query(alias="type", description="`changes`: changes of streams and engines; `scene`: events in zones and at lines."),
    ] = "changes",
    stream: Annotated[
        str | None, Query(max_length=64, description="Only events of this stream; excludes changes of engines.")
    ] = None,
    from_: Annotated[Time | None, Query(alias="from", description="The start of the time range (UTC).")] = None,
    to: Annotated[Time | None, Query(description="The end of the time range, exclusive (UTC).")] = None,
    limit: Annotated[
        int, Query(ge=1, le=EVENTS_KEPT, description="The maximum number of events; the newest are returned.")
    ] = 1024,
) -> list[ChangeAnswer | SceneEventAnswer]:
    """List the latest changes of streams and engines, or the latest events in zones and at lines, oldest first."""
    from_ns = _NONE_NS if from_ is None else round(from_.timestamp() * 1e9)
    to_ns = _ALL_NS if to is None else round(to.timestamp() * 1e9)
    if type_ == "scene":
        root = context.backend.settings.service.root_path
        return [scene_event(record, root) for record in context.backend.clips.events.last(stream, from_ns, to_ns, limit)]
    clock = context.clock
    since_ns = clock.wall_ns() - clock.monotonic_ns()
    changes = [
        event
        for event in context.backend.events()
        if stream in (None, getattr(event, "stream", "")) and from_ns <= event.at_ns + since_ns < to_ns
    ]
    return [event_answer(event, clock) for event in changes[-limit:]]


@router.head("/events/{event_id}/clip.mp4", include_in_schema=False)
@router.get(
    "/events/{event_id}/clip.mp4",
    response_class=Response,
    responses={
        200: answer_of("The clip.", "video/mp4"),
        206: {"description": "The requested part of the clip (`Range`)."},
        **problems(400, 404, 409, 416, 422),
    },
)
def get_clip(
    event_id: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", description="The id of the event, as in result rows.")],
    context: Shared,
) -> Response:
    """Download the clip of an event. Returns 409 while it is being written, and 404 with the reason if there is none."""
    record = context.backend.clips.events.get(event_id)
    if record is None:
        raise Problem("not-found", f"event {event_id} is unknown or too old", clip="unknown")
    if record.state == "recording":
        raise Problem(
            "conflict", "the clip is still being written; try again in a moment", {"Retry-After": "2"}, clip="recording"
        )
    path = record.clip
    if path is None or not path.is_file():
        state = "removed" if record.state == "ready" else record.state
        detail = f"{_WHY_NOT[state]}: {record.reason}" if record.reason else _WHY_NOT[state]
        raise Problem("not-found", redact(detail), clip=state)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return ClipDownload(path, media_type="video/mp4", headers=headers, filename=path.name, content_disposition_type="inline")


def scene_event(record: EventRecord, root: str) -> SceneEventAnswer:
    """Return an event as the API shows it; ``root`` is the path of the service."""
    ready = record.state == "ready"
    clip = ClipAnswer(
        state=record.state,
        reason=redact(record.reason),
        url=f"{root}/api/v1/events/{record.id}/clip.mp4" if ready else None,
        **{"from": utc(record.from_wall_ns) if ready and record.from_wall_ns is not None else None},
        seconds=round(record.seconds, 3) if ready and record.seconds is not None else None,
        bytes=record.bytes if ready else None,
    )
    missing = {"seconds": None, "direction": None, "counts": None}
    known = {"id": record.id, "stream": record.stream, "at": utc(record.at_wall_ns), "clip": clip}
    return SceneEventAnswer.model_validate(missing | {**record.event} | known)
