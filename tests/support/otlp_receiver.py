"""A receiver of OTLP over HTTP in this process: the part of an OpenTelemetry collector that a client sees."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Mapping

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.post_server import Answer, PostServer


class OtlpReceiver(PostServer):
    """Listens on a port until the context ends.

    Args:
        port: The port; 0 means any free port.
    """

    def __init__(self, port: int = 0) -> None:
        self.answer: Callable[[str], int] = lambda path: 200
        """Returns the status for a path."""
        self.traces: list[ExportTraceServiceRequest] = []
        self.metric_requests: list[ExportMetricsServiceRequest] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        super().__init__(port)

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

    def _receive(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.hold.wait(60)
        status = self.answer(path)
        self.paths.append(path)
        self.headers.append({name.lower(): value for name, value in headers.items()})
        if self.headers[-1].get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if status == 200 and path.endswith("/v1/traces"):
            self.traces.append(ExportTraceServiceRequest.FromString(body))
        elif status == 200 and path.endswith("/v1/metrics"):
            self.metric_requests.append(ExportMetricsServiceRequest.FromString(body))
        return status, {"Content-Type": "application/x-protobuf"}


def values(attributes: Iterable[KeyValue]) -> dict[str, str | int | float | bool]:
    """Return attributes as a dict."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}
