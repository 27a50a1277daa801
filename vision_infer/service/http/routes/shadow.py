"""The shadow model: a candidate that is compared with the current model, and can be promoted."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import Field

from vision_infer.config.service.shadow import ShadowSettings
from vision_infer.service.errors import ConflictError
from vision_infer.service.http.api_models import ApiModel
from vision_infer.service.http.context import Context, Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.shadow.agreement import Sums
from vision_infer.service.shadow.shadow import Shadow
from vision_infer.service.shadow.trial import ShadowStatus

router = APIRouter(prefix="/api/v1", tags=["shadow"])


class EngineFigures(ApiModel):
    """The mean times of a model's engine, milliseconds."""

    latency_ms: float | None = Field(description="The time until the batch of the frame was done.")
    cost_ms: float | None = Field(
        description="The engine time for each frame: its part of the batch. The candidate runs single frames at low priority."
    )


class AgreementAnswer(ApiModel):
    """The agreement of the candidate with the current model."""

    frames: int = Field(description="The number of compared frames.")
    found_again: float | None = Field(
        description="The part of the current model's detections that the candidate finds again: the same class, and an IoU of at "
        "least 0.5. 0–1; null without detections."
    )
    mean_iou: float | None = Field(description="The mean IoU of these, 0–1.")
    score_shift: float | None = Field(description="Their mean score of the candidate minus that of the current model.")
    count_drift: float | None = Field(description="The mean number of additional detections of the candidate for each frame.")
    current: EngineFigures
    candidate: EngineFigures


class ShadowAnswer(ApiModel):
    """The shadow model."""

    settings: ShadowSettings
    current: str = Field(description="The model that the candidate is compared with; after a promotion of an engine, with that.")
    state: Literal["loading", "comparing", "waiting", "failed"] = Field(
        description="`waiting`: there is no spare capacity, and the candidate gets no frames."
    )
    reason: str = Field(description="The reason for `waiting` or `failed`.")
    engine: str = Field(description="The candidate's engine; empty until it is loaded.")
    skipped: dict[str, int] = Field(
        description="The number of frames that the candidate did not infer: `loading`, `no_capacity`, `busy` with another frame, "
        "or `failed`. The streams have their results of the current model."
    )
    recent: AgreementAnswer = Field(description="Over the latest 500 compared frames.")
    total: AgreementAnswer = Field(description="Over all compared frames.")


def agreement_answer(sums: Sums) -> AgreementAnswer:
    """Return sums as the API shows them."""

    def mean(value: float, count: int, digits: int = 4) -> float | None:
        return round(value / count, digits) if count else None

    latency, cost, candidate_latency, candidate_cost = (mean(time_ns / 1e6, sums.frames, 3) for time_ns in sums.times)
    return AgreementAnswer(
        frames=sums.frames,
        found_again=mean(sums.found_again, sums.current),
        mean_iou=mean(sums.iou, sums.found_again),
        score_shift=mean(sums.score_change, sums.found_again),
        count_drift=mean(sums.candidate - sums.current, sums.frames),
        current=EngineFigures(latency_ms=latency, cost_ms=cost),
        candidate=EngineFigures(latency_ms=candidate_latency, cost_ms=candidate_cost),
    )


def shadow_answer(status: ShadowStatus) -> ShadowAnswer:
    """Return a status as the API shows it."""
    return ShadowAnswer(
        settings=status.settings,
        current=status.current,
        state=status.state,
        reason=status.reason,
        engine=status.engine,
        skipped=dict(status.skipped),
        recent=agreement_answer(status.recent),
        total=agreement_answer(status.total),
    )


def _shadow_of(context: Context) -> Shadow:
    shadow = context.backend.shadow
    if shadow is None:
        raise ConflictError("a shadow model needs a service in one process", "Set processes: 1, without a cluster.")
    return shadow


@router.get("/shadow", responses=problems())
def get_shadow(context: Shared) -> ShadowAnswer | None:
    """Return the shadow model and its agreement with the current model; null if there is none."""
    status = None if context.backend.shadow is None else context.backend.shadow.status()
    return None if status is None else shadow_answer(status)


@router.put("/shadow", responses=problems(403, 404, 409, 415, 422, 507))
def put_shadow(settings: ShadowSettings, context: Shared) -> ShadowAnswer:
    """Start a shadow model in place of any earlier one. It survives a restart of the service."""
    return shadow_answer(_shadow_of(context).put(settings))


@router.delete("/shadow", status_code=204, responses=problems(403, 409, 507))
def delete_shadow(context: Shared) -> Response:
    """End the shadow model."""
    _shadow_of(context).delete()
    return Response(status_code=204)


@router.post("/shadow/promote", responses=problems(403, 409, 507))
def promote_shadow(context: Shared) -> ShadowAnswer:
    """Run all streams of the current model with the candidate, and make the previous model the shadow.

    The cameras stay connected; tracks and counts start again. It survives a restart. Promote again to undo it.
    """
    return shadow_answer(_shadow_of(context).promote())
