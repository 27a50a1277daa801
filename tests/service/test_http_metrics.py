"""Metrics: values, names, and a bounded number of labels."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.service.fakes import Api, FakeBackend
from vision_infer.engine.gpu.ledger import GpuMemory
from vision_infer.pipeline.status import HookStatus, ReplicaStatus, StreamState
from vision_infer.telemetry.histogram import Histogram


def scrape(api: Api) -> list[Sample]:
    answer = api.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]


def value(samples: list[Sample], name: str, **labels: str) -> float:
    found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_metrics_of_a_stream() -> None:
    api = Api()
    unknown: dict[str, Any] = {"age_ms": {}, "ages": None, "last_frame_ns": None, "rtp_packets": {}, "rtp_frames": {}}
    api.backend.put("gate", "rtsp://10.0.0.6/gate", state=StreamState.REFUSED, **unknown)
    samples = scrape(api)
    assert value(samples, "vision_infer_stream_frames_total", stream="door", outcome="result") == 900
    assert value(samples, "vision_infer_stream_frames_total", stream="door", outcome="superseded") == 90
    assert value(samples, "vision_infer_stream_frames_total", stream="door", outcome="failed") == 0
    assert value(samples, "vision_infer_stream_decoded_frames_total", stream="door") == 1000
    age = "vision_infer_stream_age_seconds"
    assert value(samples, f"{age}_count", stream="door") == 4
    assert value(samples, f"{age}_sum", stream="door") == pytest.approx(0.3455)
    at_most = {one.labels["le"]: one.value for one in samples if one.name == f"{age}_bucket"}
    assert (at_most["0.025"], at_most["0.075"], at_most["0.1"], at_most["+Inf"]) == (0, 1, 3, 4)
    assert value(samples, "vision_infer_stream_last_frame_seconds", stream="door") == pytest.approx(0.04)
    assert value(samples, "vision_infer_stream_reconnects_total", stream="door") == 2
    assert value(samples, "vision_infer_stream_gpu_decoder_failures_total", stream="door") == 1
    assert value(samples, "vision_infer_stream_damaged_frames_total", stream="door") == 5
    assert value(samples, "vision_infer_stream_rtp_packets_total", stream="door", outcome="lost") == 100
    assert value(samples, "vision_infer_stream_rtp_packets_total", stream="door", outcome="reordered") == 2
    assert value(samples, "vision_infer_stream_rtp_frames_total", stream="door", outcome="oversize") == 1
    assert value(samples, "vision_infer_stream_engine_seconds_total", stream="door") == 5
    assert value(samples, "vision_infer_zone_objects", stream="door", zone="yard") == 2
    assert value(samples, "vision_infer_line_crossings_total", stream="door", line="gate", direction="out") == 4
    assert not [one for one in samples if "_rtp_" in one.name and one.labels["stream"] == "gate"], "it is not read over RTP"
    for stream, state in (("door", "live"), ("gate", "refused")):
        states = {
            one.labels["state"]: one.value for one in samples if one.name.endswith("_state") and one.labels["stream"] == stream
        }
        assert [name for name, on in states.items() if on] == [state]
        assert {state.value for state in StreamState} - states.keys() == {"opening", "running", "pending"}


def test_a_removed_stream_has_no_metrics() -> None:
    api = Api()
    api.backend.put("gate", "rtsp://10.0.0.6/gate", origin="api")
    assert any(one.labels.get("stream") == "gate" for one in scrape(api))
    assert api.ask("DELETE", "/api/v1/streams/gate").status_code == 204
    assert not any(one.labels.get("stream") == "gate" for one in scrape(api))


def test_hooks_have_a_time_and_count_their_failures() -> None:
    api = Api()
    times = Histogram()
    times.record(30_000_000)
    hook = HookStatus(5, 2, "mine:blur: KeyError: 'label' (rtsp://a:secret@b/)", {"p50": 30.0}, times)
    api.backend.put("gate", "rtsp://10.0.0.6/gate", hook=hook)
    samples = scrape(api)
    failures = "vision_infer_stream_hook_failures_total"
    assert value(samples, failures, stream="gate", outcome="timeout") == 2
    assert value(samples, failures, stream="gate", outcome="error") == 3
    assert value(samples, "vision_infer_stream_hook_seconds_count", stream="gate") == 1
    assert value(samples, "vision_infer_stream_hook_seconds_sum", stream="gate") == pytest.approx(0.03)
    assert not [one for one in samples if "_hook_" in one.name and one.labels["stream"] == "door"], "it has no hook"
    answer = api.get("/api/v1/streams/gate").json()["status"]["hook"]
    assert answer == {"errors": 5, "timeouts": 2, "error": "mine:blur: KeyError: 'label' (rtsp://a:***@b/)", "ms": {"p50": 30.0}}
    assert api.get("/api/v1/streams/door").json()["status"]["hook"] is None


def test_metrics_of_engines_clients_and_the_process() -> None:
    api = Api()
    samples = scrape(api)
    assert value(samples, "vision_infer_engine_utilization_ratio", lane="main", model="tiny", engine="null-cpu-none") == 0.25
    assert value(samples, "vision_infer_engine_waiting_frames") == 3
    assert value(samples, "vision_infer_engine_batch_frames_bucket", le="1.0") == 10
    assert value(samples, "vision_infer_engine_batch_frames_bucket", le="4.0") == 15
    assert value(samples, "vision_infer_engine_batch_frames_sum") == 30
    assert value(samples, "vision_infer_engine_failures_total", lane="main") == 0
    assert value(samples, "vision_infer_clients") == 0
    assert value(samples, "vision_infer_results_skipped_total") == 0
    assert value(samples, "vision_infer_ready") == 1
    assert value(samples, "process_resident_memory_bytes") > 0
    api.backend.is_ready = (False, "loading")
    assert value(scrape(api), "vision_infer_ready") == 0


def test_metrics_of_each_device_of_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    (lane,) = api.backend.lanes()
    alone = ReplicaStatus("cuda:0", "null-cuda-none", 7, 40, 0.5, 0, None)
    gone = ReplicaStatus("cuda:1", "null-cuda-none", 3, 9, 0.0, 1, "cuda:1 is gone")
    monkeypatch.setattr(api.backend, "lanes", lambda: [replace(lane, replicas=(alone, gone))])
    samples = scrape(api)
    assert value(samples, "vision_infer_replica_utilization_ratio", lane="main", engine="null-cuda-none", device="cuda:0") == 0.5
    assert value(samples, "vision_infer_replica_batches_total", device="cuda:1") == 3
    assert [value(samples, "vision_infer_replica_removed", device=f"cuda:{gpu}") for gpu in (0, 1)] == [0, 1]
    (engine,) = api.get("/api/v1/engines").json()
    assert [(one["device"], one["removed"]) for one in engine["replicas"]] == [("cuda:0", None), ("cuda:1", "cuda:1 is gone")]
    monkeypatch.setattr(api.backend, "lanes", lambda: [replace(lane, replicas=(alone,))])
    assert not [one for one in scrape(api) if one.name.startswith("vision_infer_replica")]


def test_engine_failures_are_counted_and_frames_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    (lane,) = api.backend.lanes()
    failing = replace(lane, failures=7, error="cannot reach rtsp://a:secret@b/", failing=True)
    monkeypatch.setattr(api.backend, "lanes", lambda: [failing])
    api.backend.put("door", "rtsp://10.0.0.6/door", dropped={"failed": 9})
    samples = scrape(api)
    assert value(samples, "vision_infer_engine_failures_total", lane="main") == 7
    assert value(samples, "vision_infer_stream_frames_total", stream="door", outcome="failed") == 9
    (engine,) = api.get("/api/v1/engines").json()
    shown = {name: engine[name] for name in ("failures", "error", "failing")}
    assert shown == {"failures": 7, "error": "cannot reach rtsp://a:***@b/", "failing": True}


def test_the_memory_of_a_gpu_is_shown_once_although_two_lanes_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    (lane,) = api.backend.lanes()
    memory = GpuMemory("cuda:0", 8000, 2000, 0, {"engine": 900, "graphs": 100, "decoder": 3000, "builder": 0, "other": 2000})
    on_gpu, on_cpu = (ReplicaStatus("auto", "null-cpu-none", 7, 40, 0.5, 0, None, used) for used in (memory, None))
    lanes = [replace(lane, name=str(number), replicas=(one,)) for number, one in enumerate((on_gpu, on_gpu, on_cpu))]
    monkeypatch.setattr(api.backend, "lanes", lambda: lanes)
    samples = scrape(api)
    uses = {"free": 2000, "engine": 900, "graphs": 100, "decoder": 3000, "builder": 0, "other": 2000}
    assert {use: value(samples, "vision_infer_gpu_memory_bytes", device="cuda:0", use=use) for use in uses} == uses
    shown = [engine["replicas"][0]["gpu_memory"] for engine in api.get("/api/v1/engines").json()]
    assert shown == [{"total": 8000, **uses}] * 2 + [None]


def test_durations_use_few_buckets() -> None:
    backend = FakeBackend()
    for milliseconds in (0.05, 0.3, 3, 30, 30, 10_000):
        backend.histograms["decode"].record(round(milliseconds * 1e6))
    samples = [one for one in scrape(Api(backend)) if one.name.startswith("vision_infer_stage_seconds")]
    decode = [one for one in samples if one.labels["stage"] == "decode"]
    buckets = {float(one.labels["le"]): one.value for one in decode if one.name.endswith("_bucket")}
    assert len(buckets) == 16
    assert [buckets[bound] for bound in (0.0001, 0.00025, 0.0005, 0.005, 0.02, 0.04, 5.0, math.inf)] == [1, 1, 2, 3, 3, 5, 5, 6]
    assert list(buckets.values()) == sorted(buckets.values())
    assert value(decode, "vision_infer_stage_seconds_count") == 6
    assert value(decode, "vision_infer_stage_seconds_sum") == pytest.approx(10.06335)


def test_names_follow_the_conventions_of_prometheus() -> None:
    text = Api().get("/metrics").text
    for name, kind in re.findall(r"^# TYPE (vision_infer_\S+) (\S+)$", text, re.MULTILINE):
        assert re.fullmatch(r"[a-z_]+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert "_ms" not in name


def test_counts_up_to_bounds() -> None:
    histogram = Histogram()
    for duration_ns in (0, 50, 100, 1_000, 10_000, 10**6, 10**14):
        histogram.record(duration_ns)
    assert histogram.counts_up_to([1, 100, 900, 1_100, 9_000, 11_000, 10**9, 10**13]) == [3, 3, 3, 4, 4, 5, 6, 6]
    assert histogram.counts_up_to([]) == []
