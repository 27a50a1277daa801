"""The models of the Open Inference Protocol for the gRPC server in front of workers, which get HTTP requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import quote

import httpx

from vision_infer.core.clock import Clock
from vision_infer.service.errors import UnavailableError, UnknownModelError
from vision_infer.service.http.problem import Problem
from vision_infer.service.inference_protocol.models import InferRequest, Outputs
from vision_infer.service.inference_protocol.tensors import InputTensor
from vision_infer.service.processes.admission import least_loaded
from vision_infer.service.processes.fleet import Fleet
from vision_infer.service.processes.worker_client import WorkerRequest
from vision_infer.sink.otlp.traced import TRACE_HEADERS

_LENGTH = "Inference-Header-Content-Length"
Run: TypeAlias = Callable[[Coroutine[Any, Any, httpx.Response]], httpx.Response]


class FleetModels:
    """See :class:`Models`.

    Args:
        workers: The workers, which all have the protocol over HTTP.
        run: Runs a coroutine on the event loop that sends requests to workers, and returns its result.
        clock: The source of time.
    """

    def __init__(
        self, workers: Fleet, run: Callable[[Coroutine[Any, Any, httpx.Response]], httpx.Response], clock: Clock
    ) -> None:
        self._workers = workers
        self._run = run
        self._clock = clock

    def ready(self) -> bool:
        """Return whether inference is possible."""
        return self._workers.ready()[0]

    def metadata(self, name: str, version: str) -> dict[str, Any]:
        """Return the inputs and outputs of a model."""
        metadata: dict[str, Any] = self._ask(WorkerRequest("GET", _path(name, version))).json()
        return metadata

    def infer(self, name: str, version: str, request: InferRequest) -> Outputs:
        """Run inference."""
        parameters: dict[str, object] = {"binary_data_output": True}
        if request.deadline_ns is not None:
            parameters["timeout"] = max(1, (request.deadline_ns - self._clock.monotonic_ns()) // 1000)
        wanted = [{"name": output} for output in request.outputs]
        inputs = [_described(tensor) for tensor in request.inputs]
        head = json.dumps({"parameters": parameters, "inputs": inputs, "outputs": wanted}).encode()
        body = b"".join((head, *(tensor.raw for tensor in request.inputs if tensor.raw is not None)))
        answer = self._ask(WorkerRequest("POST", f"{_path(name, version)}/infer", {_LENGTH: str(len(head))}, body))
        at = int(answer.headers[_LENGTH])
        outputs = json.loads(answer.content[:at])["outputs"]
        raw: list[bytes] = []
        for output in outputs:
            size = output.pop("parameters")["binary_data_size"]
            raw.append(answer.content[at : at + size])
            at += size
        return outputs, raw

    def _ask(self, request: WorkerRequest) -> httpx.Response:
        client = self._workers.clients[least_loaded(self._workers)]
        traced = replace(request, headers={**(TRACE_HEADERS.get() or {}), **request.headers})

        async def ask() -> httpx.Response:
            response = await client.send(traced)
            await response.aread()
            return response

        try:
            answer = self._run(ask())
        except httpx.HTTPError:
            raise UnavailableError("a worker process does not answer", "Try again in a moment.") from None
        if answer.is_success:
            return answer
        problem = answer.json()
        kind = problem["type"].rpartition(":")[2]
        if kind == "unavailable":
            raise UnavailableError(problem["detail"])
        raise Problem(kind, problem["detail"])


def _path(name: str, version: str) -> str:
    if {name, version} & {".", ".."}:  # the HTTP client would resolve them
        raise UnknownModelError(f"unknown model {name!r}", "GET /api/v1/models lists the models.")
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _described(tensor: InputTensor) -> dict[str, object]:
    """Return an input as JSON, without its binary data."""
    described: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if tensor.raw is not None:
        described["parameters"] = {"binary_data_size": len(tensor.raw)}
    elif tensor.values is not None:
        values = tensor.values
        described["data"] = [base64.b64encode(one).decode() if isinstance(one, bytes) else one for one in values]
    return described
