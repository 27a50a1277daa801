"""The worker of a new stream, of one that has none, and of a client's image: chosen, or waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vision_infer.config.cluster import label_text
from vision_infer.core.clock import Clock
from vision_infer.service.errors import ConflictError, UnavailableError
from vision_infer.service.http.access.visible import check_urls
from vision_infer.service.http.api_models import stream_answer
from vision_infer.service.http.context import principal_of
from vision_infer.service.http.routes.streams import settings_of
from vision_infer.service.processes.fleet import Fleet
from vision_infer.service.processes.forwarding import settled
from vision_infer.service.streams.api_settings import from_api


def labels_of(body: bytes) -> Mapping[str, str]:
    """Return the node labels in the settings of a stream; the worker reports what is invalid."""
    with suppress(ValueError, AttributeError):
        return {name: str(label_text(value)) for name, value in json.loads(body).get("node_labels", {}).items()}
    return {}


def least_loaded(workers: Fleet) -> str:
    """Return the worker that infers images of clients: of those that are ready, the one with the fewest streams.

    Raises:
        UnavailableError: None is ready.
    """
    ready = [name for name, process in workers.processes.items() if process.ready]
    if not ready:
        raise UnavailableError(workers.ready()[1], "Try again in a moment.")
    return min(ready, key=lambda name: len(workers.placement.of_worker(name)))


async def worker_for(workers: Fleet, name: str, labels: Mapping[str, str]) -> str:
    """Return the worker of a new stream; empty if it waits for one.

    Raises:
        ConflictError: There are too many streams, or no worker has enough capacity.
        UnavailableError: No worker can be reached.
    """
    streams, most = workers.placement.all(), workers.settings.service.max_streams
    if name not in streams and len(streams) >= most:
        raise ConflictError(f"the limit of {most} streams is reached", "Remove one, or raise service.max_streams.")
    waits = workers.placement.waits
    if not await settled(workers.processes.values()):
        if waits:
            return ""
        raise UnavailableError(workers.ready()[1], "Try again in a moment.")
    up = [worker for worker, process in workers.processes.items() if process.up]
    ready = [worker for worker in up if workers.processes[worker].ready]
    if ready:
        with suppress(ConflictError):  # a worker that starts may have more capacity, or the labels
            return await asyncio.to_thread(workers.placement.choose, name, ready, labels)
    try:
        return await asyncio.to_thread(workers.placement.choose, name, up, labels)
    except ConflictError:
        if not waits:
            raise
        return ""


async def accept(workers: Fleet, request: Request, name: str, body: bytes, clock: Clock) -> Response:
    """Store a stream that waits for a worker. The worker reports what it cannot run, for example a model that does not exist.

    Raises:
        Problem: The body is not a JSON object, or the role must not choose URLs.
        VisionInferError: The settings are invalid, or the stream cannot be stored.
    """
    known = workers.placement.get(name)
    data = settings_of(request.headers.get("content-type", ""), body)
    settings = from_api(data, None if known is None else known.settings, workers.settings.service)
    check_urls(principal_of(request), None if known is None else known.settings, settings)
    await asyncio.to_thread(workers.placement.put, name, settings, "api")
    answer = stream_answer(workers.stream(name), clock).model_dump(mode="json", by_alias=True)
    return JSONResponse(answer, 201 if known is None else 200)
