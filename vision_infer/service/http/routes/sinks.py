"""The status of sinks for results, events and states."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from vision_infer.core.result import utc
from vision_infer.service.http.api_models import ApiModel, shared_fields
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.sink.delivery.carrier import SinkStatus

router = APIRouter(prefix="/api/v1", tags=["about"])


class SinkAnswer(ApiModel):
    """The status of a sink."""

    name: str
    kind: Literal["jsonl", "parquet", "samples", "mqtt", "webhook", "kafka", "nats", "redis", "amqp", "notify"]
    connected: bool = Field(
        description="Whether the sink works: the receiver accepted the last record; for files: they can be written."
    )
    error: str | None = Field(description="The current error, one line; null if there is none.")
    queued: int = Field(description="The number of records in memory that are not on disk yet.")
    waiting: int = Field(description="The number of records on disk that wait to be sent.")
    spool_bytes: int = Field(description="The size of the spool on disk.")
    oldest: str | None = Field(description="The approximate time of the oldest waiting record (UTC); null if none waits.")
    sent: int = Field(description="The number of records accepted by the receiver, or rows written, since the start.")
    dropped: dict[str, int] = Field(description="The number of records lost or suppressed since the start, by reason.")
    rule: str | None = Field(description="For `notify`: the rule in words.")


@router.get("/sinks", responses=problems())
def list_sinks(context: Shared) -> list[SinkAnswer]:
    """List all sinks: result files, samples for labeling, brokers, message buses, webhooks and rules for messages to people."""
    return [_answer(status) for status in context.backend.sinks()]


def _answer(status: SinkStatus) -> SinkAnswer:
    oldest = None if status.oldest_wall_ns is None else utc(status.oldest_wall_ns)
    return SinkAnswer.model_validate(shared_fields(SinkAnswer, status) | {"oldest": oldest})
