"""The HTTP routes of the Open Inference Protocol v2, which the service has if ``service.inference_protocol`` is set.

They are not part of the OpenAPI document: the protocol has its own. The specifications are named in
:mod:`vision_infer.service.inference_protocol.tensors`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError

from vision_infer.core.errors import ModelError, UsageError, VisionInferError
from vision_infer.service.backend import Backend
from vision_infer.service.errors import DeadlineError, TooManyRequestsError, UnknownModelError
from vision_infer.service.http.context import Shared
from vision_infer.service.http.problem import Problem, invalid, problem_of
from vision_infer.service.inference_protocol.models import (
    SERVER,
    VERSION,
    InferRequest,
    ProtocolModel,
    after_timeout,
    infer,
    model_of,
)
from vision_infer.service.inference_protocol.tensors import InputTensor, OutputTensor

_HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header with the length of the JSON before binary data."""

Parameters = dict[str, Any]


class _Input(BaseModel):
    name: str
    shape: Annotated[tuple[int, ...], Field(max_length=8)]
    datatype: str
    parameters: Parameters = {}
    data: list[Any] | None = None


class _Output(BaseModel):
    name: str
    parameters: Parameters = {}


class _InferBody(BaseModel):
    id: Annotated[str, Field(max_length=1000)] = ""
    parameters: Parameters = {}
    inputs: Annotated[list[_Input], Field(max_length=16)]
    outputs: Annotated[list[_Output], Field(max_length=64)] = []


def protocol_problem(error: VisionInferError) -> Problem:
    """Return an error as a problem with the status that clients of the protocol expect."""
    if isinstance(error, UnknownModelError):
        return Problem("not-found", str(error))
    if isinstance(error, UsageError | ModelError):
        return Problem("bad-request", str(error))
    if isinstance(error, TooManyRequestsError):
        return Problem("too-many-requests", str(error), {"Retry-After": "1"})
    if isinstance(error, DeadlineError):
        return Problem("deadline", str(error))
    return problem_of(error)


class _ProtocolRoute(APIRoute):
    """A route whose errors have the member ``error``, as the protocol requires."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except Problem as found:
                problem = found
            except VisionInferError as error:
                problem = protocol_problem(error)
            problem.members["error"] = problem.detail
            return problem.response()

        return handle


router = APIRouter(prefix="/v2", route_class=_ProtocolRoute, include_in_schema=False)


@router.get("")
@router.get("/")
async def get_server() -> Mapping[str, object]:
    """Return the name, version and extensions of the server."""
    return SERVER


@router.get("/health/live")
async def get_live() -> Mapping[str, bool]:
    """Return 200 while the process is alive."""
    return {"live": True}


@router.get("/health/ready")
def get_all_ready(context: Shared) -> Mapping[str, bool]:
    """Return 200 if inference is possible, otherwise 503 with the reason."""
    ready, reason = context.backend.ready()
    if not ready:
        raise Problem("unavailable", reason)
    return {"ready": True}


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
def get_model_ready(name: str, context: Shared, version: str = "") -> Mapping[str, object]:
    """Return 200 if a model is loaded, otherwise 503 or 404."""
    return {"name": model_of(context.backend, name, version).name, "ready": True}


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
def get_model(name: str, context: Shared, version: str = "") -> Mapping[str, object]:
    """Return the inputs and outputs of a model."""
    return model_of(context.backend, name, version).metadata


@router.post("/models/{name}/infer")
@router.post("/models/{name}/versions/{version}/infer")
async def post_infer(name: str, request: Request, context: Shared, version: str = "") -> Response:
    """Run inference. Tensors are JSON, or binary data after the JSON; outputs have the form that the request asks for."""
    arrived_ns = context.clock.monotonic_ns()
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem("unsupported-media-type", "compressed bodies are not supported; send the body without Content-Encoding")
    length = request.headers.get(_HEADER_LENGTH)
    limiter = context.tensors
    async with context.bodies.body(request) as body, limiter.slot():
        return await to_thread.run_sync(
            _answer, context.backend, (name, version), body, length, arrived_ns, limiter=limiter.threads
        )


PATHS = tuple(route.path for route in router.routes if isinstance(route, APIRoute))
"""The templates of the paths, for the audit log."""


def _answer(backend: Backend, of: tuple[str, str], body: bytes, length: str | None, arrived_ns: int) -> Response:
    given, inputs = _parse(body, length)
    model = model_of(backend, *of)
    deadline_ns = after_timeout(arrived_ns, given.parameters.get("timeout"))
    outputs = infer(backend, model, InferRequest(inputs, [output.name for output in given.outputs], deadline_ns))
    all_binary = given.parameters.get("binary_data_output", False)
    binary = {output.name: output.parameters.get("binary_data", all_binary) for output in given.outputs}
    return _response(model, given.id, outputs, [bool(binary.get(output.name, all_binary)) for output in outputs])


def _parse(body: bytes, length: str | None) -> tuple[_InferBody, list[InputTensor]]:
    """Return the JSON of a request, and its inputs.

    Raises:
        Problem: 400 if the JSON is invalid, or a length is wrong.
    """
    if length is not None and not (length.isascii() and length.isdigit() and int(length) <= len(body)):
        raise Problem("bad-request", f"{_HEADER_LENGTH} is not the length of the JSON in this body, which has {len(body)} bytes")
    at = len(body) if length is None else int(length)
    try:
        given = _InferBody.model_validate_json(body[:at])
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise Problem("bad-request", invalid([dict(one) for one in found]).detail) from None
    inputs: list[InputTensor] = []
    for one in given.inputs:
        size = one.parameters.get("binary_data_size")
        raw = None
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(body) - at:
                raise Problem("bad-request", f"binary_data_size of input {one.name[:100]!r} is not a length within the body")
            raw = memoryview(body)[at : at + size]
            at += size
        inputs.append(InputTensor(one.name, one.datatype, one.shape, raw, one.data))
    if at != len(body):
        raise Problem("bad-request", f"{len(body) - at} bytes after the last input; check {_HEADER_LENGTH} and binary_data_size")
    return given, inputs


def _response(model: ProtocolModel, request_id: str, outputs: list[OutputTensor], binary: list[bool]) -> Response:
    shown: list[dict[str, object]] = []
    parts: list[bytes] = []
    for output, as_binary in zip(outputs, binary, strict=True):
        entry: dict[str, object] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if as_binary:
            parts.append(output.to_bytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = output.to_values()
        shown.append(entry)
    answer: dict[str, object] = {"model_name": model.name, "model_version": VERSION, "outputs": shown}
    if request_id:
        answer["id"] = request_id
    head = json.dumps(answer, ensure_ascii=False).encode()
    if not parts:
        return Response(head, media_type="application/json")
    return Response(b"".join((head, *parts)), media_type="application/octet-stream", headers={_HEADER_LENGTH: str(len(head))})
