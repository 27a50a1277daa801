"""OpenTelemetry in a service: frames, requests, log lines and metrics reach a receiver, and nothing is sent by default."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import InferenceServerClient as Client
from tritonclient.utils import InferenceServerException

from tests.pipeline.fakes import SIDE
from tests.pipeline.live_fakes import Camera
from tests.service.fakes import OPEN, Api, FakeBackend
from tests.service.site import Engines, Site, engines, settings, wanted  # noqa: F401 - the fixture
from tests.support.hand_clock import HandClock
from tests.support.otlp_receiver import OtlpReceiver, values
from vision_infer.config.serve import ServiceSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.config.service.result_files import ResultsSettings
from vision_infer.config.service.telemetry import TelemetrySettings
from vision_infer.config.sinks import SinksSettings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.service.grpc.server import GrpcServer
from vision_infer.service.http.app import make_app
from vision_infer.service.inference_protocol.models import LocalModels
from vision_infer.service.operations.logs import configure
from vision_infer.service.results.sinks import SinkSet
from vision_infer.sink.otlp.telemetry import Telemetry

CLIENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture
def sender(receiver: OtlpReceiver) -> Iterator[Telemetry]:
    sent = Telemetry(TelemetrySettings.model_validate({"endpoint": receiver.url, "sample_ratio": 0}), {}, HandClock())
    yield sent
    sent._client.close()


def traced_api(sender: Telemetry, backend: FakeBackend | None = None) -> Api:
    backend = backend or FakeBackend()
    return Api(backend, app=make_app(backend, OPEN, HandClock(), telemetry=sender))


def test_a_request_continues_the_trace_of_its_client(receiver: OtlpReceiver, sender: Telemetry) -> None:
    api = traced_api(sender)
    assert api.get("/api/v1/streams/door", headers={"traceparent": CLIENT}).status_code == 200
    assert api.get("/api/v1/streams/door").status_code == 200
    sender.flush(everything=True)
    (span,) = receiver.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)
    assert span.name == "GET /api/v1/streams/{name}"
    assert values(span.attributes) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/streams/{name}",
        "http.response.status_code": 200,
        "url.path": "/api/v1/streams/door",
        "url.scheme": "http",
    }


def test_a_grpc_call_continues_the_trace_of_its_client(
    receiver: OtlpReceiver,
    sender: Telemetry,
    engines: Engines,  # noqa: F811
) -> None:
    on = ServiceSettings.model_validate({"port": 0, "inference_protocol": {"grpc_port": 0}})
    with Site(of=settings(service=on.model_dump())) as site:
        with (
            GrpcServer(on, 0, LocalModels(site.service), OPEN, SYSTEM_CLOCK, telemetry=sender) as server,
            Client(server.address) as client,
        ):
            given = triton.InferInput("images", [1, SIDE, SIDE, 3], "UINT8")
            given.set_data_from_numpy(np.zeros((1, SIDE, SIDE, 3), np.uint8))
            client.infer("one", [given], headers={"traceparent": CLIENT})
            client.is_server_live()
            with pytest.raises(InferenceServerException):
                client.get_model_metadata("none", headers={"traceparent": CLIENT})
        sender.flush(everything=True)
    spans = {span.name: span for span in receiver.spans}
    call, missing = spans["inference.GRPCInferenceService/ModelInfer"], spans["inference.GRPCInferenceService/ModelMetadata"]
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)
    assert values(call.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
    }
    assert values(missing.attributes)["rpc.grpc.status_code"] == 5
    assert missing.status.code == missing.status.STATUS_CODE_UNSET
    assert spans["frame"].parent_span_id == call.span_id
    assert not any("ServerLive" in name for name in spans), "of calls without a trace, no one is sampled"


def test_failures_of_the_service_are_errors_and_those_of_the_client_are_not(receiver: OtlpReceiver, sender: Telemetry) -> None:
    backend = FakeBackend()
    backend.broken = RuntimeError("broken")
    api = traced_api(sender, backend)
    assert api.get("/api/v1/cost", headers={"traceparent": CLIENT}).status_code == 500
    backend.broken = None
    assert api.get("/api/v1/streams/none", headers={"traceparent": CLIENT}).status_code == 404
    sender.flush(everything=True)
    failed, missing = receiver.spans
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert missing.status.code == missing.status.STATUS_CODE_UNSET
    assert values(missing.attributes)["http.response.status_code"] == 404


def test_log_lines_of_a_request_name_its_trace(receiver: OtlpReceiver, sender: Telemetry) -> None:
    names = ("vision_infer", "uvicorn", "asyncio", "aioice", "aiortc", "websockets")
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names}
    text = io.StringIO()
    configure("json", stream=text)
    try:
        backend = FakeBackend()
        backend.broken = RuntimeError("broken")
        api = traced_api(sender, backend)
        api.get("/api/v1/cost", headers={"traceparent": CLIENT})
        api.get("/api/v1/cost")
        backend.broken = None
    finally:
        for name, (level, handlers) in before.items():
            logging.getLogger(name).setLevel(level)
            logging.getLogger(name).handlers[:] = handlers
    sender.flush(everything=True)
    first, second = (json.loads(line) for line in text.getvalue().splitlines())
    assert (first["trace_id"], first["span_id"]) == ("ab" * 16, receiver.spans[0].span_id.hex())
    assert "trace_id" not in second


def test_metrics_are_those_of_prometheus(receiver: OtlpReceiver, sender: Telemetry) -> None:
    api = traced_api(sender)
    sender.flush()
    families = {
        family.name + "_info" * (family.type == "info"): family
        for family in api.app.state.registry.collect()
        if family.samples and not family.name.startswith("process_")
    }
    sent = {name: metric for name, metric in receiver.metrics.items() if not name.startswith("process_")}
    assert sent.keys() == families.keys()
    for name, metric in sent.items():
        if metric.WhichOneof("data") == "histogram":
            for point in metric.histogram.data_points:
                assert sum(point.bucket_counts) == point.count
                assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            continue
        points = metric.sum.data_points or metric.gauge.data_points
        expected = [(sample.labels, sample.value) for sample in families[name].samples]
        assert [(values(point.attributes), point.as_double) for point in points] == expected


def jpeg() -> bytes:
    return bytes(cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1])


def test_an_image_and_frames_of_a_running_service(receiver: OtlpReceiver, engines: Engines, tmp_path: Path) -> None:  # noqa: F811
    sender = Telemetry(TelemetrySettings.model_validate({"endpoint": receiver.url, "sample_ratio": 1}), {})
    sender.start()
    camera = Camera(0)
    sinks = SinkSet(ResultsSettings(), SinksSettings(), tmp_path, telemetry=sender)
    with Site(camera, of=settings({camera.name: wanted(camera)}), sink_set=sinks) as site:
        site.give(camera, 3)
        app = make_app(site.service, OPEN, telemetry=sender)
        api = Api(cast(FakeBackend, site.service), app=app)
        headers = {"traceparent": CLIENT, "content-type": "image/jpeg"}
        assert api.ask("POST", "/api/v1/infer", content=jpeg(), headers=headers).status_code == 200
    sender._thread.join(10)
    roots = [values(span.attributes) for span in receiver.spans if span.name == "frame"]
    frames = [one for one in roots if one["vision_infer.stream"] == camera.name]
    assert [one["vision_infer.frame"] for one in frames] == [0, 1, 2]
    assert all(cast(float, one["vision_infer.age_ms"]) > 0 for one in frames)
    continued = {span.name for span in receiver.spans if span.trace_id.hex() == "ab" * 16}
    assert continued >= {"POST /api/v1/infer", "frame", "decode", "queue", "preprocess", "inference", "select", "track"}
    assert receiver.metrics["vision_infer_stream_frames"]
    assert sender.counts()["sent"] == 5


# Settings


def load(tmp_path: Path, telemetry: str) -> TelemetrySettings:
    path = tmp_path / "cameras.yaml"
    path.write_text(f"streams: {{front: {{url: 'test://'}}}}\ntelemetry:\n{telemetry}", encoding="utf-8")
    return load_settings(path, [], {"KEY": "s3cret"}, {}).telemetry


def test_telemetry_is_off_by_default(tmp_path: Path) -> None:
    assert load(tmp_path, "  sample_ratio: 0.5").endpoint is None


def test_headers_are_secrets_from_files_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from file\n", encoding="utf-8")
    found = load(tmp_path, "  endpoint: http://c:4318/\n  headers: {A: 'file:key', B: 'Bearer ${KEY}'}")
    assert {name: value.get_secret_value() for name, value in found.headers.items()} == {"A": "from file", "B": "Bearer s3cret"}
    assert "s3cret" not in repr(found) + str(found.model_dump(mode="json"))
    assert (found.endpoint, found.host) == ("http://c:4318", "http://c:4318")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  endpoint: collector:4317", "must be http://HOST:PORT"),
        ("  endpoint: http://u:s3cret@collector:4318", "use `headers` instead"),
        ("  endpoint: http://c:4318/?key=1", "must be http://HOST:PORT"),
        ("  sample_ratio: 1.5", "sample_ratio"),
        ("  metrics_s: 0", "metrics_s"),
    ],
)
def test_wrong_settings_are_refused_with_their_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, text)
    assert "line 3" in str(raised.value)
    assert problem in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.config.service.telemetry.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install '\.\[otel\]'"):
        load(tmp_path, "  endpoint: http://c:4318")
