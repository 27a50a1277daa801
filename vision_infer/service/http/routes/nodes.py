"""The nodes of a cluster: their capacity, their streams, what happens if one fails, and draining."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from vision_infer.service.http.api_models import ApiModel
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem
from vision_infer.service.views import NodeView

router = APIRouter(prefix="/api/v1", tags=["nodes"])


class NodeLossAnswer(ApiModel):
    """What happens to the streams of a machine if it fails now."""

    streams: int = Field(description="The number of streams of the machine.")
    fit: int = Field(description="The number of streams that other nodes can run.")
    half_rate: int = Field(description="The number of further streams that other nodes can run at half the rate.")
    pending: int = Field(description="The number of streams that would wait for a node.")


class NodeAnswer(ApiModel):
    """A node of the cluster."""

    name: str
    machine: str = Field(description="The machine; a machine with several GPUs is one node for each of them.")
    state: Literal["joining", "alive", "draining", "idle", "lost"] = Field(
        description="`joining`: it has not reported yet; `alive`; `draining`: its streams move to other nodes, and it gets no "
        "others; `idle`: its process ended because it has no streams; `lost`: it does not report, and its streams run elsewhere."
    )
    ready: bool = Field(description="Whether it can run inference.")
    reason: str = Field(description="Why it is not ready; may be empty.")
    starts: int = Field(description="The number of starts of the process that runs its streams.")
    labels: dict[str, str] = Field(description="The labels that streams can require with `node_labels`.")
    capacity_cores: float = Field(description="The CPU cores that its streams may use.")
    used_cores: float = Field(description="The CPU cores that its streams use, as far as they were measured.")
    streams: list[str] = Field(description="The names of its streams.")
    if_lost: NodeLossAnswer | None = Field(
        description="What happens to the streams if its machine fails now; null for a node that gets no streams."
    )


class NodeChange(BaseModel):
    """Whether a node is drained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draining: bool = Field(description="True: move its streams to other nodes and keep it empty; false: use it again.")


NodeName = Annotated[str, Path(max_length=255, description="The name of the node.")]


@router.get("/nodes", responses=problems())
def list_nodes(context: Shared) -> list[NodeAnswer]:
    """List the nodes of the cluster; empty if the service runs on one machine."""
    nodes = context.backend.nodes
    return [] if nodes is None else [node_answer(node) for node in nodes.all()]


@router.put("/nodes/{name}", status_code=204, responses=problems(403, 404, 422, 503))
def put_node(name: NodeName, change: NodeChange, context: Shared) -> None:
    """Drain a node, for example before maintenance, or use it again. Streams that fit on no other node stay on it."""
    nodes = context.backend.nodes
    if nodes is None or not nodes.drain(name, change.draining):
        raise Problem("not-found", f"node {name} does not exist; GET /api/v1/nodes lists the nodes")


def node_answer(node: NodeView) -> NodeAnswer:
    """Return a node as the API shows it."""
    loss = None
    if node.at_stake is not None:
        pending = node.at_stake - node.fit - node.half_rate
        loss = NodeLossAnswer(streams=node.at_stake, fit=node.fit, half_rate=node.half_rate, pending=pending)
    return NodeAnswer(
        name=node.name,
        machine=node.machine,
        state=node.state,
        ready=node.ready,
        reason=node.reason,
        starts=node.starts,
        labels=dict(node.labels),
        capacity_cores=round(node.capacity, 3),
        used_cores=round(node.used, 3),
        streams=list(node.streams),
        if_lost=loss,
    )
