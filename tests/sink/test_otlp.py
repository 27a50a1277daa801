"""Traces and metrics over OTLP: which frames, which spans, and what happens while the receiver is away."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

from tests.support.free_port import free_port
from tests.support.hand_clock import HandClock
from tests.support.otlp_receiver import OtlpReceiver, values
from vision_infer.config.service.telemetry import TelemetrySettings
from vision_infer.core.detections import Detections
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.result import LiveAccount, Result
from vision_infer.core.trace import Trace
from vision_infer.pipeline.completion import NoImage
from vision_infer.sink.delivery.carrier import UndeliveredError
from vision_infer.sink.otlp import telemetry as module
from vision_infer.sink.otlp.telemetry import OtlpClient, Telemetry
from vision_infer.sink.otlp.traced import FrameTraces, Sampling, TracedFrame

MS = 1_000_000
SIZE = Size(640, 360)


OPENED: list[Telemetry] = []
"""The senders without a thread of the present test."""


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running
        for sender in OPENED:
            sender._client.close()
        OPENED.clear()


def settings(receiver: OtlpReceiver, **more: Any) -> TelemetrySettings:
    return TelemetrySettings.model_validate({"endpoint": receiver.url, "sample_ratio": 1, **more})


def telemetry(receiver: OtlpReceiver, clock: HandClock, **more: Any) -> Telemetry:
    OPENED.append(Telemetry(settings(receiver, **more), {"service.instance.id": "gate:8080"}, clock))
    return OPENED[-1]


def trace_at(start: int, batch: int = 2) -> Trace:
    """Return the times of a frame whose stages take 1, 2, … ms, captured 5 ms before decoding."""
    return Trace(
        decode_start_ns=start,
        decode_end_ns=start + 1 * MS,
        preprocess_start_ns=start + 3 * MS,
        preprocess_end_ns=start + 6 * MS,
        inference_start_ns=start + 6 * MS,
        inference_end_ns=start + 10 * MS,
        select_start_ns=start + 10 * MS,
        select_end_ns=start + 11 * MS,
        track_start_ns=start + 11 * MS,
        emitted_ns=start + 12 * MS,
        captured_ns=start - 5 * MS,
        clock="camera",
        batch=batch,
    )


def frame_of(stream: str, index: int, trace: Trace) -> tuple[Frame, Result]:
    empty = Detections(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.zeros(2, np.int32), ("car",))
    live = LiveAccount(0, trace.emitted_ns - trace.captured_ns, trace.clock, {})
    result = Result(stream, index, None, SIZE, "tiny", "null-cpu-none", empty, trace.latency(), live=live)
    return Frame(stream, index, None, NoImage(SIZE), trace), result


# Sampling


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.01, 0.3, 1.0])
def test_the_ratio_of_frames_is_chosen_evenly(ratio: float) -> None:
    takes = Sampling(ratio).takes
    for stream in ("front", "yard"):
        chosen = [index for index in range(100_000) if takes(stream, index)]
        assert len(chosen) == pytest.approx(100_000 * ratio, abs=3)
        gaps = {after - before for before, after in itertools.pairwise(chosen)}
        assert len(gaps) <= 3  # the three-distance theorem


def test_the_choice_depends_on_the_name_and_number_only() -> None:
    first, second = Sampling(0.01), Sampling(0.01)
    chosen = {stream: [index for index in range(5000) if first.takes(stream, index)] for stream in ("front", "yard")}
    again = {
        stream: [index for index in range(4999, -1, -1) if second.takes(stream, index)][::-1] for stream in ("yard", "front")
    }
    assert again == chosen
    assert chosen["front"] != chosen["yard"]


@pytest.mark.parametrize("every", [2, 6, 25, 30, 50, 100, 250])
def test_frames_of_a_period_are_chosen_as_often_as_others(every: int) -> None:
    takes = Sampling(0.01).takes
    assert sum(takes("front", index) for index in range(0, 10_000 * every, every)) == pytest.approx(100, abs=15)


def test_frames_that_are_not_chosen_read_no_time() -> None:
    class NoClock(HandClock):
        def monotonic_ns(self) -> int:
            raise AssertionError("the time was read")

    sink = FrameTraces(0.0, lambda item: pytest.fail("offered"), NoClock())
    sink.write(*frame_of("front", 0, trace_at(10**12)))
    sink.write(frame_of("front", 1, trace_at(10**12))[0], None)


# Spans


def test_a_frame_gives_a_span_for_each_stage_with_its_age(receiver: OtlpReceiver) -> None:
    clock = HandClock()
    sender = telemetry(receiver, clock)
    start = clock.now
    clock.move(0.013)
    sender.frames.write(*frame_of("front", 7, trace_at(start)))
    sender.flush()
    assert receiver.spans == []  # it waits for the others of its batch
    clock.move(1)
    sender.flush()
    whole, *stages = receiver.spans
    assert whole.name == "frame"
    assert whole.start_time_unix_nano == clock.wall + start - 5 * MS
    assert whole.end_time_unix_nano == clock.wall + start + 13 * MS
    assert values(whole.attributes) == {
        "vision_infer.stream": "front",
        "vision_infer.frame": 7,
        "vision_infer.model": "tiny",
        "vision_infer.engine": "null-cpu-none",
        "vision_infer.batch_size": 2,
        "vision_infer.detections": 2,
        "vision_infer.queue_ms": 2.0,
        "vision_infer.age_ms": 17.0,
        "vision_infer.clock": "camera",
    }
    took = {one.name: (one.end_time_unix_nano - one.start_time_unix_nano) // MS for one in stages}
    assert took == {"decode": 1, "queue": 2, "preprocess": 3, "inference": 4, "select": 1, "track": 1, "write": 1}
    assert {one.trace_id for one in stages} == {whole.trace_id}
    assert {one.parent_span_id for one in stages} == {whole.span_id}
    assert len({one.span_id for one in receiver.spans}) == 8
    resource = values(receiver.traces[0].resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["service.instance.id"]) == ("vision-infer", "gate:8080")
    assert resource["host.name"]


def test_every_wait_has_a_span_and_a_secondary_model_is_part_of_the_tracking(receiver: OtlpReceiver) -> None:
    sender = telemetry(receiver, clock := HandClock())
    trace = trace_at(clock.now)
    trace.inference_start_ns += 1 * MS
    trace.inference_end_ns += 2 * MS
    trace.select_start_ns, trace.select_end_ns = clock.now + 15 * MS, clock.now + 16 * MS
    trace.track_start_ns, trace.emitted_ns = clock.now + 16 * MS, clock.now + 30 * MS
    trace.secondary_start_ns, trace.secondary_end_ns = clock.now + 17 * MS, clock.now + 29 * MS
    clock.move(0.03)
    frame, result = frame_of("front", 7, trace)
    sender.frames.write(frame, result)
    sender.flush(everything=True)
    took = [(one.name, (one.end_time_unix_nano - one.start_time_unix_nano) // MS) for one in receiver.spans[1:]]
    assert [one for one in took if one[0] == "queue"] == [("queue", 2), ("queue", 1), ("queue", 3)]
    assert sum(ms for name, ms in took if name == "queue") * MS == result.latency.queue_ns
    assert ("secondary", 12) in took


def test_frames_of_a_batch_link_to_each_other(receiver: OtlpReceiver) -> None:
    clock = HandClock()
    sender = telemetry(receiver, clock)
    start = clock.now
    for stream, begin in (("front", start), ("yard", start), ("gate", start + MS)):
        sender.frames.write(*frame_of(stream, 1, trace_at(begin)))
    clock.move(0.5)
    sender.frames.write(*frame_of("late", 1, trace_at(start)))  # held by an earlier frame of its stream
    clock.move(0.6)
    sender.flush()
    by_stream = {values(one.attributes)["vision_infer.stream"]: one for one in receiver.spans if one.name == "frame"}
    ids = {stream: (one.trace_id, one.span_id) for stream, one in by_stream.items()}
    links = {stream: {(link.trace_id, link.span_id) for link in one.links} for stream, one in by_stream.items()}
    same = {"front", "yard", "late"}
    assert links == {name: {ids[other] for other in same - {name}} if name in same else set() for name in ids}


def test_a_frame_without_inference_has_no_spans_of_it(receiver: OtlpReceiver) -> None:
    sender = telemetry(receiver, clock := HandClock())
    begin = clock.now
    trace = Trace(decode_start_ns=begin, decode_end_ns=begin + MS, track_start_ns=begin + MS, emitted_ns=begin + 2 * MS)
    frame, result = frame_of("front", 1, trace)
    sender.frames.write(frame, replace(result, gated=True, live=None))
    sender.flush(everything=True)
    assert [one.name for one in receiver.spans] == ["frame", "decode", "track", "write"]
    attributes = values(receiver.spans[0].attributes)
    assert attributes["vision_infer.gated"] is True
    assert "vision_infer.age_ms" not in attributes


def test_the_last_events_of_a_stream_give_no_second_trace(receiver: OtlpReceiver) -> None:
    sender = telemetry(receiver, clock := HandClock())
    trace = trace_at(clock.now)
    for _ in range(2):  # the row with `leave` events has the number and times of the last frame
        sender.frames.write(*frame_of("front", 7, trace))
    sender.flush(everything=True)
    assert [one.name for one in receiver.spans].count("frame") == 1


def test_headers_and_resource_of_the_settings_are_sent(receiver: OtlpReceiver) -> None:
    more = {"headers": {"X-Api-Key": "Bearer s3cret"}, "resource": {"service.name": "gates"}}
    sender = telemetry(receiver, clock := HandClock(), **more)
    sender.frames.write(*frame_of("front", 7, trace_at(clock.now)))
    sender.flush(everything=True)
    assert receiver.headers[0]["x-api-key"] == "Bearer s3cret"
    assert receiver.headers[0]["content-type"] == "application/x-protobuf"
    assert values(receiver.traces[0].resource_spans[0].resource.attributes)["service.name"] == "gates"


# Requests


def test_the_trace_of_a_client_is_continued(receiver: OtlpReceiver) -> None:
    sender = telemetry(receiver, clock := HandClock(), sample_ratio=0)
    request = sender.begin_request(f"00-{'ab' * 16}-{'cd' * 8}-01", "vendor=x")
    assert request is not None
    frame, result = frame_of("image", 3, trace_at(clock.now))
    request.infer(frame.trace, result, clock.now)
    request.name = "POST /api/v1/infer"
    sender.end_request(request)
    sender.flush(everything=True)
    server, whole, *stages = receiver.spans
    assert (server.trace_id.hex(), server.parent_span_id.hex(), server.trace_state) == ("ab" * 16, "cd" * 8, "vendor=x")
    assert (server.name, server.kind) == ("POST /api/v1/infer", server.SPAN_KIND_SERVER)
    assert whole.parent_span_id == server.span_id
    assert {one.trace_id.hex() for one in (whole, *stages)} == {"ab" * 16}


@pytest.mark.parametrize(
    "header",
    ["", "00", f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'0' * 16}-01", f"ff-{'ab' * 16}-{'cd' * 8}-01", "x" * 10_000],
)
def test_an_invalid_header_begins_a_trace_as_often_as_none(receiver: OtlpReceiver, header: str) -> None:
    sender = telemetry(receiver, HandClock(), sample_ratio=0.25)
    begun = [sender.begin_request(header, "") for _ in range(100)]
    found = [one for one in begun if one is not None]
    assert len(found) == pytest.approx(25, abs=3)
    assert all(one.parent_id == 0 and one.trace_id for one in found)


def test_a_client_that_does_not_sample_gets_no_spans(receiver: OtlpReceiver) -> None:
    sender = telemetry(receiver, HandClock())
    request = sender.begin_request(f"00-{'ab' * 16}-{'cd' * 8}-00", "")
    assert request is not None  # log lines name it nevertheless
    sender.end_request(request)
    sender.flush(everything=True)
    assert receiver.spans == []


# Metrics


def test_metrics_have_the_names_and_values_of_the_registry(receiver: OtlpReceiver) -> None:
    registry = CollectorRegistry()
    Counter("vision_infer_frames", "Number of frames.", ["stream"], registry=registry).labels("front").inc(5)
    Gauge("vision_infer_spool_bytes", "Size.", registry=registry).set(2.5)
    ages = Histogram("vision_infer_age_seconds", "Age.", ["stream"], buckets=(0.1, 1), registry=registry)
    for value in (0.05, 0.5, 0.6, 7):
        ages.labels("front").observe(value)
    clock = HandClock()
    sender = telemetry(receiver, clock)
    sender.collect(registry.collect)
    clock.move(5)
    sender.flush()
    counter = receiver.metrics["vision_infer_frames"]
    by_name = {one.name: one for one in registry.collect()}
    assert by_name.keys() == receiver.metrics.keys()
    assert [(values(point.attributes), point.as_double) for point in counter.sum.data_points] == [({"stream": "front"}, 5)]
    assert counter.sum.is_monotonic
    assert counter.sum.data_points[0].time_unix_nano == clock.wall_ns()
    assert counter.sum.data_points[0].start_time_unix_nano == clock.wall_ns() - 5_000 * MS
    gauge = receiver.metrics["vision_infer_spool_bytes"]
    assert (gauge.unit, gauge.gauge.data_points[0].as_double) == ("By", 2.5)
    (point,) = receiver.metrics["vision_infer_age_seconds"].histogram.data_points
    assert list(point.explicit_bounds) == [0.1, 1]
    assert list(point.bucket_counts) == [1, 2, 1]
    assert (point.count, point.sum) == (4, pytest.approx(8.15))
    assert values(point.attributes) == {"stream": "front"}


def test_metrics_are_sent_at_their_interval(receiver: OtlpReceiver) -> None:
    clock = HandClock()
    sender = telemetry(receiver, clock, metrics_s=10)
    sender.collect(list)
    for _ in range(21):
        sender.flush()
        clock.move(1)
    assert len(receiver.metric_requests) == 3
    never = telemetry(receiver, clock, metrics_s=None)
    never.collect(lambda: pytest.fail("read"))
    never.flush(everything=True)


# Trouble


def test_a_full_queue_drops_and_counts(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    sender = telemetry(receiver, clock := HandClock())
    for index in range(5):
        sender.frames.write(*frame_of("front", index, trace_at(clock.now + index)))
    sender.flush(everything=True)
    assert sender.counts() == {"sent": 3, "queue_full": 2, "unreachable": 0, "rejected": 0, "failed": 0}


def test_traces_wait_for_the_receiver_in_bounded_memory(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 4)
    caplog.set_level(logging.INFO, "vision_infer.telemetry")
    receiver.answer = lambda path: 503
    sender = telemetry(receiver, clock := HandClock())
    sender.collect(list)
    for index in range(10):
        sender.frames.write(*frame_of("front", index, trace_at(clock.now)))
        sender.flush(everything=True)
        clock.move(1)
    assert sender.counts() == {"sent": 0, "queue_full": 0, "unreachable": 6, "rejected": 0, "failed": 0}
    assert [record.getMessage() for record in caplog.records] == [f"OpenTelemetry: {receiver.url} answered with status 503"]
    receiver.answer = lambda path: 200
    sender.flush(everything=True)
    assert sender.counts()["sent"] == 4
    indices = [values(one.attributes)["vision_infer.frame"] for one in receiver.spans if one.name == "frame"]
    assert indices == [6, 7, 8, 9]
    assert len(caplog.records) == 2
    assert "works again" in caplog.records[1].getMessage()


def test_rejected_traces_are_not_repeated(receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answer = lambda path: 401
    sender = telemetry(receiver, clock := HandClock(), headers={"Authorization": "Bearer s3cret"})
    for index in range(3):
        sender.frames.write(*frame_of("front", index, trace_at(clock.now)))
        sender.flush(everything=True)
    assert sender.counts() == {"sent": 0, "queue_full": 0, "unreachable": 0, "rejected": 3, "failed": 0}
    (record,) = caplog.records
    assert record.getMessage() == f"OpenTelemetry: {receiver.url} answered with status 401. Check telemetry.headers."
    assert "s3cret" not in caplog.text


def test_a_trace_that_cannot_be_written_is_counted_and_loses_no_other(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    sender = telemetry(receiver, clock := HandClock())
    for index in range(4):
        at, broken = trace_at(clock.now + index), index in (1, 2)
        sender.frames.write(*frame_of("front", index, replace(at, clock=object()) if broken else at))  # type: ignore[arg-type]
    sender.flush(everything=True)
    assert sender.counts() == {"sent": 2, "queue_full": 0, "unreachable": 0, "rejected": 0, "failed": 2}
    assert [one.name for one in receiver.spans].count("frame") == 2
    assert caplog.text.count("a trace cannot be written") == 1


def test_stopping_sends_what_waits(receiver: OtlpReceiver) -> None:
    sender = Telemetry(settings(receiver), {})
    sender.start()
    sender.frames.write(*frame_of("front", 1, trace_at(10**12)))
    sender.close()
    assert [one.name for one in receiver.spans].count("frame") == 1


def test_stopping_does_not_wait_for_a_hanging_receiver(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    receiver.hold.clear()
    sender = Telemetry(settings(receiver), {})
    sender.start()
    sender.frames.write(*frame_of("front", 1, trace_at(10**12)))
    sender.close()  # a test that hangs here fails by its timeout
    assert "did not take the last traces" in caplog.text
    receiver.hold.set()
    sender._thread.join(10)


def test_metrics_that_cannot_be_read_do_not_end_the_thread(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = threading.Event()

    def fail() -> list[Metric]:
        read.set()
        raise RuntimeError("cannot be read")

    monkeypatch.setattr(module, "FLUSH_S", 0.01)
    sender = Telemetry(settings(receiver), {})
    sender.collect(fail)
    sender.start()
    assert read.wait(10)
    sender.frames.write(*frame_of("front", 1, trace_at(10**12)))
    sender.close()
    assert [one.name for one in receiver.spans].count("frame") == 1
    assert "could not be written" in caplog.text


def test_check_reports_what_is_wrong(receiver: OtlpReceiver) -> None:
    OtlpClient(settings(receiver)).check()
    assert receiver.paths == ["/v1/traces", "/v1/metrics"]
    receiver.answer = lambda path: 404 if path.endswith("metrics") else 200
    with pytest.raises(UndeliveredError, match="status 404") as raised:
        OtlpClient(settings(receiver)).check()
    assert raised.value.hint == "Check telemetry.endpoint, to which /v1/metrics is appended."
    away = TelemetrySettings.model_validate({"endpoint": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(UndeliveredError, match=r"cannot be reached: Connection refused"):
        OtlpClient(away).check()


def test_traced_frames_hold_no_images() -> None:
    offered: list[TracedFrame] = []
    sink = FrameTraces(1.0, offered.append, HandClock())
    sink.write(*frame_of("front", 1, trace_at(10**12)))
    (one,) = offered
    assert all(isinstance(value, str | int | float | bool) for value in one.attributes.values())
    assert isinstance(one.trace, Trace)
