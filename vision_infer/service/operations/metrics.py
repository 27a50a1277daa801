"""Prometheus metrics, read from the backend on each scrape. Labels are names of existing objects, so their number is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from vision_infer import __version__
from vision_infer.core.clock import Clock
from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import LaneStatus, StreamState, StreamStatus
from vision_infer.preview.preview import PreviewCounts
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.service.backend import Backend
from vision_infer.service.clips.clip_recorder import ClipCounts
from vision_infer.service.streams.cost import Cost
from vision_infer.sink.delivery.carrier import SinkStatus
from vision_infer.telemetry.histogram import Histogram

STAGE_BOUNDS_MS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 5000)
FIRST_LOST = ("queue_full", "spool_full", "disk_error")
"""The drop reasons that all sinks have."""
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64)
_QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99", "max": "1"}
_STEPS = {step.word: int(step) for step in DegradationStep}
_LIVE_STATES = [state for state in StreamState if state not in (StreamState.OPENING, StreamState.RUNNING)]


def make_registry(backend: Backend, clock: Clock) -> CollectorRegistry:
    """Create a registry for this service, including the metrics of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServiceCollector(backend, clock))
    ProcessCollector(registry=registry)
    return registry


class ServiceCollector(Collector):
    """Collects all metrics on each scrape; blocks as long as the backend does."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        backend = self._backend
        yield InfoMetricFamily("vision_infer_build", "Build information.", {"version": __version__})
        yield GaugeMetricFamily(
            "vision_infer_ready", "Whether the service can run inference (1) or not (0).", int(backend.ready()[0])
        )
        yield from _streams([view.status for view in backend.streams() if view.status is not None], self._clock.monotonic_ns())
        yield from _lanes(backend.lanes())
        yield _stages(backend.stages())
        yield from _cost(backend.cost())
        hub = backend.hub
        yield GaugeMetricFamily("vision_infer_clients", "Number of clients that read results.", hub.readers)
        yield CounterMetricFamily(
            "vision_infer_results_skipped", "Number of results that clients were too slow to read.", hub.skipped
        )
        yield from _sinks(backend.sinks(), self._clock.wall_ns())
        yield from _preview(backend.preview.counts())
        yield from _clips(backend.clips.counts())


def _cost(cost: Cost) -> Iterable[Metric]:
    cores = GaugeMetricFamily(
        "vision_infer_stream_cpu_cores",
        "CPU cores used by the stream: its own thread (decode) and its share of all other work (shared).",
        labels=("stream", "part"),
    )
    share = GaugeMetricFamily(
        "vision_infer_stream_machine_share", "The larger of the stream's CPU and accelerator shares, 0-1.", labels=("stream",)
    )
    for stream in cost.streams:
        cores.add_metric((stream.name, "decode"), stream.decode_cores)
        cores.add_metric((stream.name, "shared"), stream.shared_cores)
        share.add_metric((stream.name,), stream.share)
    machine = GaugeMetricFamily(
        "vision_infer_machine_cpu_cores",
        "CPU cores of the machine: used by this service, by others, or unused (`nobody`).",
        labels=("by",),
    )
    used = cost.machine.used + cost.machine.others
    for by, value in (("service", cost.machine.used), ("others", cost.machine.others), ("nobody", cost.machine.cores - used)):
        machine.add_metric((by,), max(0.0, value))
    yield from (cores, share, machine)
    if cost.more_streams is not None:
        yield GaugeMetricFamily(
            "vision_infer_more_streams",
            "Number of additional streams of this kind that fit without degrading any.",
            cost.more_streams,
        )


def _counters(name: str, text: str, label: str, counts: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _clips(counts: ClipCounts) -> Iterable[Metric]:
    yield _counters("vision_infer_clips", "Number of clips by outcome.", "outcome", counts.clips)
    text = "Number of events without a clip, shortened clips and dropped video, by reason."
    yield _counters("vision_infer_clip_drops", text, "reason", counts.drops)
    yield GaugeMetricFamily("vision_infer_clip_disk_bytes", "Size of the clips on disk.", counts.disk_bytes)
    text = "Size of the encoded video buffered for clips."
    yield GaugeMetricFamily("vision_infer_clip_memory_bytes", text, counts.memory_bytes)


def _preview(counts: PreviewCounts) -> Iterable[Metric]:
    viewers = GaugeMetricFamily("vision_infer_preview_viewers", "Number of viewers of the live preview.", labels=("stream",))
    for stream, number in counts.viewers.items():
        viewers.add_metric((stream,), number)
    yield viewers
    yield GaugeMetricFamily("vision_infer_preview_encoders", "Number of videos that are encoded for viewers.", counts.encoders)
    yield CounterMetricFamily("vision_infer_preview_sessions", "Number of preview sessions since the start.", counts.sessions)
    text = "Number of RTP packets sent for the live preview: first transmissions or retransmissions."
    yield _counters("vision_infer_preview_packets", text, "kind", {"first": counts.packets, "again": counts.resent})
    text = "Number of times a viewer lost frames and was sent the current group of pictures again."
    yield CounterMetricFamily("vision_infer_preview_restarts", text, counts.restarts)
    text = "Number of frames not sent to viewers and of rejected viewers, by reason."
    yield _counters("vision_infer_preview_drops", text, "reason", counts.drops)


def _sinks(sinks: Sequence[SinkStatus], wall_ns: int) -> Iterable[Metric]:
    labels = ("sink", "kind")
    gauges = [
        (GaugeMetricFamily(f"vision_infer_sink_{name}", text, labels=labels), values)
        for name, text, values in (
            ("connected", "Whether the sink works (1) or not (0).", [int(one.connected) for one in sinks]),
            ("queued_records", "Number of records in memory that are not on disk yet.", [one.queued for one in sinks]),
            ("waiting_records", "Number of records on disk that wait to be sent.", [one.waiting for one in sinks]),
            ("spool_bytes", "Size of the spool on disk.", [one.spool_bytes for one in sinks]),
            ("oldest_seconds", "Approximate age of the oldest waiting record.", [_waits_s(one, wall_ns) for one in sinks]),
        )
    ]
    sent = CounterMetricFamily(
        "vision_infer_sink_sent_records", "Number of records accepted by the receiver, or rows written.", labels=labels
    )
    dropped = CounterMetricFamily(
        "vision_infer_sink_dropped_records", "Number of lost records by reason.", labels=(*labels, "reason")
    )
    for number, one in enumerate(sinks):
        for family, values in gauges:
            family.add_metric((one.name, one.kind), values[number])
        sent.add_metric((one.name, one.kind), one.sent)
        # Counters start at 0, because Prometheus sees an increase only if the series existed before.
        for reason, count in (dict.fromkeys(FIRST_LOST, 0) | dict(one.dropped)).items():
            dropped.add_metric((one.name, one.kind, reason), count)
    yield from (*(family for family, _ in gauges), sent, dropped)


def _waits_s(sink: SinkStatus, wall_ns: int) -> float:
    return 0.0 if sink.oldest_wall_ns is None else max(0, wall_ns - sink.oldest_wall_ns) / 1e9


def _streams(statuses: Sequence[StreamStatus], now_ns: int) -> Iterable[Metric]:
    states = GaugeMetricFamily(
        "vision_infer_stream_state", "1 for the current state of the stream, 0 for the others.", labels=("stream", "state")
    )
    frames = CounterMetricFamily(
        "vision_infer_stream_frames",
        "Number of frames by outcome: result, or the reason of the drop.",
        labels=("stream", "outcome"),
    )
    ages = GaugeMetricFamily(
        "vision_infer_stream_age_seconds",
        "Quantiles of the age of results at completion, over about one minute.",
        labels=("stream", "quantile"),
    )
    degraded = GaugeMetricFamily(
        "vision_infer_stream_degraded",
        "DegradationStep of degradation under overload: 0 none, 1 rate, 2 substream, 3 model.",
        labels=("stream",),
    )
    quiet = GaugeMetricFamily(
        "vision_infer_stream_last_frame_seconds", "Time since the last frame was decoded.", labels=("stream",)
    )
    for status in statuses:
        name = status.name
        known = [*_LIVE_STATES, *([] if status.state in _LIVE_STATES else [status.state])]
        for state in known:
            states.add_metric((name, state.value), int(status.state is state))
        frames.add_metric((name, "result"), status.results)
        # Counters start at 0, because Prometheus sees an increase only if the series existed before.
        for reason, count in ({DropReason.FAILED.value: 0} | status.dropped).items():
            frames.add_metric((name, reason), count)
        degraded.add_metric((name,), _STEPS[status.degraded])
        for key, milliseconds in status.age_ms.items():
            if key in _QUANTILES:
                ages.add_metric((name, _QUANTILES[key]), milliseconds / 1e3)
        if status.last_frame_ns is not None:
            quiet.add_metric((name,), max(0, now_ns - status.last_frame_ns) / 1e9)
    yield from (states, frames, ages, degraded, quiet)
    yield from _stream_counters(statuses)
    yield from _places(statuses)


def _stream_counters(statuses: Sequence[StreamStatus]) -> Iterable[Metric]:
    for name, text, values in (
        ("decoded_frames", "Number of decoded frames.", [status.decoded for status in statuses]),
        ("detections", "Number of detections in results.", [status.detections for status in statuses]),
        ("gaps", "Number of frames that could not be decoded.", [status.gaps for status in statuses]),
        ("reconnects", "Number of reconnections.", [status.reconnects for status in statuses]),
        ("engine_seconds", "Engine time used by the stream.", [status.engine_ns / 1e9 for status in statuses]),
    ):
        family = CounterMetricFamily(f"vision_infer_stream_{name}", text, labels=("stream",))
        for status, value in zip(statuses, values, strict=True):
            family.add_metric((status.name,), value)
        yield family


def _places(statuses: Sequence[StreamStatus]) -> Iterable[Metric]:
    zones = GaugeMetricFamily("vision_infer_zone_objects", "Number of objects in the zone now.", labels=("stream", "zone"))
    lines = CounterMetricFamily(
        "vision_infer_line_crossings", "Number of crossings of the line by direction.", labels=("stream", "line", "direction")
    )
    for status in statuses:
        for zone, count in status.occupancy.items():
            zones.add_metric((status.name, zone), count)
        for line, (entered, left) in status.counts.items():
            lines.add_metric((status.name, line, "in"), entered)
            lines.add_metric((status.name, line, "out"), left)
    yield from (zones, lines)


def _lanes(lanes: Sequence[LaneStatus]) -> Iterable[Metric]:
    labels = ("lane", "model", "engine")
    gauges = (
        (
            "vision_infer_engine_utilisation_ratio",
            "Utilization of the engine's batch slots over about ten seconds, 0-1.",
            "utilisation",
        ),
        ("vision_infer_engine_batches_in_flight", "Number of batches in the engine now.", "flying"),
        ("vision_infer_engine_waiting_frames", "Number of frames that wait for the engine now.", "waiting"),
        ("vision_infer_engine_buffer_bytes", "Size of the input and output buffers.", "buffer_bytes"),
    )
    for name, text, field in gauges:
        gauge = GaugeMetricFamily(name, text, labels=labels)
        for lane in lanes:
            gauge.add_metric((lane.name, lane.model, lane.engine), getattr(lane, field))
        yield gauge
    busy = CounterMetricFamily("vision_infer_engine_busy_seconds", "Engine time over all batches.", labels=labels)
    frames = CounterMetricFamily("vision_infer_engine_frames", "Number of inferred frames.", labels=labels)
    padded = CounterMetricFamily("vision_infer_engine_padded_places", "Number of batch slots filled with padding.", labels=labels)
    failures = CounterMetricFamily("vision_infer_engine_failures", "Number of failed batches.", labels=labels)
    sizes = HistogramMetricFamily("vision_infer_engine_batch_frames", "Number of frames in a batch.", labels=labels)
    for lane in lanes:
        values = (lane.name, lane.model, lane.engine)
        busy.add_metric(values, lane.busy_ns / 1e9)
        frames.add_metric(values, lane.frames)
        padded.add_metric(values, lane.padded)
        failures.add_metric(values, lane.failures)
        sizes.add_metric(values, _batch_buckets(lane.batches), sum(size * count for size, count in lane.batches.items()))
    yield from (busy, frames, padded, failures, sizes)


def _batch_buckets(batches: Mapping[int, int]) -> list[tuple[str, float]]:
    counts = [(str(float(bound)), float(sum(batches[size] for size in batches if size <= bound))) for bound in BATCH_BOUNDS]
    return [*counts, ("+Inf", float(sum(batches.values())))]


def _stages(stages: Mapping[str, Histogram]) -> Metric:
    bounds_ns = [round(bound * 1e6) for bound in STAGE_BOUNDS_MS]
    family = HistogramMetricFamily("vision_infer_stage_seconds", "Durations by stage of the pipeline.", labels=("stage",))
    for stage, histogram in stages.items():
        total, sum_ns = histogram.count, histogram.sum_ns
        counts = [min(count, total) for count in histogram.counts_up_to(bounds_ns)]  # other threads keep recording meanwhile
        buckets = [(str(bound_ns / 1e9), float(count)) for bound_ns, count in zip(bounds_ns, counts, strict=True)]
        family.add_metric((stage,), [*buckets, ("+Inf", float(total))], sum_ns / 1e9)
    return family
