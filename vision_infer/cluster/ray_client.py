"""Requests to the worker of a node, over calls of its actor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from vision_infer.service.processes.worker_client import WorkerRequest

CALL_S = 30.0
"""The longest time for which a worker that begins to answer may take, seconds."""
_beginners = ThreadPoolExecutor(8, "ray-client")


class RayClient:
    """Sends requests to one node, like :class:`WorkerClient`.

    Args:
        actor: The handle of the :class:`NodeWorker`.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def send(self, request: WorkerRequest) -> httpx.Response:
        """Send a request; see :meth:`FleetClient.send`.

        Raises:
            httpx.HTTPError: The node does not answer.
        """
        sent = httpx.Request(request.method, "http://worker/")
        begun = await _call(self._actor, CALL_S, "begin", request)
        if begun is None:
            raise httpx.ReadError("the worker does not answer", request=sent)
        status, returned, content, name = begun
        stream = _ActorStream(self._actor, content, name)
        return httpx.Response(status, headers=returned, stream=stream, request=sent)


class _ActorStream(httpx.AsyncByteStream):
    """The body of a response that is read from the worker."""

    def __init__(self, actor: Any, content: bytes, name: str | None) -> None:
        self._actor = actor
        self._content = content
        self._name = name

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._content:
            yield self._content
        while self._name is not None:
            piece = await _call(self._actor, None, "more", self._name)
            if piece is None:
                self._name = None
                raise httpx.ReadError("the worker has ended")
            if not piece:
                self._name = None
                return
            yield piece

    async def aclose(self) -> None:
        if self._name is not None:
            with suppress(ConnectionError):
                self._actor.close.remote(self._name)
            self._name = None


async def _call(actor: Any, timeout_s: float | None, method: str, *arguments: object) -> Any:
    """Return the result of an actor call.

    Raises:
        httpx.HTTPError: The actor does not answer, or its node or the head is lost.
    """

    def begin() -> Future[Any]:
        if not ray.is_initialized():
            raise ConnectionError
        result: Future[Any] = getattr(actor, method).remote(*arguments).future()
        return result

    try:
        async with asyncio.timeout(timeout_s):
            if isinstance(actor, ActorHandle):
                future = begin()
            else:  # Ray Client waits for an answer of the head
                future = await asyncio.get_running_loop().run_in_executor(_beginners, begin)
            return await asyncio.shield(asyncio.wrap_future(future))  # Ray cannot set the result of a canceled call
    except (RayError, TimeoutError, ConnectionError) as error:
        raise httpx.ReadError(f"the node does not answer: {type(error).__name__}") from None
