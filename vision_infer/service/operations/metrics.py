"""Prometheus metrics, read from the backend on each scrape. Labels are names of existing objects, so their number is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

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
AGE_BOUNDS_MS = (25, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 5000, 10_000)
FIRST_LOST = ("queue_full", "spool_full", "disk_error")
"""The drop reasons that all sinks have."""
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64)
_GPU_DECODER = "Number of failures of the GPU decoder, after which the stream is decoded on the CPU."
_STEPS = {step.word: int(step) for step in DegradationStep}
_LIVE_STATES = [state for state in StreamState if state not in (StreamState.OPENING, StreamState.RUNNING, StreamState.PENDING)]
Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)


def make_registry(backend: Backend, clock: Clock, traces: Callable[[], Mapping[str, int]] = dict[str, int]) -> CollectorRegistry:
    """Create a registry for this service, including the metrics of the process.

    Args:
        backend: The service.
        clock: The source of time.
        traces: Returns the number of OpenTelemetry traces by outcome.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServiceCollector(backend, clock, traces))
    ProcessCollector(registry=registry)
    return registry


class ServiceCollector(Collector):
    """Collects all metrics on each scrape; blocks as long as the backend does."""

    def __init__(self, backend: Backend, clock: Clock, traces: Callable[[], Mapping[str, int]]) -> None:
        self._backend = backend
        self._clock = clock
        self._traces = traces

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        backend = self._backend
        yield InfoMetricFamily("vision_infer_build", "Build information.", {"version": __version__})
        yield GaugeMetricFamily(
            "vision_infer_ready", "Whether the service can run inference (1) or not (0).", int(backend.ready()[0])
        )
        yield from _streams([view.status for view in backend.streams() if view.status is not None], self._clock.monotonic_ns())
        lanes = backend.lanes()
        yield from _lanes(lanes)
        yield _gpu_memory(lanes)
        yield from _replicas(lanes)
        text = "Durations by stage of the pipeline."
        yield _durations("vision_infer_stage_seconds", text, "stage", backend.stages(), STAGE_BOUNDS_MS)
        yield from _cost(backend.cost())
        hub = backend.hub
        yield GaugeMetricFamily("vision_infer_clients", "Number of clients that read results.", hub.readers)
        yield CounterMetricFamily(
            "vision_infer_results_skipped", "Number of results that clients were too slow to read.", hub.skipped
        )
        yield from _sinks(backend.sinks(), self._clock.wall_ns())
        yield from _preview(backend.preview.counts())
        yield from _clips(backend.clips.counts())
        trial = None if backend.shadow is None else backend.shadow.status()
        outcomes = {} if trial is None else {"compared": trial.total.frames, **trial.skipped}
        text = "Number of frames for the shadow model: compared, or not inferred, by reason."
        yield _counters("vision_infer_shadow_frames", text, "outcome", outcomes)
        text = "Number of OpenTelemetry traces by outcome: sent, or why they were dropped."
        yield _counters("vision_infer_otlp_traces", text, "outcome", self._traces())


def _filled(family: Family, rows: Iterable[tuple[tuple[str, ...], float]]) -> Family:
    """Add a sample for each row: the values of its labels, and its value."""
    for labels, value in rows:
        family.add_metric(labels, value)
    return family


def _counters(name: str, text: str, label: str, counts: Mapping[str, float]) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=(label,)), (((value,), count) for value, count in counts.items()))


def _cost(cost: Cost) -> Iterable[Metric]:
    text = "CPU cores used by the stream: its own thread (decode) and its share of all other work (shared)."
    cores = [
        ((stream.name, part), value)
        for stream in cost.streams
        for part, value in (("decode", stream.decode_cores), ("shared", stream.shared_cores))
    ]
    yield _filled(GaugeMetricFamily("vision_infer_stream_cpu_cores", text, labels=("stream", "part")), cores)
    text = "The larger of the stream's CPU and accelerator shares, 0-1."
    shares = [((stream.name,), stream.share) for stream in cost.streams]
    yield _filled(GaugeMetricFamily("vision_infer_stream_machine_share", text, labels=("stream",)), shares)
    text = "CPU cores of the machine: used by this service, by others, or unused (`unused`)."
    used, others = cost.machine.used, cost.machine.others
    by = (("service", used), ("others", others), ("unused", cost.machine.cores - (used + others)))
    machine = GaugeMetricFamily("vision_infer_machine_cpu_cores", text, labels=("by",))
    yield _filled(machine, [((name,), max(0.0, value)) for name, value in by])
    if cost.more_streams is not None:
        yield GaugeMetricFamily(
            "vision_infer_more_streams",
            "Number of additional streams of this kind that fit without degrading any.",
            cost.more_streams,
        )


