"""Sends traces and metrics to an OTLP receiver (OTLP/HTTP 1, binary protobuf), on a separate thread.

The pipeline only puts the times of a chosen frame into a bounded list. Nothing that the receiver does can delay a frame.
"""

from __future__ import annotations

import itertools
import logging
import re
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping

from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from vision_infer.config.service.telemetry import TelemetrySettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.carrier import UndeliveredError
from vision_infer.sink.delivery.poster import Poster
from vision_infer.sink.otlp.metrics import MetricFamily, metrics_body
from vision_infer.sink.otlp.spans import batch_spans, key_values, request_span, trace_body
from vision_infer.sink.otlp.traced import FrameTraces, Sampling, TracedFrame, TracedRequest, new_id

MAX_WAITING = 8192
"""The maximum number of traces that wait to be written as messages."""
MAX_TRACES = 256
"""The maximum number of traces in a request, about 250 kB."""
MAX_UNSENT = 16
"""The maximum number of requests that wait while the receiver is away."""
FLUSH_S = 5.0
"""The interval of requests, seconds: rare ones cost less CPU for each frame."""
HOLD_NS = 1_000_000_000
"""The time for which a frame waits for the others of its batch, so that all of them link to each other."""
TIMEOUT_S = 5.0
CLOSE_S = 2.0
_TEMPORARY = (408, 429, 502, 503, 504)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, section 3.2; later versions may append fields."""

_log = logging.getLogger("vision_infer.telemetry")


class OtlpClient:
    """Posts messages to an OTLP receiver."""

    def __init__(self, settings: TelemetrySettings) -> None:
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._host = settings.host
        self._poster = Poster(settings.endpoint or "", settings.host, headers, settings.ca, TIMEOUT_S)
        self._opened = False

    def post(self, signal: str, body: bytes) -> None:
        """Post a message.

        Args:
            signal: ``traces`` or ``metrics``.
            body: The message.

        Raises:
            UndeliveredError: It is not accepted; ``patient``: nor will it be later.
        """
        if not self._opened:
            self._poster.open()
            self._opened = True
        status, _ = self._poster.post(body, {"Content-Type": "application/x-protobuf"}, f"/v1/{signal}")
        if status in (401, 403):
            raise UndeliveredError(f"{self._host} answered with status {status}", "Check telemetry.headers.", patient=True)
        if not 200 <= status < 300:
            hint = f"Check telemetry.endpoint, to which /v1/{signal} is appended." if status in (301, 308, 404, 405) else ""
            raise UndeliveredError(f"{self._host} answered with status {status}", hint, patient=status not in _TEMPORARY)

    def check(self) -> None:
        """Send messages without content.

        Raises:
            UndeliveredError: They are not accepted.
        """
        try:
            for signal in ("traces", "metrics"):
                self.post(signal, b"")
        finally:
            self.close()

    def close(self) -> None:
        """Close the connections."""
        self._opened = False
        self._poster.close()


class Telemetry:
    """The traces and metrics of one process. Its methods can be called from any thread.

    Args:
        settings: The settings.
        process: Further attributes of the process, such as ``service.instance.id``.
        clock: The monotonic and the wall clock.
    """

    def __init__(self, settings: TelemetrySettings, process: Mapping[str, str], clock: Clock = SYSTEM_CLOCK) -> None:
        self.frames = FrameTraces(settings.sample_ratio, self._offer, clock)
        self._settings = settings
        self._clock = clock
        program = {"service.name": "vision-infer", "host.name": socket.gethostname()}
        self._resource = Resource(attributes=key_values({**program, **process, **settings.resource}))
        self._client = OtlpClient(settings)
        self._takes = Sampling(settings.sample_ratio).takes
        self._numbers = itertools.count()
        # Guards the list of waiting traces and the counts. Who offers a trace holds it for an append, the sending thread to
        # replace the list.
        self._lock = threading.Lock()
        self._waiting: list[TracedFrame | TracedRequest] = []
        self._counts = dict.fromkeys(("sent", "queue_full", "unreachable", "rejected", "failed"), 0)
        self._held: defaultdict[tuple[int, int], list[TracedFrame]] = defaultdict(list)
        """The frames that wait for the others of their batch, by the time of its inference."""
        self._unsent: deque[tuple[int, bytes]] = deque()
        """The requests that wait for the receiver, each with the number of its traces."""
        self._collect: Callable[[], Iterable[MetricFamily]] | None = None
        self._start_wall_ns = clock.wall_ns()
        self._metrics_due_ns = 0
        self._failing: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    # Input

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def collect(self, read: Callable[[], Iterable[MetricFamily]]) -> None:
        """Set the function that returns the metrics."""
        self._collect = read

    def begin_request(self, traceparent: str, tracestate: str) -> TracedRequest | None:
        """Return the trace of an HTTP request; None if it has none.

        Args:
            traceparent: The header of W3C Trace Context; its trace is continued. Empty: the request is chosen as frames are.
            tracestate: The header that belongs to it.
        """
        found = _TRACEPARENT.fullmatch(traceparent)
        now = self._clock.monotonic_ns()
        if found is not None:
            sampled = bool(int(found[3], 16) & 1)
            return TracedRequest(int(found[1], 16), new_id(64), int(found[2], 16), sampled, tracestate[:512], now)
        return TracedRequest(new_id(128), new_id(64), 0, True, "", now) if self._takes("", next(self._numbers)) else None

    def end_request(self, request: TracedRequest) -> None:
        """Send the spans of a request, and of the images that were inferred for it."""
        request.end_ns = self._clock.monotonic_ns()
        if request.sampled:
            self._offer(request)
            for frame in request.frames:
                self._offer(frame)

    def _offer(self, item: TracedFrame | TracedRequest) -> None:
        with self._lock:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(item)
            else:
                self._counts["queue_full"] += 1

    def counts(self) -> Mapping[str, int]:
        """Return the number of traces by outcome."""
        with self._lock:
            return dict(self._counts)

    # Output

    def _run(self) -> None:
        ended, interval_s = False, min(FLUSH_S, self._settings.metrics_s or FLUSH_S)
        while not ended:
            ended = self._ended.wait(interval_s)
            try:
                self.flush(ended)
            except Exception:  # noqa: BLE001 - the boundary of a thread: telemetry must not end for one bad value
                _log.exception("OpenTelemetry: traces or metrics could not be written")
        self._client.close()

    def flush(self, everything: bool = False) -> None:
        """Send what is due.

        Args:
            everything: Whether frames no longer wait for the others of their batch, and metrics not for their interval.
        """
        self._write_due(everything)
        while self._unsent and self._sent("traces", self._unsent[0][1], self._unsent[0][0]):
            self._unsent.popleft()
        interval_s, now = self._settings.metrics_s, self._clock.monotonic_ns()
        if self._collect is not None and interval_s is not None and (everything or now >= self._metrics_due_ns):
            self._metrics_due_ns = now + round(interval_s * 1e9)
            body = metrics_body(self._resource, self._collect(), self._start_wall_ns, self._clock.wall_ns())
            self._sent("metrics", body, 0)

    def _write_due(self, everything: bool) -> None:
        """Write the due traces as messages. One that cannot be written is counted, and does not prevent others."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        now = self._clock.monotonic_ns()
        wall_ns = self._clock.wall_ns() - now
        requests = [item for item in waiting if isinstance(item, TracedRequest)]
        for frame in (item for item in waiting if isinstance(item, TracedFrame)):
            trace = frame.trace
            key = (trace.inference_start_ns, trace.inference_end_ns) if trace.batch else (frame.span_id, frame.trace_id)
            self._held[key].append(frame)
        due = [key for key, batch in self._held.items() if everything or batch[0].written_ns + HOLD_NS <= now]
        traces = [(self._spans_of(request, 1, wall_ns), 1) for request in requests]
        traces += [(self._spans_of(batch, len(batch), wall_ns), len(batch)) for batch in map(self._held.pop, due)]
        traces = [(spans, count) for spans, count in traces if spans]
        for part in (traces[at : at + MAX_TRACES] for at in range(0, len(traces), MAX_TRACES)):
            spans = itertools.chain.from_iterable(spans for spans, _ in part)
            self._unsent.append((sum(count for _, count in part), trace_body(self._resource, spans)))
            if len(self._unsent) > MAX_UNSENT:
                self._count("unreachable", self._unsent.popleft()[0])

    def _spans_of(self, one: TracedRequest | list[TracedFrame], traces: int, wall_ns: int) -> list[Span]:
        """Return the spans of a request or batch; without any, its traces are counted as failed."""
        try:
            return [request_span(one, wall_ns)] if isinstance(one, TracedRequest) else [*batch_spans(one, wall_ns)]
        except Exception:  # noqa: BLE001 - the boundary of a thread: one bad value must not lose other traces
            if not self.counts()["failed"]:  # what follows is only counted
                _log.exception("OpenTelemetry: a trace cannot be written")
            self._count("failed", traces)
            return []

    def _sent(self, signal: str, body: bytes, traces: int) -> bool:
        """Post a message; return whether it is settled: sent, or rejected."""
        try:
            self._client.post(signal, body)
        except UndeliveredError as error:
            if not self._failing:
                _log.warning("OpenTelemetry: %s", error)  # what follows is only counted
            self._failing.add(signal)
            if error.patient:
                self._count("rejected", traces)
            return error.patient
        self._count("sent", traces)
        if signal in self._failing:
            self._failing.discard(signal)
            if not self._failing:
                _log.info("OpenTelemetry: %s works again; traces: %s", self._settings.host, self.counts())
        return True

    def _count(self, outcome: str, traces: int) -> None:
        with self._lock:
            self._counts[outcome] += traces

    def close(self) -> None:
        """Send what waits, for at most two seconds."""
        self._ended.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            _log.warning("OpenTelemetry: %s did not take the last traces within %g s", self._settings.host, CLOSE_S)
