"""The metrics of a Prometheus registry as OTLP messages: the same names, labels and values, read from the same place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from vision_infer.sink.otlp.spans import SCOPE, key_values

_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1"}
"""The units in UCUM, as OpenTelemetry writes them, by the last word of a name."""


class MetricSample(Protocol):
    """A sample of a Prometheus metric."""

    @property
    def name(self) -> str:
        """The name with its suffix."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels."""

    @property
    def value(self) -> float:
        """The value."""


class MetricFamily(Protocol):
    """A Prometheus metric with all its labels."""

    name: str
    documentation: str
    type: str

    @property
    def samples(self) -> Sequence[MetricSample]:
        """The samples."""


def metrics_body(resource: Resource, families: Iterable[MetricFamily], start_ns: int, now_ns: int) -> bytes:
    """Return the body of a request to ``/v1/metrics``.

    Args:
        resource: The process that is measured.
        families: The metrics of a registry.
        start_ns: The time since which counters count, nanoseconds since 1970 (UTC).
        now_ns: The time of the values, nanoseconds since 1970 (UTC).
    """
    scoped = ScopeMetrics(scope=SCOPE, metrics=[_metric(one, start_ns, now_ns) for one in families if one.samples])
    metrics = ResourceMetrics(resource=resource, scope_metrics=[scoped])
    return bytes(ExportMetricsServiceRequest(resource_metrics=[metrics]).SerializeToString())


def _metric(family: MetricFamily, start_ns: int, now_ns: int) -> Metric:
    unit = _UNITS.get(family.name.rpartition("_")[2], "")
    name = family.samples[0].name if family.type == "info" else family.name
    metric = Metric(name=name, description=family.documentation, unit=unit)
    if family.type == "histogram":
        points = _histogram_points(family, start_ns, now_ns)
        metric.histogram.CopyFrom(Histogram(data_points=points, aggregation_temporality=AGGREGATION_TEMPORALITY_CUMULATIVE))
        return metric
    counts = family.type == "counter"
    numbers = [
        NumberDataPoint(
            attributes=key_values(sample.labels),
            start_time_unix_nano=start_ns if counts else 0,
            time_unix_nano=now_ns,
            as_double=sample.value,
        )
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    if counts:
        total = Sum(data_points=numbers, aggregation_temporality=AGGREGATION_TEMPORALITY_CUMULATIVE, is_monotonic=True)
        metric.sum.CopyFrom(total)
    else:
        metric.gauge.CopyFrom(Gauge(data_points=numbers))
    return metric


def _histogram_points(family: MetricFamily, start_ns: int, now_ns: int) -> Iterable[HistogramDataPoint]:
    points: dict[tuple[tuple[str, str], ...], HistogramDataPoint] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        point = points.setdefault(tuple(labels.items()), HistogramDataPoint(time_unix_nano=now_ns, start_time_unix_nano=start_ns))
        if sample.name.endswith("_bucket"):
            bound, before = float(sample.labels["le"]), sum(point.bucket_counts)
            point.bucket_counts.append(int(sample.value) - before)  # those of Prometheus include all smaller values
            if not math.isinf(bound):
                point.explicit_bounds.append(bound)
        elif sample.name.endswith("_count"):
            point.count = int(sample.value)
            point.attributes.extend(key_values(labels))
        elif sample.name.endswith("_sum"):
            point.sum = sample.value
    return points.values()
