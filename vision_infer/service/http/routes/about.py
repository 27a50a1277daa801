"""Version, models, engines, health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from vision_infer import __version__
from vision_infer.engine.store.passport import Passport
from vision_infer.service.http.api_models import (
    EngineAnswer,
    ModelAnswer,
    ReadyAnswer,
    VersionAnswer,
    engine_answer,
    model_answer,
)
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import TEXT, answer_of, problems
from vision_infer.service.http.problem import Problem
from vision_infer.service.operations.passports import passport_of
from vision_infer.stream.redact import redact

router = APIRouter()


@router.get("/api/v1/version", tags=["about"], responses=problems())
async def get_version(context: Shared) -> VersionAnswer:
    """Return the version of the program."""
    return VersionAnswer(version=__version__, cluster=context.backend.nodes is not None)


@router.get("/api/v1/models", tags=["about"], responses=problems())
def list_models(context: Shared) -> list[ModelAnswer]:
    """List all models that streams can use."""
    return [model_answer(model) for model in context.backend.models()]


@router.get("/api/v1/engines", tags=["about"], responses=problems())
def list_engines(context: Shared) -> list[EngineAnswer]:
    """List all loaded engines and their utilization."""
    return [engine_answer(lane) for lane in context.backend.lanes()]


@router.get("/api/v1/engines/{name:path}/passport", tags=["about"], responses=problems(404))
def get_passport(name: str, context: Shared) -> Passport | None:
    """Return the passport of a loaded engine: its measured accuracy and speed, with device and date; null if it has none."""
    backend = context.backend
    lane = next((lane for lane in backend.lanes() if lane.name == name), None)
    if lane is None:
        raise Problem("not-found", "no engine with this name is loaded")
    return passport_of(lane, backend.settings)


@router.head("/healthz", include_in_schema=False)
@router.get(
    "/healthz",
    tags=["health"],
    response_class=Response,
    responses={200: answer_of("The process is alive.", "text/plain", TEXT)},
)
async def get_health() -> Response:
    """Return 200 while the process is alive. No token is required."""
    return Response("ok\n", media_type="text/plain")


@router.get(
    "/readyz",
    tags=["health"],
    responses={503: {"description": "Not ready, with the reason.", "model": ReadyAnswer}, **problems(401, 421, 429)},
)
def get_ready(response: Response, context: Shared) -> ReadyAnswer:
    """Return 200 if the service can run inference, otherwise 503 with the reason."""
    ready, reason = context.backend.ready()
    if not ready:
        response.status_code = 503
    return ReadyAnswer(ready=ready, reason="" if ready else redact(reason))


@router.get(
    "/metrics",
    tags=["health"],
    response_class=Response,
    responses={200: answer_of("Metrics in Prometheus text format.", "text/plain", TEXT), **problems()},
)
def get_metrics(request: Request) -> Response:
    """Return counters and gauges for Prometheus."""
    return Response(generate_latest(request.app.state.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
