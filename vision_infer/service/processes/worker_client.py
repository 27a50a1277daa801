"""Requests to a worker over its Unix socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from vision_infer.service.processes.worker_settings import CLIENT_HEADER, TOKEN_HEADER

CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """A request to a worker."""

    method: str
    """The HTTP method."""
    target: str
    """The path and query, percent-encoded."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers that concern the worker."""
    body: bytes = b""
    client: Mapping[str, Any] = field(default_factory=dict)
    """The address of the client that the request comes from, and its principal; see :meth:`Principal.to_plain`."""


class FleetClient(Protocol):
    """Sends requests to one worker, wherever it runs."""

    async def send(self, request: WorkerRequest) -> httpx.Response:
        """Send a request, and return the response, whose body the caller must read or close.

        Raises:
            httpx.HTTPError: The worker does not answer.
        """


class WorkerClient:
    """Sends requests to one worker. One event loop may use it.

    Args:
        socket: The Unix socket of the worker.
        token: The token that the worker accepts.
    """

    def __init__(self, socket: Path, token: str) -> None:
        self._socket = socket
        self._token = token
        self._client: httpx.AsyncClient | None = None

    async def send(self, request: WorkerRequest) -> httpx.Response:
        """Send a request; see :meth:`FleetClient.send`.

        Raises:
            httpx.HTTPError: The worker does not answer.
        """
        if self._client is None:  # created on the event loop that uses it
            transport = httpx.AsyncHTTPTransport(uds=str(self._socket), limits=httpx.Limits(max_keepalive_connections=8))
            self._client = httpx.AsyncClient(
                transport=transport, base_url="http://worker", trust_env=False, timeout=httpx.Timeout(None, connect=CONNECT_S)
            )
        headers = {**request.headers, TOKEN_HEADER: self._token, CLIENT_HEADER: json.dumps(dict(request.client))}
        url = httpx.URL("http://worker").copy_with(raw_path=request.target.encode("ascii"))
        return await self._client.send(
            self._client.build_request(request.method, url, headers=headers, content=request.body or None), stream=True
        )
