"""The gRPC server of the Open Inference Protocol v2."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc

from vision_infer.config.serve import ServiceSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import UsageError, VisionInferError
from vision_infer.service.errors import UnavailableError
from vision_infer.service.grpc.messages import MESSAGES, SERVICE
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.access.identify import SecurityContext
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.limits import address_of
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.routes.inference_protocol import protocol_problem
from vision_infer.service.inference_protocol.models import SERVER, VERSION, InferRequest, Models, after_timeout
from vision_infer.service.inference_protocol.tensors import InputTensor
from vision_infer.sink.otlp.traced import TRACE_HEADERS, TRACED_REQUEST, TracedRequest
from vision_infer.stream.redact import redact

if TYPE_CHECKING:
    from vision_infer.sink.otlp.telemetry import Telemetry

MAX_RUNNING = 32
"""The maximum number of calls that run at the same time."""
MAX_CALLS = 40
"""The maximum number of calls that run or wait; further ones get RESOURCE_EXHAUSTED. Their messages are in memory."""
MESSAGE_S = 60.0
"""The time limit for the message of a call, seconds: calls without one would occupy all threads."""
MAX_CONNECTIONS = 256
"""The maximum number of connections; further ones are closed."""
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_FAILED = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""The statuses that are errors of the server, as OpenTelemetry's conventions for gRPC say."""
_Method = Callable[[Any, grpc.ServicerContext], Mapping[str, Any]]
"""Returns the fields of the response to a request."""

logger = logging.getLogger("vision_infer.grpc")


