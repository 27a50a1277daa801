"""What the routes of the process in front of workers use of the service."""

from __future__ import annotations

from vision_infer.config.serve import ServeSettings
from vision_infer.core.clock import Clock
from vision_infer.preview.preview import Preview
from vision_infer.service.backend import FleetNodes
from vision_infer.service.processes.fleet import Fleet
from vision_infer.service.processes.merged_results import MergedHub
from vision_infer.service.views import StreamView


class FrontBackend:
    """The part of :class:`Backend` that the routes of this process use; all other requests go to the workers."""

    def __init__(self, workers: Fleet, clock: Clock) -> None:
        self._workers = workers
        self.shadow = None
        self.hub: MergedHub = workers.hub
        self.preview = Preview(workers.settings.preview, clock=clock)  # without streams: viewers connect to the workers

    @property
    def settings(self) -> ServeSettings:
        """The current settings."""
        return self._workers.settings

    @property
    def nodes(self) -> FleetNodes | None:
        """The nodes of the cluster; None if the workers are processes of this machine."""
        return self._workers.nodes

    def ready(self) -> tuple[bool, str]:
        """Return whether all workers are ready, and if not, the reasons."""
        return self._workers.ready()

    def streams(self) -> list[StreamView]:
        """Return all streams, without the status that their workers know."""
        return list(self._workers.streams())

    def stream(self, name: str) -> StreamView:
        """Return one stream; see :meth:`streams`."""
        return self._workers.stream(name)