def _clips(counts: ClipCounts) -> Iterable[Metric]:
    yield _counters("vision_infer_clips", "Number of clips by outcome.", "outcome", counts.clips)
    text = "Number of events without a clip, shortened clips and dropped video, by reason."
    yield _counters("vision_infer_clip_drops", text, "reason", counts.drops)
    yield GaugeMetricFamily("vision_infer_clip_disk_bytes", "Size of the clips on disk.", counts.disk_bytes)
    text = "Size of the encoded video buffered for clips."
    yield GaugeMetricFamily("vision_infer_clip_memory_bytes", text, counts.memory_bytes)


def _preview(counts: PreviewCounts) -> Iterable[Metric]:
    viewers = GaugeMetricFamily("vision_infer_preview_viewers", "Number of viewers of the live preview.", labels=("stream",))
    yield _filled(viewers, [((stream,), number) for stream, number in counts.viewers.items()])
    yield GaugeMetricFamily("vision_infer_preview_encoders", "Number of videos that are encoded for viewers.", counts.encoders)
    yield CounterMetricFamily("vision_infer_preview_sessions", "Number of preview sessions since the start.", counts.sessions)
    text = "Number of RTP packets sent for the live preview: first transmissions or retransmissions."
    yield _counters("vision_infer_preview_packets", text, "kind", {"first": counts.packets, "again": counts.resent})
    text = "Number of times a viewer lost frames and was sent the current group of pictures again."
    yield CounterMetricFamily("vision_infer_preview_restarts", text, counts.restarts)
    text = "Number of frames and packets of sound not sent to viewers, and of rejected viewers, by reason."
    yield _counters("vision_infer_preview_drops", text, "reason", counts.drops)
    text = "Number of packets to preview.port that belonged to no viewer."
    yield CounterMetricFamily("vision_infer_preview_strays", text, counts.strays)


def _sinks(sinks: Sequence[SinkStatus], wall_ns: int) -> Iterable[Metric]:
    labels, names = ("sink", "kind"), [(sink.name, sink.kind) for sink in sinks]
    oldest_s = [0.0 if sink.oldest_wall_ns is None else max(0, wall_ns - sink.oldest_wall_ns) / 1e9 for sink in sinks]
    for name, text, values in (
        ("connected", "Whether the sink works (1) or not (0).", [int(sink.connected) for sink in sinks]),
        ("queued_records", "Number of records in memory that are not on disk yet.", [sink.queued for sink in sinks]),
        ("waiting_records", "Number of records on disk that wait to be sent.", [sink.waiting for sink in sinks]),
        ("spool_bytes", "Size of the spool on disk.", [sink.spool_bytes for sink in sinks]),
        ("oldest_seconds", "Approximate age of the oldest waiting record.", oldest_s),
    ):
        yield _filled(GaugeMetricFamily(f"vision_infer_sink_{name}", text, labels=labels), zip(names, values, strict=True))
    text = "Number of records accepted by the receiver, or rows written."
    sent = zip(names, [sink.sent for sink in sinks], strict=True)
    yield _filled(CounterMetricFamily("vision_infer_sink_sent_records", text, labels=labels), sent)
    # Counters start at 0, because Prometheus sees an increase only if the series existed before.
    dropped = [
        ((sink.name, sink.kind, reason), count)
        for sink in sinks
        for reason, count in (dict.fromkeys(FIRST_LOST, 0) | dict(sink.dropped)).items()
    ]
    text = "Number of lost records by reason."
    yield _filled(CounterMetricFamily("vision_infer_sink_dropped_records", text, labels=(*labels, "reason")), dropped)


