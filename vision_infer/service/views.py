"""Streams, models and snapshots as the service shows them to its clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from vision_infer.config.serve import StreamSettings
from vision_infer.model.catalog import list_models
from vision_infer.pipeline.status import StreamStatus

Origin: TypeAlias = Literal["file", "command_line", "api"]
"""Where a stream's settings come from: the configuration file, a URL on the command line, or the API, which stores them."""


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream with its settings and status."""

    name: str
    origin: Origin
    settings: StreamSettings
    status: StreamStatus | None
    """The status; None if the stream is disabled."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A machine of a cluster, or the part of it that belongs to one of its GPUs."""

    name: str
    machine: str
    """The name of the machine."""
    state: Literal["joining", "alive", "draining", "idle", "lost"]
    up: bool
    """Whether the process that runs its streams can be reached."""
    ready: bool
    """Whether it can run inference."""
    reason: str
    """Why it is not ready, in one line without secrets; may be empty."""
    starts: int
    """The number of starts of the process that runs its streams."""
    labels: Mapping[str, str]
    capacity: float
    """The CPU cores that its streams may use."""
    used: float
    """The CPU cores that its streams use, as far as they were measured."""
    streams: tuple[str, ...]
    """The names of its streams."""
    at_stake: int | None
    """The number of streams of its machine; None if the node may not have streams."""
    fit: int = 0
    """The number of them that other nodes can run if the machine fails."""
    half_rate: int = 0
    """The number of further ones that other nodes can run at half the rate."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that streams can use."""

    name: str
    task: str
    input_size: tuple[int, int]
    """The width and height in pixels."""
    labels: tuple[str, ...]
    """The labels by class number; empty if the number is the label."""
    license: str
    loaded: bool
    """Whether an engine has loaded the model."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A JPEG image of a stream."""

    jpeg: bytes
    captured_wall_ns: int
    """The capture time, nanoseconds since 1970 (UTC)."""
    width: int
    height: int


def model_views(folder: Path | None, is_loaded: Callable[[str], bool]) -> list[ModelView]:
    """Return all models that streams can use, without damaged ones.

    Args:
        folder: The folder of the user's models; None: the default.
        is_loaded: Returns whether a model is loaded.
    """
    views: list[ModelView] = []
    for entry in list_models(folder):
        card = entry.card
        if card is not None and not entry.error:
            size = (card.input_size.width, card.input_size.height)
            views.append(ModelView(entry.name, card.task, size, card.labels or (), card.license or "", is_loaded(entry.name)))
    return views
