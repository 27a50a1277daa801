"""Requests and responses that pass between a client and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vision_infer.service.errors import UnavailableError
from vision_infer.service.http.access.identify import PROXY_HEADERS, SESSION_COOKIE
from vision_infer.service.http.access.principal import SESSION_PATH
from vision_infer.service.http.connection import STUCK_S
from vision_infer.service.http.context import principal_of
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.routes.results import until_gone
from vision_infer.service.processes.fleet import Fleet, FleetWorker
from vision_infer.service.processes.worker_client import WorkerRequest

_SENT = (
    "accept",
    "content-type",
    "if-match",
    "if-none-match",
    "if-range",
    "range",
    "inference-header-content-length",
    *PROXY_HEADERS,
    "traceparent",
    "tracestate",
)
"""The request headers that concern a worker."""
_NOT_RETURNED = ("connection", "content-security-policy", "date", "server", "transfer-encoding")


START_S = 10.0
"""The time for which a request waits for a worker that starts, seconds."""


async def settled(processes: Iterable[FleetWorker]) -> bool:
    """Wait until one of the processes can be reached, or all of them have ended; return whether one can be reached."""
    known = tuple(processes)
    with suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while not any(process.up for process in known) and any(process.running for process in known):
                await asyncio.sleep(0.05)
    return any(process.up for process in known)


async def ask(workers: Fleet, worker: str, request: Request, body: bytes = b"") -> httpx.Response:
    """Send a client's request to a worker; the caller must read or close the response.

    Raises:
        UnavailableError: The worker does not run.
        httpx.HTTPError: The worker does not answer.
    """
    process = workers.processes[worker]
    if not process.up:
        kind = "worker" if workers.nodes is None else "node"
        what = f"{kind} {worker} does not run" if worker else "the stream waits for a node"
        raise UnavailableError(what, "Try again in a moment.", reason=process.reason)
    target = request.scope["raw_path"].decode("ascii")
    query = request.scope["query_string"].decode("ascii")
    client = {"address": "" if request.client is None else request.client.host, **principal_of(request).to_plain()}
    headers = {name: request.headers[name] for name in _SENT if name in request.headers}
    sent = WorkerRequest(request.method, f"{target}?{query}" if query else target, headers, body, client)
    return await workers.clients[worker].send(sent)


class RelayedResponse(Response):
    """The response of a worker, passed on piece by piece until it ends or the client disconnects."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(status_code=response.status_code)
        self._response = response
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers_of(response).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope

        async def send_pieces() -> None:
            try:
                async for piece in self._response.aiter_raw():
                    async with asyncio.timeout(STUCK_S):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
            except httpx.HTTPError as error:  # the worker has ended; the client sees an incomplete response
                raise OSError(str(error)) from error

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if await until_gone(send_pieces(), gone()):
                await send({"type": "http.response.body", "body": b""})
        finally:
            await self._response.aclose()


def headers_of(response: httpx.Response) -> dict[str, str]:
    """Return the headers of a worker's response that the client gets."""
    return {name: value for name, value in response.headers.items() if name.lower() not in _NOT_RETURNED}


def no_answer() -> Problem:
    """Return the problem that no worker answers."""
    return Problem("unavailable", "a worker process does not answer; try again in a moment", {"Retry-After": "1"})


async def end_previews(workers: Fleet, principal: str) -> None:
    """End the previews of a token or session in all workers."""

    async def end(worker: str) -> None:
        with suppress(httpx.HTTPError, TimeoutError):  # a worker that does not answer has no viewers
            async with asyncio.timeout(START_S):
                headers = {"cookie": f"{SESSION_COOKIE}=ended"}
                request = WorkerRequest("DELETE", SESSION_PATH, headers, client={"principal": principal})
                response = await workers.clients[worker].send(request)
                await response.aclose()

    await asyncio.gather(*(end(name) for name, process in workers.processes.items() if process.up))
