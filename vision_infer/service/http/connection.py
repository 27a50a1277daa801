"""Connections with limits: because their number is limited, idle ones and those that send headers slowly are closed."""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from vision_infer.service.http.listener import Listener, Progress

HEAD_TIMEOUT_S = 20.0
"""The time limit for a request line and its headers, in seconds."""
STUCK_S = 30.0
"""The time after which a client that accepts no data is disconnected."""


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a time limit for headers, which reports its progress to the listening socket."""

    listener: ClassVar[Listener]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._upgraded = False

    def connection_made(self, transport: BaseTransport) -> None:
        """Start the time limit for headers."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.listener.attach(transport.get_extra_info("peername"), self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit for headers."""
        super().connection_lost(exc)
        self._stop_watching()

    def data_received(self, data: bytes) -> None:
        """Process data and start or stop the time limit for headers."""
        super().data_received(data)
        self._watch()

    @property
    def progress(self) -> Progress:
        """What the connection does now."""
        if self._upgraded:
            return Progress.BUSY
        cycle: Any = self.cycle
        if cycle is None:
            return Progress.UNFINISHED
        if cycle.response_complete:
            return Progress.IDLE
        authenticated = self.scope["state"].get("principal")
        if not cycle.more_body:  # without a token, only a file of the page takes longer than one step to send
            return Progress.BUSY if authenticated or not cycle.response_started else Progress.IDLE
        return Progress.UPLOADING if authenticated else Progress.UNFINISHED

    def abort(self) -> None:
        """Close the connection immediately."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Reject an invalid request, unless the response to the previous request has started."""
        # uvicorn would mix this response with the one that is being sent.
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            super().send_400_response(msg)
            return
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection over to the WebSocket protocol, which has its own limits."""
        super().handle_websocket_upgrade(event)
        self._upgraded = True
        self._stop_watching()

    def _watch(self) -> None:
        waits = self in self.connections and (self.cycle is None or self.cycle.response_complete)
        if waits and self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)
        elif not waits:
            self._stop_watching()

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def protocol_for(listener: Listener) -> type[LimitedProtocol]:
    """Return the protocol class of one server."""
    return type("ServerProtocol", (LimitedProtocol,), {"listener": listener})
