"""The service as a role with some cameras sees it: all other streams do not exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vision_infer.config.serve import StreamSettings, StreamUrls
from vision_infer.core.errors import VisionInferError
from vision_infer.service.backend import Backend
from vision_infer.service.clips.event_log import EventRecord
from vision_infer.service.errors import ConflictError, UnknownStreamError
from vision_infer.service.events import EngineEvent, ServiceEvent
from vision_infer.service.http.access.principal import Principal
from vision_infer.service.http.problem import Problem
from vision_infer.service.results.row import ResultFilter
from vision_infer.service.results.subscription import Subscription
from vision_infer.service.views import StreamView

_BY_NAME = frozenset({"stream", "create", "replace", "delete", "flight", "zones", "snapshot"})
"""The methods whose first argument is the name of a stream."""


def check_urls(principal: Principal, known: StreamSettings | None, wanted: StreamSettings) -> None:
    """Check that a role with some cameras does not show another camera under the name of a visible one.

    Args:
        principal: Who changes the stream.
        known: Its settings; None if it is new.
        wanted: Its new settings.

    Raises:
        Problem: 403 if the role would choose a URL.
    """
    changes = known is None or any(getattr(known, field) != getattr(wanted, field) for field in StreamUrls.model_fields)
    if principal.cameras is not None and changes:
        raise Problem("forbidden", "only an admin of all cameras can add a camera or change its URLs")


class VisibleBackend:
    """A :class:`Backend` without the streams that a principal does not see.

    Args:
        backend: The whole service.
        principal: A principal that sees some streams only.
    """

    def __init__(self, backend: Backend, principal: Principal) -> None:
        self._backend = backend
        self._principal = principal

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        return self._checked(name, found) if name in _BY_NAME else found

    def _checked(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(stream: str, *arguments: Any) -> Any:
            if not self._principal.sees(stream):
                raise UnknownStreamError(f"stream {stream} does not exist")
            if name in ("create", "replace"):
                check_urls(self._principal, None if name == "create" else self._backend.stream(stream).settings, *arguments)
            try:
                return method(stream, *arguments)
            except UnknownStreamError:  # its message suggests similar names
                raise UnknownStreamError(f"stream {stream} does not exist") from None
            except VisionInferError as error:
                if any(not self._principal.sees(one.name) and one.name in str(error) for one in self._backend.streams()):
                    raise ConflictError("the service has no capacity for this change", "Ask an admin of the service.") from None
                raise

        return call

    def streams(self) -> list[StreamView]:
        """Return the visible streams."""
        return [view for view in self._backend.streams() if self._principal.sees(view.name)]

    def events(self) -> list[ServiceEvent]:
        """Return the changes of visible streams and of engines."""
        events = self._backend.events()
        return [event for event in events if isinstance(event, EngineEvent) or self._principal.sees(event.stream)]

    @property
    def hub(self) -> _VisibleHub:
        """The hub, whose clients get rows of visible streams only."""
        return _VisibleHub(self._backend.hub, self._principal)

    @property
    def clips(self) -> _VisibleClips:
        """The clips of visible streams."""
        return _VisibleClips(self._backend.clips.events, self._principal)


class _VisibleHub:
    def __init__(self, hub: Any, principal: Principal) -> None:
        self._hub = hub
        self._principal = principal

    def subscribe(self, wanted: ResultFilter | None = None, states: bool = False) -> Subscription:
        """Subscribe to the rows of visible streams; the filter works before a row is queued."""
        cameras = self._principal.cameras or frozenset()
        wanted = wanted or ResultFilter()
        streams = cameras if wanted.streams is None else cameras & wanted.streams
        reader: Subscription = self._hub.subscribe(replace(wanted, streams=streams), states)
        return reader


class _VisibleClips:
    """The interface of :class:`Clips` that the routes use; also that of its events."""

    def __init__(self, log: Any, principal: Principal) -> None:
        self._log = log
        self._principal = principal
        self.events = self

    def get(self, name: str) -> EventRecord | None:
        """Return an event of a visible stream; None if there is none."""
        record: EventRecord | None = self._log.get(name)
        return record if record is not None and self._principal.sees(record.stream) else None

    def last(self, stream: str | None, from_ns: int, to_ns: int, limit: int) -> list[EventRecord]:
        """Return the newest events of visible streams, oldest first; see :meth:`EventLog.last`."""
        found = self._log.last(stream, from_ns, to_ns, 1 << 30)
        return [record for record in found if self._principal.sees(record.stream)][-limit:]