class GrpcServer:
    """Serves the protocol until it is closed. The constructor binds the port.

    Args:
        settings: The address, the certificate and the limits, which are those of the HTTP server.
        port: The port; 0: any free one.
        models: The models of the service.
        tokens: The tokens of the configuration. All roles may run inference.
        clock: The source of time.
        access: Access for teams, whose API tokens are valid as well; None if it is not configured.
        telemetry: Takes the spans of admitted calls; None: none.

    Raises:
        UsageError: The address is not available.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        port: int,
        models: Models,
        tokens: Tokens,
        clock: Clock,
        access: Access | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._models = models
        self._telemetry = telemetry
        self._clock = clock
        self._security = SecurityContext(settings, tokens, clock, access)
        # Guards the rate limits, which are not thread-safe, and the waiting calls. The threads of calls hold it while they check
        # a token or note a call, and the thread that ends late calls while it copies them.
        self._lock = threading.Lock()
        self._waiting: dict[grpc.ServicerContext, int] = {}
        """The calls without their message, with the monotonic time at which they began."""
        self._ended = threading.Event()
        self._server = grpc.server(
            ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="grpc"),
            maximum_concurrent_rpcs=MAX_CALLS,
            options=[
                ("grpc.max_receive_message_length", int(settings.max_upload_mb * 1e6)),
                ("grpc.max_concurrent_streams", MAX_CALLS),
                ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            if settings.tls is None:
                bound = self._server.add_insecure_port(f"{host}:{port}")
            else:
                pair = (settings.tls.key.read_bytes(), settings.tls.certificate.read_bytes())
                bound = self._server.add_secure_port(f"{host}:{port}", grpc.ssl_server_credentials([pair]))
        except RuntimeError:
            bound = 0
        if not bound:
            hint = "Choose another service.inference_protocol.grpc_port, or 0 for any free port."
            raise UsageError(f"cannot listen on {host}:{port} for gRPC", hint)
        self.address = f"{host}:{bound}"
        """The host and port; the actual port if port 0 was configured."""

    def __enter__(self) -> GrpcServer:
        self._server.start()
        threading.Thread(target=self._end_late, name="grpc-late", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.stop(1.0).wait(5.0)

    def _end_late(self) -> None:
        while not self._ended.wait(1.0):
            with self._lock:
                waiting = list(self._waiting.items())
            for context, began_ns in waiting:
                if self._clock.monotonic_ns() - began_ns > MESSAGE_S * 1e9:
                    context.cancel()

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        models = self._models
        methods: dict[str, _Method] = {
            "ServerLive": lambda *_: {"live": True},
            "ServerReady": lambda *_: {"ready": models.ready()},
            "ModelReady": lambda request, _: {"ready": _is_ready(models, request.name, request.version)},
            "ServerMetadata": lambda *_: SERVER,
            "ModelMetadata": lambda request, _: models.metadata(request.name, request.version),
            "ModelInfer": self._infer,
        }
        return {
            # A stream of one request is the same to clients, but its message is received after the token has been checked.
            name: grpc.stream_unary_rpc_method_handler(
                self._guarded(name, method), MESSAGES[f"{name}Request"].FromString, MESSAGES[f"{name}Response"].SerializeToString
            )
            for name, method in methods.items()
        }

    def _guarded(self, name: str, method: _Method) -> Callable[..., Any]:
        """Return a method with the checks before it, and with errors as statuses of gRPC."""
        response = MESSAGES[f"{name}Response"]

        def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            answer, problem, traced = None, None, None
            metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            try:
                self._admit(name, context, metadata)
                traced = self._begin_trace(metadata)
                answer = response(**method(self._message(requests, context), context))
            except (StopIteration, grpc.RpcError):
                problem = Problem("bad-request", "the call ended before its message arrived")
            except Problem as found:
                problem = found
            except VisionInferError as error:
                problem = protocol_problem(error)
            except Exception as error:  # noqa: BLE001 - unexpected: only the log gets the details
                logger.error("%s: %s: %s", name, type(error).__name__, redact(str(error)))
                problem = Problem("internal", "see the service's log for details")
            code = grpc.StatusCode.OK if problem is None else _CODES.get(problem.status_code, grpc.StatusCode.INTERNAL)
            self._end_trace(traced, name, code)
            return answer if problem is None else context.abort(code, problem.detail)

        return handle

    def _begin_trace(self, metadata: Mapping[str, str]) -> TracedRequest | None:
        """Continue the trace of the client, or begin one; the thread of the call has it, and had that of an earlier call."""
        traced = None
        headers = {name: metadata[name] for name in ("traceparent", "tracestate") if name in metadata}
        if self._telemetry is not None:
            traced = self._telemetry.begin_request(headers.get("traceparent", ""), headers.get("tracestate", ""))
        TRACED_REQUEST.set(traced)
        TRACE_HEADERS.set(headers)
        return traced

    def _end_trace(self, traced: TracedRequest | None, method: str, code: grpc.StatusCode) -> None:
        if traced is not None and self._telemetry is not None:
            traced.name = f"{SERVICE}/{method}"
            traced.failed = code in _FAILED
            traced.attributes |= {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method}
            traced.attributes["rpc.grpc.status_code"] = int(code.value[0])
            self._telemetry.end_request(traced)

    def _message(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        with self._lock:
            self._waiting[context] = self._clock.monotonic_ns()
        try:
            return next(requests)
        finally:
            with self._lock:
                del self._waiting[context]

    def _admit(self, name: str, context: grpc.ServicerContext, metadata: Mapping[str, str]) -> None:
        """Check the rate and the token of a call; an invalid token is recorded in the audit log.

        Raises:
            Problem: 429 or 401.
        """
        kind, _, token = metadata.get("authorization", "").partition(" ")
        scope = {"client": (unquote(context.peer().partition(":")[2].rpartition(":")[0]).strip("[]"), 0)}
        security = self._security
        with self._lock:
            if security.requests.take(address_of(scope)):
                raise Problem("too-many-requests", f"more than {security.settings.requests_per_second:g} requests per second")
            if security.tokens.needed and kind.lower() != "bearer":
                raise Problem("unauthorized", "send the metadata 'authorization: Bearer TOKEN'")
            if not security.tokens.needed or security.known(token.strip()) is not None:
                return
            security.refuse(scope)
        if security.access is not None:
            security.access.audit.write("refused", None, "POST", (f"/{SERVICE}/{name}", ""), 401, scope["client"][0])
        raise Problem("unauthorized", "the token is invalid")

    def _infer(self, request: Any, context: grpc.ServicerContext) -> dict[str, Any]:
        """Run inference. The outputs are always binary data."""
        now_ns, remaining_s = self._clock.monotonic_ns(), context.time_remaining()
        given_us = next((one.value.int64_param for one in request.parameters if one.key == "timeout"), None)
        names = [output.name for output in request.outputs]
        deadline_ns = after_timeout(now_ns, given_us)
        if remaining_s is not None:
            of_call_ns = now_ns + int(max(0.0, remaining_s) * 1e9)
            deadline_ns = of_call_ns if deadline_ns is None else min(deadline_ns, of_call_ns)
        wanted = InferRequest(_inputs(request), names, deadline_ns)
        outputs, raw = self._models.infer(request.model_name, request.model_version, wanted)
        return {
            "model_name": request.model_name,
            "model_version": VERSION,
            "id": request.id,
            "outputs": outputs,
            "raw_output_contents": raw,
        }


def _is_ready(models: Models, name: str, version: str) -> bool:
    try:
        models.metadata(name, version)
    except UnavailableError:
        return False
    return True


def _inputs(request: Any) -> list[InputTensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise UsageError(f"{len(request.inputs)} inputs have {len(raw)} raw_input_contents", "Send one for each input.")
    inputs: list[InputTensor] = []
    for at, one in enumerate(request.inputs):
        contents = one.contents
        values = list(contents.bytes_contents) or list(contents.uint_contents) or None
        inputs.append(InputTensor(one.name, one.datatype, tuple(one.shape), raw[at] if raw else None, values))
    return inputs