def _streams(statuses: Sequence[StreamStatus], now_ns: int) -> Iterable[Metric]:
    text = "1 for the current state of the stream, 0 for the others."
    states = [
        ((status.name, state.value), int(status.state is state))
        for status in statuses
        for state in dict.fromkeys((*_LIVE_STATES, status.state))
    ]
    yield _filled(GaugeMetricFamily("vision_infer_stream_state", text, labels=("stream", "state")), states)
    text = "Number of frames by outcome: result, or the reason of the drop."
    # Counters start at 0, because Prometheus sees an increase only if the series existed before.
    frames = [
        ((status.name, outcome), count)
        for status in statuses
        for outcome, count in ({"result": status.results, DropReason.FAILED.value: 0} | status.dropped).items()
    ]
    yield _filled(CounterMetricFamily("vision_infer_stream_frames", text, labels=("stream", "outcome")), frames)
    ages = {status.name: status.ages for status in statuses if status.ages is not None}
    text = "Age of results at completion: the time since the capture of the frame."
    yield _durations("vision_infer_stream_age_seconds", text, "stream", ages, AGE_BOUNDS_MS)
    text = "Step of degradation under overload: 0 none, 1 rate, 2 substream, 3 model."
    steps = [((status.name,), _STEPS[status.degraded]) for status in statuses]
    yield _filled(GaugeMetricFamily("vision_infer_stream_degraded", text, labels=("stream",)), steps)
    quiet = GaugeMetricFamily(
        "vision_infer_stream_last_frame_seconds", "Time since the last frame was decoded.", labels=("stream",)
    )
    last = [(status.name, status.last_frame_ns) for status in statuses if status.last_frame_ns is not None]
    yield _filled(quiet, [((name,), max(0, now_ns - last_ns) / 1e9) for name, last_ns in last])
    yield from _stream_counters(statuses)
    hooks = {status.name: status.hook for status in statuses if status.hook is not None}
    text = "Time of a result in the stream's hooks."
    times = {name: hook.times for name, hook in hooks.items()}
    yield _durations("vision_infer_stream_hook_seconds", text, "stream", times, STAGE_BOUNDS_MS)
    text = "Number of failed calls of hooks by kind: timeout, or an error."
    failed = {name: {"timeout": hook.timeouts, "error": hook.errors - hook.timeouts} for name, hook in hooks.items()}
    yield _by_outcome("hook_failures", text, failed)
    text = "Number of RTP packets by outcome: received, lost, late (lost, but arrived later), reordered, duplicates, and others."
    yield _by_outcome("rtp_packets", text, {status.name: status.rtp_packets for status in statuses})
    text = "Number of frames received over RTP by outcome: whole, damaged, cut (given out before their end), oversize."
    yield _by_outcome("rtp_frames", text, {status.name: status.rtp_frames for status in statuses})
    yield from _places(statuses)


def _by_outcome(name: str, text: str, streams: Mapping[str, Mapping[str, int]]) -> Metric:
    rows = [((stream, outcome), count) for stream, counts in streams.items() for outcome, count in counts.items()]
    return _filled(CounterMetricFamily(f"vision_infer_stream_{name}", text, labels=("stream", "outcome")), rows)


