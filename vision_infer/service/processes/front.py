"""The API in front of the workers: requests about a stream go to its worker, lists are merged from all workers.

The page, sessions, results, the inspection of a URL and the OpenAPI document are served by this process, as in a service with one
process.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import httpx
from fastapi import FastAPI
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vision_infer.config.zones import STREAM_NAME
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.service.backend import Backend
from vision_infer.service.clips.event_log import EVENTS_KEPT
from vision_infer.service.errors import UnavailableError, UnknownStreamError
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.access.principal import unknown_stream
from vision_infer.service.http.api_models import event_answer, stream_answer
from vision_infer.service.http.app import make_routes, secure
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.context import context_of, principal_of
from vision_infer.service.http.problem import Problem, problem_of
from vision_infer.service.http.routes.cost import cost_answer
from vision_infer.service.http.security import PROTOCOL_PATH
from vision_infer.service.processes import merge
from vision_infer.service.processes.admission import accept, labels_of, least_loaded, worker_for
from vision_infer.service.processes.fleet import Fleet
from vision_infer.service.processes.forwarding import RelayedResponse, ask, end_previews, headers_of, no_answer, settled
from vision_infer.service.processes.front_backend import FrontBackend
from vision_infer.service.streams.api_settings import from_api
from vision_infer.service.views import Origin, StreamView

MERGE_S = 4.0
"""The time that each worker has to answer a request that goes to all workers, seconds."""
_API = "/api/v1"
_STREAM = re.compile(rf"{_API}/streams/({STREAM_NAME.strip('^$')})(/.*)?")
_ONE_OF_ALL = re.compile(rf"{_API}/(events/[^/]+/clip\.mp4|engines/.+/passport)")
"""The paths that only one of the workers knows."""

Handler = Callable[[Request], Awaitable[Response]]


def make_front(workers: Fleet, tokens: Tokens, clock: Clock, access: Access | None = None) -> FastAPI:
    """Create the application."""
    app = make_routes(cast(Backend, FrontBackend(workers, clock)), tokens, clock, access)
    app.state.context.security.on_end = partial(end_previews, workers)
    app.add_middleware(Front, workers=workers, clock=clock)
    secure(app)
    return app


class Front:
    """The ASGI middleware that sends requests to workers, behind the checks of requests.

    Args:
        app: Answers all other requests.
        workers: The workers.
        clock: The source of time.
    """

    def __init__(self, app: ASGIApp, workers: Fleet, clock: Clock) -> None:
        self._app = app
        self._workers = workers
        self._clock = clock
        self._changing = asyncio.Lock()  # serializes changes of streams, as a service with one process does

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handler(scope) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        if {".", ".."} & set(scope["path"].split("/")):  # the HTTP client would resolve them, after the checks of the path
            raise Problem("not-found", "the path must not contain . or .. as a part")
        try:
            response = await handler(Request(scope, receive))
        except UnknownStreamError as error:
            if principal_of(Request(scope)).cameras is None:
                raise problem_of(error) from None
            raise unknown_stream(scope["path"].split("/")[4]) from None  # the message of the error suggests similar names
        except VisionInferError as error:
            raise problem_of(error) from None
        except httpx.HTTPError:
            raise no_answer() from None
        await response(scope, receive, send)

    def _handler(self, scope: Scope) -> Handler | None:
        method, path = scope["method"], scope["path"]
        merged = {
            f"{_API}/streams": self._list,
            f"{_API}/events": self._events,
            f"{_API}/engines": self._engines,
            f"{_API}/models": lambda request: self._merged(request, merge.merge_models),
            f"{_API}/sinks": lambda request: self._merged(request, merge.merge_sinks),
            f"{_API}/cost": self._cost,
            "/metrics": self._metrics,
        }
        if path in merged:
            return merged[path] if method == "GET" else None
        if (method, path) == ("POST", f"{_API}/infer") or self._of_protocol(path):
            return self._infer
        if _ONE_OF_ALL.fullmatch(path):
            return self._find
        stream = _STREAM.fullmatch(path)
        if stream is None:
            return None
        if method == "PUT" and stream[2] in (None, "/model"):
            return lambda request: self._put(request, stream[1])
        if method == "DELETE" and stream[2] is None:
            return lambda request: self._delete(request, stream[1])
        return lambda request: self._of_stream(request, stream[1])

    def _of_protocol(self, path: str) -> bool:
        """Return whether a path concerns a model of the Open Inference Protocol."""
        return self._workers.settings.service.inference_protocol is not None and path.startswith(f"{PROTOCOL_PATH}models/")

    # One worker

    async def _send(self, worker: str, request: Request, body: bytes = b"") -> Response:
        await settled((self._workers.processes[worker],))
        return RelayedResponse(await ask(self._workers, worker, request, body))

    async def _of_stream(self, request: Request, name: str) -> Response:
        stream = self._workers.placed(name)
        about = request.method == "GET" and request.scope["path"] == f"{_API}/streams/{name}"
        if about and not self._workers.processes[stream.worker].up:
            return JSONResponse(self._answer(self._workers.stream(name)))
        if not stream.worker:
            status = self._workers.stream(name).status
            reason = "" if status is None else status.reason
            raise UnavailableError(f"{name} waits for a node", "See the state of the stream.", "pending", reason)
        async with context_of(request).bodies.body(request) as body:
            if not about or self._workers.nodes is None:
                return await self._send(stream.worker, request, body)
            response = await ask(self._workers, stream.worker, request, body)
        if response.status_code == httpx.codes.NOT_FOUND:  # it has just moved, and its node does not know it yet
            await response.aclose()
            return JSONResponse(self._answer(self._workers.stream(name)))
        return await self._located(response)

    def _answer(self, view: StreamView) -> dict[str, Any]:
        """Return a stream without the status that its worker knows, as the API shows it."""
        return self._with_place(stream_answer(view, self._clock).model_dump(mode="json", by_alias=True))

    def _with_place(self, stream: dict[str, Any]) -> dict[str, Any]:
        """Return a stream of the API with its node and epoch, if the workers run on the nodes of a cluster."""
        nodes, place = self._workers.nodes, self._workers.placement.get(stream["name"])
        if nodes is not None and place is not None and stream["status"] is not None:
            stream["status"]["node"] = place.worker or None
            stream["status"]["epoch"] = nodes.epoch_of(stream["name"])
        return stream

    async def _located(self, response: httpx.Response) -> Response:
        """Return a worker's answer about a stream with the stream's node and epoch."""
        content = await response.aread()
        if response.is_success and self._workers.nodes is not None:
            content = json.dumps(self._with_place(json.loads(content)), ensure_ascii=False).encode()
        headers = {name: value for name, value in headers_of(response).items() if name.lower() != "content-length"}
        return Response(content, response.status_code, headers)

    async def _infer(self, request: Request) -> Response:
        worker = least_loaded(self._workers)
        async with context_of(request).bodies.body(request) as body:
            return await self._send(worker, request, body)

    async def _find(self, request: Request) -> Response:
        answer: Response | None = None
        for name, process in self._workers.processes.items():
            if process.up:
                response = await ask(self._workers, name, request)
                if response.status_code != httpx.codes.NOT_FOUND:
                    return RelayedResponse(response)
                content = await response.aread()
                # The worker that knows the event gives the reason why it has no clip.
                if answer is None or (content and json.loads(content).get("clip", "unknown") != "unknown"):
                    answer = Response(content, response.status_code, headers_of(response))
        if answer is None:
            raise no_answer()
        return answer

    # Changes

    async def _put(self, request: Request, name: str) -> Response:
        workers = self._workers
        async with context_of(request).bodies.body(request) as body, self._changing:
            known = workers.placement.get(name)
            model_only = request.url.path.endswith("/model")
            if known is None and model_only:
                workers.placed(name)  # raises: the stream does not exist
            waits = known is not None and not known.worker and known.origin == "api" and not model_only
            worker = known.worker if known is not None and not waits else await worker_for(workers, name, labels_of(body))
            if not worker and (known is None or waits):
                return await accept(workers, request, name, body, self._clock)
            try:
                await settled((workers.processes[worker],))
                response = await ask(workers, worker, request, body)
                await response.aread()
            except httpx.HTTPError:
                await asyncio.to_thread(self._place_stored, name, worker)
                raise
            if response.is_success:
                data, service = json.loads(body), workers.settings.service
                origin: Origin = "api" if known is None else known.origin
                if known is None:
                    changed = from_api(data, None, service)
                elif model_only:
                    changed = known.settings.model_copy(update=data)
                else:
                    given = workers.settings.streams.get(name) if known.origin == "command_line" else None
                    changed = from_api(data, known.settings, service, given)
                await asyncio.to_thread(workers.placement.put, name, changed, origin, (worker,))
                await asyncio.to_thread(workers.placement.store)
        return await self._located(response)

    def _place_stored(self, name: str, worker: str) -> None:
        """Take over what a worker stored before it ended without an answer."""
        known, stored = self._workers.placement.get(name), self._workers.files.read().get(name)
        if stored is not None and (known is None or known.origin == "api"):
            self._workers.placement.put(name, stored, "api", (worker,))

    async def _delete(self, request: Request, name: str) -> Response:
        workers = self._workers
        async with self._changing:
            stream = workers.placed(name)
            if stream.origin == "file" or await settled((workers.processes[stream.worker],)):
                response = await self._send(stream.worker, request)
            else:  # so that a stream that ends its worker can be removed
                if stream.origin == "api":
                    await asyncio.to_thread(workers.files.remove, name)
                response = Response(status_code=204)
            if response.status_code in (httpx.codes.NO_CONTENT, httpx.codes.NOT_FOUND):
                await asyncio.to_thread(workers.placement.remove, name)
                await asyncio.to_thread(workers.placement.store)
        return response

    # All workers

    async def _all(self, request: Request) -> dict[str, httpx.Response]:
        """Return the complete responses of all workers that answer in time.

        Raises:
            Problem: No worker answers.
        """

        async def answer(worker: str) -> tuple[str, httpx.Response] | None:
            try:
                async with asyncio.timeout(MERGE_S):
                    response = await ask(self._workers, worker, request)
                    await response.aread()
            except (httpx.HTTPError, TimeoutError, UnavailableError):
                return None
            return worker, response

        answers = await asyncio.gather(*map(answer, self._workers.processes))
        found = dict(answer for answer in answers if answer is not None)
        if not found:
            raise no_answer()
        return found

    async def _merged(self, request: Request, combine: Callable[[merge.Answers], object]) -> Response:
        """Combine the answers of all workers, by their names."""
        responses = await self._all(request)
        for response in responses.values():
            if not response.is_success:  # all of them reject an invalid query
                return Response(response.content, response.status_code, headers_of(response))
        return JSONResponse(combine({worker: response.json() for worker, response in responses.items()}))

    async def _list(self, request: Request) -> Response:
        try:
            responses = await self._all(request)
        except Problem:
            responses = {}
        answers = {worker: response.json() for worker, response in responses.items() if response.is_success}
        known = {(worker, stream["name"]): stream for worker, answer in answers.items() for stream in answer}
        placed = self._workers.placement.all()  # while a stream moves, two nodes may know it
        owned = {name: known.get((place.worker, name)) for name, place in placed.items()}
        seen = principal_of(request).sees
        found = [owned.get(view.name) or self._answer(view) for view in self._workers.streams() if seen(view.name)]
        return JSONResponse([self._with_place(stream) for stream in found])

    async def _events(self, request: Request) -> Response:
        query = request.query_params
        own: list[Any] = []
        if query.get("type", "changes") == "changes" and not {"from", "to"} & query.keys():
            wanted = query.get("stream")
            seen = principal_of(request).sees
            changes = [event for event in list(self._workers.events) if wanted in (None, event.stream) and seen(event.stream)]
            own = [event_answer(event, self._clock).model_dump(mode="json") for event in changes]

        def combine(answers: merge.Answers) -> object:
            return merge.merge_events({**answers, "": own}, int(query.get("limit", EVENTS_KEPT)))

        return await self._merged(request, combine)

    async def _cost(self, request: Request) -> Response:
        fps = request.query_params.get("fps")
        price = self._workers.settings.cost
        nodes = self._workers.nodes
        views = () if nodes is None else await asyncio.to_thread(nodes.all)
        machines = {node.name: node.machine for node in views}

        def combine(answers: merge.Answers) -> object:
            by_machine: defaultdict[str, list[Any]] = defaultdict(list)
            for worker, answer in answers.items():
                by_machine[machines.get(worker, "")].append(answer)
            cost = merge.merge_costs(list(by_machine.values()))
            return cost_answer(cost, price, None if fps is None else float(fps)).model_dump(mode="json")

        return await self._merged(request, combine)

    async def _engines(self, request: Request) -> Response:
        return await self._merged(request, lambda answers: merge.merge_engines(answers, self._workers.nodes is not None))

    async def _metrics(self, request: Request) -> Response:
        processes = self._workers.processes.values()
        try:
            texts = {worker: response.text for worker, response in (await self._all(request)).items() if response.is_success}
        except Problem:
            texts = {}
        nodes = self._workers.nodes
        if nodes is None:
            starts, up = {one.name: one.starts for one in processes}, {one.name: one.up for one in processes}
            label, own = "worker", merge.worker_metrics(starts, up)
        else:
            pending = sum(not stream.worker for stream in self._workers.placement.all().values())
            label, own = "node", merge.node_metrics(await asyncio.to_thread(nodes.all), pending)
        access = context_of(request).security.access
        own = [*own, *(() if access is None else access.audit.collect())]
        merged = await asyncio.to_thread(merge.merge_metrics, texts, label, own)
        return Response(merged, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
