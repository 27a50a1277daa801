"""Requests with an OpenTelemetry trace: their spans, and the trace that log lines name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vision_infer.sink.otlp.traced import TRACED_REQUEST

if TYPE_CHECKING:
    from vision_infer.sink.otlp.telemetry import Telemetry


class TracedRequests:
    """The ASGI middleware that continues the trace of a client, or begins one, and measures the request.

    It runs behind the checks of requests, so that rejected ones cost nothing.

    Args:
        app: Answers the requests.
        telemetry: Takes the spans.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        request = None
        if scope["type"] == "http":
            request = self._telemetry.begin_request(headers.get("traceparent", ""), headers.get("tracestate", ""))
        # The server runs each request in its own task, so that nothing has to reset the variable.
        TRACED_REQUEST.set(request)
        if request is None:
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_status)
        finally:
            route = getattr(scope.get("route"), "path", "")
            request.name = f"{scope['method']} {route}".strip()
            request.failed = status >= 500
            request.attributes |= {
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
            }
            self._telemetry.end_request(request)
