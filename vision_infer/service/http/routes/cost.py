"""The cost of each stream, from measurements of the running service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from vision_infer.config.service.cost import CostSettings
from vision_infer.service.http.api_models import ApiModel
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.streams.cost import HEADROOM, HOURS_A_MONTH, Cost, StreamCost

router = APIRouter(prefix="/api/v1", tags=["about"])


class StreamCostAnswer(ApiModel):
    """The resources of one stream, measured over about ten seconds."""

    name: str
    result_fps: float
    decode_cores: float = Field(description="The CPU cores used by the stream's own thread, which reads and decodes.")
    shared_cores: float = Field(description="The stream's share of all other CPU time of the service, in cores.")
    accelerator: float | None = Field(
        description="The stream's share of the engine's time, 0–1; null if the engine runs on the CPU."
    )
    cpu_ms_per_result: float | None = Field(description="The CPU time per result; null without results.")
    share: float = Field(description="The stream's share of the machine: the larger of its CPU and accelerator shares, 0–1.")
    tiles: int = Field(description="The number of inferences per result: the tiles of a frame, or 1.")
    per_month: float | None = Field(description="The price of that share for 730 hours; null if the machine's price is not set.")
    per_1000_results: float | None
    at_fps: float | None = Field(description="The rate from the query.")
    share_at_fps: float | None = Field(
        description="The stream's share of the machine at that rate; null if nothing was measured."
    )
    per_month_at_fps: float | None


class CostAnswer(ApiModel):
    """The resources that streams use, and the remaining capacity."""

    summary: str = Field(description="A summary in one sentence.")
    cores: float = Field(description="The number of CPU cores available to the service.")
    cores_used: float = Field(description="The number of CPU cores that the service uses.")
    cores_others: float = Field(description="The number of CPU cores that other processes use.")
    accelerator: float | None = Field(
        description="The utilization of the busiest accelerator engine, 0–1; null if there is none."
    )
    busy: float = Field(description="The utilization of the machine, 0–1.")
    binding: str = Field(description="The resource that limits further streams: `cpu` or `accelerator`.")
    more_streams: int | None = Field(
        description="The number of additional streams of this kind that fit without degrading any; null if not measured."
    )
    headroom: float = Field(description="The maximum utilization before result ages rise.")
    machine_per_hour: float | None = Field(description="The configured price; null if not set.")
    currency: str
    unused_per_month: float | None = Field(description="The price of the unused capacity.")
    streams: list[StreamCostAnswer]


@router.get("/cost", responses=problems(422, 503))
def get_cost(
    context: Shared,
    fps: Annotated[float | None, Query(gt=0, le=1000, description="Also estimate each stream's share at this rate.")] = None,
) -> CostAnswer:
    """Return each stream's measured share of the machine and its price, and the number of additional streams that fit."""
    return cost_answer(context.backend.cost(), context.backend.settings.cost, fps)


def cost_answer(cost: Cost, price: CostSettings, fps: float | None) -> CostAnswer:
    """Return the cost as the API shows it."""
    machine = cost.machine
    used = sum(stream.share for stream in cost.streams)
    return CostAnswer(
        summary=cost.summary,
        cores=machine.cores,
        cores_used=round(machine.used, 3),
        cores_others=round(machine.others, 3),
        accelerator=_rounded(cost.accelerator),
        busy=round(cost.busy, 4),
        binding=cost.binding,
        more_streams=cost.more_streams,
        headroom=HEADROOM,
        machine_per_hour=price.machine_per_hour,
        currency=price.currency,
        unused_per_month=_per_month(price, max(0.0, machine.machines - used)),
        streams=[_stream(stream, cost, price, fps) for stream in cost.streams],
    )


def _stream(stream: StreamCost, cost: Cost, price: CostSettings, fps: float | None) -> StreamCostAnswer:
    at_fps = None if fps is None else stream.at(fps, cost.machine)
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
        tiles=stream.tiles,
        per_month=per_month,
        per_1000_results=None if per_month is None or stream.cpu_ms_per_result is None else round(per_month / results * 1000, 6),
        at_fps=fps,
        share_at_fps=None if at_fps is None else round(at_fps.share, 4),
        per_month_at_fps=None if at_fps is None else _per_month(price, at_fps.share),
    )


def _per_month(price: CostSettings, share: float) -> float | None:
    return None if price.machine_per_hour is None else round(price.machine_per_hour * HOURS_A_MONTH * share, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
