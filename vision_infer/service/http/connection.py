"""Connections that send nothing, or their headers a byte at a time, are not waited for: each holds one of a limited number."""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S = 20.0
"""how long a request's line and headers may take to come"""


def protocol_for(most_of_an_address: int) -> type[H11Protocol]:
    """The protocol of one server.

    Args:
        most_of_an_address: connections of one address at the same time; more are closed at once.
    """
    open_now: Counter[str] = Counter()

    class Protocol(H11Protocol):
        """uvicorn's own, with limits that it does not have."""

        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self._deadline: asyncio.TimerHandle | None = None
            self._address = ""

        def connection_made(self, transport: BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self._address = str((transport.get_extra_info("peername") or ("",))[0])
            open_now[self._address] += 1
            if open_now[self._address] > most_of_an_address:
                self.transport.abort()
            else:
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._forget()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def send_400_response(self, msg: str) -> None:
            # What follows a request that is being answered is no request: uvicorn would mix both answers.
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
            super().handle_websocket_upgrade(event)
            self._forget()

        def _watch(self) -> None:
            waits = self in self.connections and (self.cycle is None or self.cycle.response_complete)
            if waits and self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)
            elif not waits:
                self._rest()

        def _rest(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _forget(self) -> None:
            self._rest()
            if self._address in open_now:
                open_now[self._address] -= 1
                if open_now[self._address] <= 0:
                    del open_now[self._address]
            self._address = ""

    return Protocol
