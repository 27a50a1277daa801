"""A receiver of OTLP over HTTP in this process: the part of an OpenTelemetry collector that a client sees."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver:
    """Listens on a port until the context ends.

    Args:
        port: The port; 0 means any free port.
    """

    def __init__(self, port: int = 0) -> None:
        self.answer: Callable[[str], int] = lambda path: 200
        """Returns the status for a path."""
        self.hold = threading.Event()
        """Requests are answered only while this event is set."""
        self.hold.set()
        self.traces: list[ExportTraceServiceRequest] = []
        self.metric_requests: list[ExportMetricsServiceRequest] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.hold.wait(60)
                status = receiver.answer(self.path)
                receiver.paths.append(self.path)
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                if status == 200 and self.path.endswith("/v1/traces"):
                    receiver.traces.append(ExportTraceServiceRequest.FromString(body))
                elif status == 200 and self.path.endswith("/v1/metrics"):
                    receiver.metric_requests.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                pass  # clients that disconnect

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        """All spans that were received."""
        return [
            span for body in list(self.traces) for one in body.resource_spans for scope in one.scope_spans for span in scope.spans
        ]

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of the last request by name."""
        last = self.metric_requests[-1].resource_metrics[0]
        return {metric.name: metric for scope in last.scope_metrics for metric in scope.metrics}

    def __enter__(self) -> OtlpReceiver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def values(attributes: Iterable[KeyValue]) -> dict[str, str | int | float | bool]:
    """Return attributes as a dict."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}
