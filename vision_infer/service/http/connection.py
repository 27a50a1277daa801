"""Connections with limits: because their number is limited, idle ones and those that send headers slowly are closed."""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S = 20.0
"""The time limit for a request line and its headers, in seconds."""


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a limit of connections for each address and a time limit for headers."""

    max_per_address: ClassVar[int]
    """The maximum number of concurrent connections of one address; further ones are closed immediately."""
    open_now: ClassVar[Counter[str]]
    """The number of open connections by address. Only the event loop uses it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._address = ""

    def connection_made(self, transport: BaseTransport) -> None:
        """Count the connection; close it if its address has too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        self.open_now[self._address] += 1
        if self.open_now[self._address] > self.max_per_address:
            self.transport.abort()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        super().connection_lost(exc)
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Process data and start or stop the time limit for headers."""
        super().data_received(data)
        self._watch()

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
        self._forget()

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

    def _forget(self) -> None:
        self._stop_watching()
        if self._address in self.open_now:
            self.open_now[self._address] -= 1
            if self.open_now[self._address] <= 0:
                del self.open_now[self._address]
        self._address = ""


def protocol_for(max_per_address: int) -> type[LimitedProtocol]:
    """Return the protocol class of one server, with a maximum number of concurrent connections of one address."""
    return type("ServerProtocol", (LimitedProtocol,), {"max_per_address": max_per_address, "open_now": Counter()})
