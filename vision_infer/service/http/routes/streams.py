"""Streams: list, create, change, remove, and take snapshots."""

from __future__ import annotations

import json
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from vision_infer.core.result import utc
from vision_infer.service.errors import UnknownStreamError
from vision_infer.service.http.api_models import StreamAnswer, stream_answer
from vision_infer.service.http.context import Client, Shared, StreamName
from vision_infer.service.http.openapi import TEXT, answer_of, problems, request_body
from vision_infer.service.http.problem import Problem
from vision_infer.service.streams.api_settings import from_api
from vision_infer.service.streams.cameras_file import cameras_file

router = APIRouter(prefix="/api/v1", tags=["streams"])


@router.get("/streams", responses=problems())
def list_streams(context: Shared) -> list[StreamAnswer]:
    """List all streams with their settings and status."""
    return [stream_answer(view, context.clock) for view in context.backend.streams()]


@router.get("/streams/{name}", responses=problems(404))
def get_stream(name: StreamName, context: Shared) -> StreamAnswer:
    """Return a stream with its settings and status: state, reason, counts, rates, ages."""
    return stream_answer(context.backend.stream(name), context.clock)


@router.get(
    "/cameras.yaml",
    response_class=Response,
    responses={200: answer_of("The configuration file.", "application/yaml", {"type": "object"}), **problems()},
)
def get_cameras_file(context: Shared) -> Response:
    """Return all streams as a configuration file for `vision-infer serve`, with references in place of the passwords."""
    text = cameras_file(context.backend.settings, context.backend.streams())
    disposition = {"Content-Disposition": 'attachment; filename="cameras.yaml"'}
    return Response(text, headers=disposition, media_type="application/yaml")


async def _settings_of(request: Request) -> dict[str, Any]:
    return settings_of(request.headers.get("content-type", ""), await request.body())


def settings_of(content_type: str, body: bytes) -> dict[str, Any]:
    """Return the settings in the body of a request.

    Raises:
        Problem: The body is not a JSON object.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem("unsupported-media-type", "send the settings as application/json", {"Accept": "application/json"})
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem("bad-request", "the body is not valid JSON") from None
    if not isinstance(data, dict):
        raise Problem("invalid", 'the settings must be an object: {"detect": "rtsp://…"}')
    return data


@router.put(
    "/streams/{name}",
    responses={201: {"description": "The stream was created.", "model": StreamAnswer}, **problems(403, 409, 415, 422, 507)},
    openapi_extra=request_body({"$ref": "#/components/schemas/StreamSettings"}, "application/json"),
)
def put_stream(
    name: StreamName, data: Annotated[dict[str, Any], Depends(_settings_of)], response: Response, context: Shared
) -> StreamAnswer:
    """Create a stream or replace its settings. Other streams are not interrupted.

    If the URL contains `***` in place of the password, as the API shows it, the stored password is kept.
    """
    backend = context.backend
    service = backend.settings.service
    try:
        before = backend.stream(name)
    except UnknownStreamError:
        response.status_code = 201
        view = backend.create(name, from_api(data, None, service))
    else:
        given = backend.settings.streams.get(name) if before.origin == "command_line" else None
        view = backend.replace(name, from_api(data, before.settings, service, given))
    return stream_answer(view, context.clock)


class ModelChoice(BaseModel):
    """The model that a stream switches to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(min_length=1, description="The name of the model; null means the service's model.")


@router.put("/streams/{name}/model", responses=problems(403, 404, 409, 415, 422, 507))
def put_model(name: StreamName, choice: ModelChoice, client: Client, context: Shared) -> StreamAnswer:
    """Switch a stream to another model between two frames. The connection stays open and no frame is lost.

    The engine is loaded first; until then the stream continues with the old model.
    """
    backend = context.backend
    known = choice.model is None or client.level == "admin" or choice.model in {model.name for model in backend.models()}
    if not known:  # an admin may name any graph on the machine
        raise Problem("forbidden", "the level operator allows only the models that GET /api/v1/models lists")
    settings = backend.stream(name).settings.model_copy(update={"model": choice.model})
    return stream_answer(backend.replace(name, settings), context.clock)


@router.delete("/streams/{name}", status_code=204, responses=problems(403, 404, 409, 507))
def delete_stream(name: StreamName, context: Shared) -> Response:
    """Remove a stream permanently."""
    context.backend.delete(name)
    return Response(status_code=204)


@router.get(
    "/streams/{name}/snapshot.jpg",
    response_class=Response,
    responses={
        200: answer_of("The image.", "image/jpeg")
        | {"headers": {"X-Captured-At": {"description": "The capture time (UTC).", "schema": TEXT}}},
        **problems(404, 503),
    },
)
async def get_snapshot(
    name: StreamName,
    context: Shared,
    annotated: Annotated[bool, Query(description="Draw the detections on the image.")] = False,
    timeout_s: Annotated[float, Query(ge=0.01, le=30, description="The time to wait for a frame, in seconds.")] = 10.0,
) -> Response:
    """Return the current image of the stream, or 503 with the stream's state if it delivers no frames."""
    limiter = context.snapshots
    async with limiter.slot():
        shot = await to_thread.run_sync(context.backend.snapshot, name, annotated, timeout_s, limiter=limiter.threads)
    return Response(shot.jpeg, headers={"X-Captured-At": utc(shot.captured_wall_ns)}, media_type="image/jpeg")
