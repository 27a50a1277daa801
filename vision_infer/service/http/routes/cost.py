"""What each stream costs, from what was measured while it ran."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from vision_infer.config.serve import CostSettings
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.streams.cost import HEADROOM, HOURS_A_MONTH, Cost, StreamCost

router = APIRouter(prefix="/api/v1", tags=["about"])


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class StreamCostAnswer(_Answer):
    """What one stream takes, over the last ten seconds or so."""

    name: str
    result_fps: float
    decode_cores: float = Field(description="CPU cores that its own thread takes, which reads and decodes")
    shared_cores: float = Field(description="its part of all other CPU time of the service")
    accelerator: float | None = Field(description="its part of the engine's time, 0–1; null: the engine is the CPU")
    cpu_ms_per_result: float | None = Field(description="of all its CPU time; null without results")
    share: float = Field(description="of the machine: the larger of its parts of CPU and accelerator, 0–1")
    per_month: float | None = Field(description="price of that share for 730 hours; null: the machine's price is not set")
    per_1000_results: float | None
    at_fps: float | None = Field(description="the rate that was asked for")
    share_at_fps: float | None = Field(description="its share at that rate; null: nothing was measured")
    per_month_at_fps: float | None


class CostAnswer(_Answer):
    """What the streams take of the machine, and what is left."""

    says: str = Field(description="the same in a sentence")
    cores: float = Field(description="CPU cores that the service may use")
    cores_used: float = Field(description="that it uses")
    cores_others: float = Field(description="that other processes use")
    accelerator: float | None = Field(description="part of the busiest engine's time in use, 0–1; null: no engine but the CPU")
    busy: float = Field(description="part of the machine in use, 0–1")
    binding: str = Field(description="what will be used up first: cpu or accelerator")
    more_streams: int | None = Field(
        description="so many more like these fit, with headroom, if none gives way; null: that was not measured"
    )
    headroom: float = Field(description="part of the machine that may be used before ages rise")
    machine_per_hour: float | None = Field(description="as set; null: not set")
    currency: str
    unused_per_month: float | None = Field(description="price of what no stream uses")
    streams: list[StreamCostAnswer]


@router.get("/cost", responses=problems(422, 503))
def get_cost(
    context: Shared,
    fps: Annotated[float | None, Query(gt=0, le=1000, description="tell also what each stream would take at this rate")] = None,
) -> CostAnswer:
    """What each stream takes of the machine, measured, and its price by that part; and how many more streams would fit."""
    backend = context.backend
    cost, price = backend.cost(), backend.settings.cost
    machine = cost.machine
    used = sum(stream.share for stream in cost.streams)
    return CostAnswer(
        says=cost.says,
        cores=machine.cores,
        cores_used=round(machine.used, 3),
        cores_others=round(machine.others, 3),
        accelerator=_rounded(cost.accelerator),
        busy=round(cost.busy, 4),
        binding=cost.binding,
        more_streams=cost.more,
        headroom=HEADROOM,
        machine_per_hour=price.machine_per_hour,
        currency=price.currency,
        unused_per_month=_per_month(price, max(0.0, 1 - used)),
        streams=[_stream(stream, cost, price, fps) for stream in cost.streams],
    )


def _stream(stream: StreamCost, cost: Cost, price: CostSettings, fps: float | None) -> StreamCostAnswer:
    secondary = None if fps is None else stream.at(fps, cost.machine)
    per_month = _per_month(price, stream.share)
    results = stream.result_fps * 3600 * HOURS_A_MONTH
    return StreamCostAnswer(
        name=stream.name,
        result_fps=round(stream.result_fps, 2),
        decode_cores=round(stream.decode_cores, 4),
        shared_cores=round(stream.shared_cores, 4),
        accelerator=_rounded(stream.accelerator),
        cpu_ms_per_result=_rounded(stream.cpu_ms_per_result),
        share=round(stream.share, 4),
        per_month=per_month,
        per_1000_results=None if per_month is None or stream.cpu_ms_per_result is None else round(per_month / results * 1000, 6),
        at_fps=fps,
        share_at_fps=None if secondary is None else round(secondary.share, 4),
        per_month_at_fps=None if secondary is None else _per_month(price, secondary.share),
    )


def _per_month(price: CostSettings, share: float) -> float | None:
    return None if price.machine_per_hour is None else round(price.machine_per_hour * HOURS_A_MONTH * share, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