def _stream_counters(statuses: Sequence[StreamStatus]) -> Iterable[Metric]:
    names = [(status.name,) for status in statuses]
    for name, text, values in (
        ("decoded_frames", "Number of decoded frames.", [status.decoded for status in statuses]),
        ("detections", "Number of detections in results.", [status.detections for status in statuses]),
        ("damaged_frames", "Number of decoded frames that are marked as damaged.", [status.damaged for status in statuses]),
        ("gaps", "Number of frames that could not be decoded.", [status.gaps for status in statuses]),
        ("gpu_decoder_failures", _GPU_DECODER, [status.gpu_decoder_failures for status in statuses]),
        ("reconnects", "Number of reconnections.", [status.reconnects for status in statuses]),
        ("engine_seconds", "Engine time used by the stream.", [status.engine_ns / 1e9 for status in statuses]),
    ):
        family = CounterMetricFamily(f"vision_infer_stream_{name}", text, labels=("stream",))
        yield _filled(family, zip(names, values, strict=True))


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
    labels, names = ("lane", "model", "engine"), [(lane.name, lane.model, lane.engine) for lane in lanes]
    utilization = "Utilization of the engine's batch slots over about ten seconds, 0-1."
    for name, text, values in (
        ("utilization_ratio", utilization, [lane.utilization for lane in lanes]),
        ("batches_in_flight", "Number of batches in the engine now.", [lane.flying for lane in lanes]),
        ("waiting_frames", "Number of frames that wait for the engine now.", [lane.waiting for lane in lanes]),
        ("buffer_bytes", "Size of the input and output buffers.", [lane.buffer_bytes for lane in lanes]),
    ):
        yield _filled(GaugeMetricFamily(f"vision_infer_engine_{name}", text, labels=labels), zip(names, values, strict=True))
    for name, text, values in (
        ("busy_seconds", "Engine time over all batches.", [lane.busy_ns / 1e9 for lane in lanes]),
        ("frames", "Number of inferred frames.", [lane.frames for lane in lanes]),
        ("padded_slots", "Number of batch slots filled with padding.", [lane.padded for lane in lanes]),
        ("failures", "Number of failed batches.", [lane.failures for lane in lanes]),
    ):
        yield _filled(CounterMetricFamily(f"vision_infer_engine_{name}", text, labels=labels), zip(names, values, strict=True))
    sizes = HistogramMetricFamily("vision_infer_engine_batch_frames", "Number of frames in a batch.", labels=labels)
    for lane, lane_labels in zip(lanes, names, strict=True):
        sizes.add_metric(lane_labels, _batch_buckets(lane.batches), sum(size * count for size, count in lane.batches.items()))
    yield sizes


def _gpu_memory(lanes: Sequence[LaneStatus]) -> Metric:
    text = "GPU memory by use: free, engine, graphs, decoder, builder, other (CUDA itself and other programs)."
    family = GaugeMetricFamily("vision_infer_gpu_memory_bytes", text, labels=("device", "use"))
    all_memory = [replica.gpu_memory for lane in lanes for replica in lane.replicas]
    for memory in {memory.device: memory for memory in all_memory if memory is not None}.values():
        for use, nbytes in {"free": memory.free, **memory.used}.items():
            family.add_metric((memory.device, use), nbytes)
    return family


def _replicas(lanes: Sequence[LaneStatus]) -> Iterable[Metric]:
    """Return the metrics of each device of the lanes that run on several."""
    labels = ("lane", "engine", "device")
    replicas = [(lane.name, one) for lane in lanes if len(lane.replicas) > 1 for one in lane.replicas]
    names = [(lane, one.engine, one.device) for lane, one in replicas]
    text = "Utilization of one device's batch slots over about ten seconds, 0-1."
    used = [one.utilization for _, one in replicas]
    yield _filled(GaugeMetricFamily("vision_infer_replica_utilization_ratio", text, labels=labels), zip(names, used, strict=True))
    text = "Whether a device was removed from a lane because of failures."
    removed = [float(one.removed is not None) for _, one in replicas]
    yield _filled(GaugeMetricFamily("vision_infer_replica_removed", text, labels=labels), zip(names, removed, strict=True))
    text, batches = "Number of batches on one device.", [one.batches for _, one in replicas]
    yield _filled(CounterMetricFamily("vision_infer_replica_batches", text, labels=labels), zip(names, batches, strict=True))


def _batch_buckets(batches: Mapping[int, int]) -> list[tuple[str, float]]:
    counts = [(str(float(bound)), float(sum(batches[size] for size in batches if size <= bound))) for bound in BATCH_BOUNDS]
    return [*counts, ("+Inf", float(sum(batches.values())))]


def _durations(name: str, text: str, label: str, histograms: Mapping[str, Histogram], bounds_ms: Sequence[float]) -> Metric:
    bounds_ns = [round(bound * 1e6) for bound in bounds_ms]
    family = HistogramMetricFamily(name, text, labels=(label,))
    for value, histogram in histograms.items():
        total, sum_ns = histogram.count, histogram.sum_ns
        counts = [min(count, total) for count in histogram.counts_up_to(bounds_ns)]  # other threads keep recording meanwhile
        buckets = [(str(bound_ns / 1e9), float(count)) for bound_ns, count in zip(bounds_ns, counts, strict=True)]
        family.add_metric((value,), [*buckets, ("+Inf", float(total))], sum_ns / 1e9)
    return family
