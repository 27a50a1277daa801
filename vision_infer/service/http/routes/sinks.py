"""Where results, events and states are sent, and how that stands."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from vision_infer.core.result import utc
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.sink.delivery.carrier import SinkStatus
from vision_infer.stream.redact import redact

router = APIRouter(prefix="/api/v1", tags=["about"])


class SinkAnswer(BaseModel):
    """How a sink stands."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["jsonl", "parquet", "mqtt", "webhook"]
    connected: bool = Field(description="nothing is wrong: what was sent last was taken; of files: they can be written")
    error: str | None = Field(description="what is wrong at present, one line; null: nothing")
    queued: int = Field(description="what waits in memory for the disk")
    waiting: int = Field(description="records that wait on the disk to be sent")
    spool_bytes: int = Field(description="that the spool takes on the disk")
    oldest: str | None = Field(description="since when about the oldest of what waits does (UTC); null: nothing waits")
    sent: int = Field(description="records that were taken, rows that were written, since the start")
    dropped: dict[str, int] = Field(description="records that were lost since the start, by reason")


@router.get("/sinks", responses=problems())
def list_sinks(context: Shared) -> list[SinkAnswer]:
    """All sinks: files of results, brokers and web hooks."""
    return [_answer(status) for status in context.backend.sinks()]


def _answer(status: SinkStatus) -> SinkAnswer:
    return SinkAnswer.model_validate(
        {
            "name": status.name,
            "kind": status.kind,
            "connected": status.connected,
            "error": None if status.error is None else redact(status.error),
            "queued": status.queued,
            "waiting": status.waiting,
            "spool_bytes": status.spool_bytes,
            "oldest": None if status.oldest_wall_ns is None else utc(status.oldest_wall_ns),
            "sent": status.sent,
            "dropped": dict(status.dropped),
        }
    )
