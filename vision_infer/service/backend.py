"""The interface between the HTTP routes and the service. Routes use nothing else of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.zones import Zones
from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.core.card import ModelCard
from vision_infer.core.result import Result
from vision_infer.pipeline.status import Flight, LaneStatus
from vision_infer.preview.preview import Preview
from vision_infer.service.clips.clip_recorder import Clips
from vision_infer.service.events import ServiceEvent
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.shadow.shadow import Shadow
from vision_infer.service.streams.cost import Cost
from vision_infer.service.views import ModelView, NodeView, Snapshot, StreamView
from vision_infer.sink.delivery.carrier import SinkStatus
from vision_infer.telemetry.histogram import Histogram


class FleetNodes(Protocol):
    """The nodes of a service that runs on several machines. The methods can be called from any thread."""

    def all(self) -> Sequence[NodeView]:
        """Return all nodes, sorted by name."""

    def drain(self, node: str, draining: bool) -> bool:
        """Move the streams of a node to other nodes and keep it empty, or use it again; block until the order is given.

        Returns:
            Whether there is a node of this name.

        Raises:
            UnavailableError: The controller of the cluster does not answer.
        """

    def epoch_of(self, stream: str) -> int | None:
        """Return the epoch of a stream; None if it never had a node."""


class Backend(Protocol):
    """The service without its HTTP server. Every method blocks and can be called from any thread."""

    @property
    def settings(self) -> ServeSettings:
        """The current settings."""

    @property
    def hub(self) -> ResultHub:
        """The hub that distributes results to clients."""

    @property
    def preview(self) -> Preview:
        """The live preview of streams."""

    @property
    def nodes(self) -> FleetNodes | None:
        """The nodes of the cluster; None if the service runs on one machine."""

    @property
    def clips(self) -> Clips:
        """The recorder of events in zones and at lines, and of their clips."""

    @property
    def shadow(self) -> Shadow | None:
        """The shadow model of a service in one process; None in front of worker processes."""

    def ready(self) -> tuple[bool, str]:
        """Return whether inference is possible, and if not, the reason: ``loading nanodet-416``."""

    def streams(self) -> list[StreamView]:
        """Return all streams, including disabled ones."""

    def stream(self, name: str) -> StreamView:
        """Return one stream.

        Raises:
            UnknownStreamError: No stream has this name.
        """

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        """Add a stream and store its settings.

        Raises:
            ConflictError: The name is taken, the maximum number of streams is reached, or the machine has too little capacity.
            UsageError: The settings are invalid, for example because the model is unknown.
            OutputError: The settings cannot be stored.
        """

    def replace(self, name: str, settings: StreamSettings) -> StreamView:
        """Replace the settings of a stream and store them.

        Raises:
            UnknownStreamError: No stream has this name.
            ConflictError: The stream is defined in the configuration file, or the machine has too little capacity.
            UsageError: The settings are invalid; the stream continues unchanged.
            OutputError: The settings cannot be stored; the stream continues unchanged.
        """

    def delete(self, name: str) -> None:
        """Remove a stream permanently.

        Raises:
            UnknownStreamError: No stream has this name.
            ConflictError: The stream is defined in the configuration file.
            OutputError: Its stored settings cannot be removed.
        """

    def flight(self, name: str) -> Flight:
        """Return the recorded outcomes of a stream's frames.

        Raises:
            UnknownStreamError: No stream has this name.
            UnavailableError: The stream is disabled or could not be started.
        """

    def zones(self, name: str) -> Zones | None:
        """Return the zones and lines of a stream, for their counts; None if it has none.

        Raises:
            UnknownStreamError: No stream has this name.
            UnavailableError: The stream has zones or lines, but is disabled or could not be started.
        """

    def snapshot(self, name: str, annotated: bool, timeout_s: float) -> Snapshot:
        """Return the current image of a stream.

        Raises:
            UnknownStreamError: No stream has this name.
            UnavailableError: The stream delivers no frames, or none arrived within the timeout.
        """

    def infer(
        self,
        image: bytes,
        model: str | None,
        confidence: float | None,
        classes: tuple[str, ...] | None,
        deadline_ns: int | None = None,
    ) -> Result:
        """Run inference on one JPEG, PNG or WebP image.

        Args:
            deadline_ns: The monotonic time until which the client needs the result; None: there is a general limit.

        Raises:
            UsageError: The image is invalid or too large, or the model or a label is unknown.
            UnavailableError: The model is not loaded, too many images wait, or the deadline has passed.
        """

    def infer_tensors(self, images: NDArray[np.uint8], model: str, deadline_ns: int | None = None) -> Mapping[str, NDArray[Any]]:
        """Run the deployment graph of a model on images uint8 [N, H, W, 3] RGB; return its outputs by name, for the N images.

        Raises:
            UnavailableError: See :meth:`infer`.
        """

    def card(self, model: str) -> ModelCard:
        """Return the card of a model that is loaded.

        Raises:
            UnknownModelError: No model has this name.
            UnavailableError: The model is not loaded.
        """

    def lanes(self) -> list[LaneStatus]:
        """Return all loaded engines."""

    def cost(self) -> Cost:
        """Return the resources that each stream uses, measured over about ten seconds."""

    def models(self) -> list[ModelView]:
        """Return all models that streams can use."""

    def events(self) -> Sequence[ServiceEvent]:
        """Return the latest changes of streams and engines, oldest first; their number is bounded."""

    def sinks(self) -> list[SinkStatus]:
        """Return the status of all sinks."""

    def stages(self) -> Mapping[str, Histogram]:
        """Return the durations of each stage since the start."""
