"""Results as they come: over a WebSocket, or as server-sent events from the same path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from vision_infer.core.errors import VisionInferError
from vision_infer.service.backend import Backend
from vision_infer.service.http.context import Shared, context_of
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem, invalid, problem_of
from vision_infer.service.results.hub import HubClosedError, Message, Subscription
from vision_infer.service.results.row import ResultFilter

router = APIRouter(prefix="/api/v1", tags=["results"])

HEARTBEAT_S = 15.0
"""a comment goes out after so long without a message, so that nobody between takes the connection for dead"""
STUCK_S = 30.0
"""who takes nothing for so long is let go"""
RETRY_MS = 2000
GOING_AWAY = 1001


class ResultsQuery(BaseModel):
    """What a reader of results may choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    streams: str | None = Field(default=None, min_length=1, description="names with commas between them; default: all")
    classes: str | None = Field(
        default=None, min_length=1, description="labels, of a second model too, with commas between them; default: all"
    )
    min_score: float = Field(
        default=0.0, ge=0, le=1, description="least score of a detection, or of a class of the whole picture"
    )
    only_with_detections: bool = Field(
        default=False, description="leave out results without any of the chosen detections, events or classes"
    )
    states: bool = Field(default=False, description="changes of state of the streams, and of engines, too")

    def wanted(self) -> ResultFilter:
        """The filter."""
        return ResultFilter(_names(self.streams), _names(self.classes), self.min_score, self.only_with_detections)


def _names(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(name.strip() for name in text.split(",") if name.strip())


def _subscribe(backend: Backend, query: ResultsQuery) -> Subscription:
    return backend.hub.subscribe(query.wanted(), query.states)


@router.get(
    "/results",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: each result as JSON; changes as `event: state`, `engine`, `degraded`. No end.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(406, 422, 503),
    },
)
async def results_events(request: Request, query: Annotated[ResultsQuery, Query()], context: Shared) -> Response:
    """Results as server-sent events. With `Upgrade: websocket` the same come as messages of a WebSocket, one JSON line each.

    Only what comes from now on is sent. A reader that is too slow gets the newest result of each stream, and in `skipped` how
    many it missed.
    """
    accepted = request.headers.get("accept", "*/*")
    if not any(kind in accepted for kind in ("text/event-stream", "text/*", "*/*")):
        raise Problem("not-acceptable", "results come as text/event-stream, or over a WebSocket")
    return EventStream(_subscribe(context.backend, query))


@router.websocket("/results")
async def results_socket(socket: WebSocket) -> None:
    """Results as messages of a WebSocket. What the client sends is not looked at."""
    try:
        query = ResultsQuery.model_validate(dict(socket.query_params))
        reader = _subscribe(context_of(socket).backend, query)
    except ValidationError as error:
        await socket.send_denial_response(invalid(error.errors(include_url=False)).response())
        return
    except VisionInferError as error:
        await socket.send_denial_response(problem_of(error).response())
        return
    with reader:
        await socket.accept()

        async def send(message: Message) -> None:
            await socket.send_text(message.text)

        if await until_gone(_send_all(reader, send), _gone(socket)):
            with suppress(WebSocketDisconnect):  # it has gone meanwhile
                await socket.close(GOING_AWAY, "the service stops")


async def _gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


class EventStream(Response):
    """The answer that goes on until the reader leaves or the service stops; the subscription ends with it."""

    media_type = "text/event-stream"

    def __init__(self, reader: Subscription) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope

        async def send_text(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        async def send_message(message: Message) -> None:
            head = f"id: {message.number}\n" if message.kind == "result" else f"event: {message.kind}\n"
            await send_text(f"{head}data: {message.text}\n\n")

        async def beat() -> None:
            await send_text(": still here\n\n")

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        with self._reader as reader:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send_text(f"retry: {RETRY_MS}\n\n")
            if await until_gone(_send_all(reader, send_message, beat), gone()):
                await send_text("", more=False)


async def _send_all(
    reader: Subscription, send: Callable[[Message], Awaitable[None]], beat: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Send until the service stops.

    Raises:
        TimeoutError: the reader takes nothing.
    """
    while True:
        try:
            message = await reader.next(HEARTBEAT_S)
        except HubClosedError:
            return
        async with asyncio.timeout(STUCK_S):
            if message is not None:
                await send(message)
            elif beat is not None:
                await beat()


async def until_gone(sending: Coroutine[Any, Any, None], gone: Coroutine[Any, Any, None]) -> bool:
    """Send until that ends, or the reader is gone. True where sending came to its end, and there may be a farewell."""
    sender, watcher = asyncio.ensure_future(sending), asyncio.ensure_future(gone)
    try:
        await asyncio.wait((sender, watcher), return_when=asyncio.FIRST_COMPLETED)
        ended = sender.done() and not watcher.done()
    finally:
        for task in (sender, watcher):
            task.cancel()
        outcomes = await asyncio.gather(sender, watcher, return_exceptions=True)
    error = outcomes[0]
    if isinstance(error, Exception) and not isinstance(error, TimeoutError | WebSocketDisconnect | OSError):
        raise error
    return ended and error is None
