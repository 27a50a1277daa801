"""Live results over a WebSocket, or as server-sent events from the same path."""

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
from vision_infer.service.http.connection import STUCK_S
from vision_infer.service.http.context import Shared, context_of
from vision_infer.service.http.openapi import TEXT, answer_of, problems
from vision_infer.service.http.problem import Problem, invalid, problem_of
from vision_infer.service.results.row import ResultFilter
from vision_infer.service.results.subscription import HubClosedError, Message, Subscription

router = APIRouter(prefix="/api/v1", tags=["results"])

HEARTBEAT_S = 15.0
"""The time without a message after which a comment is sent, so that proxies keep the connection open."""
RETRY_MS = 2000
GOING_AWAY = 1001


class ResultsQuery(BaseModel):
    """The filter of a client that reads results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    streams: str | None = Field(
        default=None, min_length=1, description="The names of streams, separated by commas. Defaults to all."
    )
    classes: str | None = Field(
        default=None, min_length=1, description="The labels, also of secondary models, separated by commas. Defaults to all."
    )
    min_score: float = Field(default=0.0, ge=0, le=1, description="The minimum confidence of detections and of image classes.")
    only_with_detections: bool = Field(default=False, description="Skip results without any matching detection, event or class.")
    mask_height: int | None = Field(
        default=None,
        ge=16,
        description="The maximum height of masks, pixels. Larger masks are scaled down, and their `size` is that of the smaller "
        "image. Defaults to the height of the image.",
    )
    states: bool = Field(default=False, description="Also send changes of streams and engines.")

    def wanted(self) -> ResultFilter:
        """Return the filter."""
        return ResultFilter(
            _names(self.streams), _names(self.classes), self.min_score, self.only_with_detections, self.mask_height
        )


def _names(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(name.strip() for name in text.split(",") if name.strip())


def _subscribe(backend: Backend, query: ResultsQuery) -> Subscription:
    return backend.hub.subscribe(query.wanted(), query.states)


@router.get(
    "/results",
    response_class=Response,
    responses={
        200: answer_of(
            "Endless server-sent events: results as JSON; changes as `event: state`, `engine`, `degraded` or `moved`.",
            "text/event-stream",
            TEXT,
        ),
        **problems(406, 422, 503),
    },
)
async def results_events(request: Request, query: Annotated[ResultsQuery, Query()], context: Shared) -> Response:
    """Stream results as server-sent events. With `Upgrade: websocket`, they are WebSocket messages of one JSON line each.

    Only new results are sent. A client that is too slow gets the newest result of each stream; `skipped` is the number of results
    that it missed.
    """
    accepted = request.headers.get("accept", "*/*")
    if not any(kind in accepted for kind in ("text/event-stream", "text/*", "*/*")):
        raise Problem("not-acceptable", "results are available as text/event-stream or over a WebSocket")
    return EventStream(_subscribe(context.backend, query))


@router.websocket("/results")
async def results_socket(socket: WebSocket) -> None:
    """Stream results as WebSocket messages. Messages from the client are ignored."""
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
            with suppress(WebSocketDisconnect):  # the client has disconnected
                await socket.close(GOING_AWAY, "the service is stopping")


async def _gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


class EventStream(Response):
    """A response that continues until the client disconnects or the service stops; then it closes the subscription."""

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

        async def send_heartbeat() -> None:
            await send_text(": heartbeat\n\n")

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        with self._reader as reader:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send_text(f"retry: {RETRY_MS}\n\n")
            if await until_gone(_send_all(reader, send_message, send_heartbeat), gone()):
                await send_text("", more=False)


async def _send_all(
    reader: Subscription,
    send: Callable[[Message], Awaitable[None]],
    send_heartbeat: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Send messages until the service stops.

    Raises:
        TimeoutError: The client accepts no data.
    """
    while True:
        try:
            message = await reader.next(HEARTBEAT_S)
        except HubClosedError:
            return
        async with asyncio.timeout(STUCK_S):
            if message is not None:
                await send(message)
            elif send_heartbeat is not None:
                await send_heartbeat()


async def until_gone(sending: Coroutine[Any, Any, None], gone: Coroutine[Any, Any, None]) -> bool:
    """Send until sending ends or the client disconnects. Return True if sending ended and the client is still connected."""
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
