"""Traces and metrics pass through a real collector: Rotel, which decodes OTLP and sends it on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.free_port import free_port
from tests.support.hand_clock import HandClock
from tests.support.other_programs import INSTALL_S, python_with
from tests.support.otlp_receiver import OtlpReceiver, values
from tests.support.waiting import wait_until
from vision_infer.config.service.telemetry import TelemetrySettings
from vision_infer.sink.delivery.carrier import UndeliveredError
from vision_infer.sink.otlp.telemetry import OtlpClient, Telemetry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S + 120)]
ROTEL = "rotel==0.0.1a15"
CLIENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


def test_a_collector_receives_traces_and_metrics_and_sends_them_on(tmp_path: Path) -> None:
    from prometheus_client import CollectorRegistry, Gauge

    (agent,) = python_with(ROTEL).parent.parent.glob("lib/*/site-packages/rotel/rotel-agent")
    agent.chmod(0o755)
    http, grpc = free_port(), free_port()
    registry = CollectorRegistry()
    Gauge("age_seconds", "The age.", ["stream"], registry=registry).labels("door").set(0.25)
    settings = TelemetrySettings.model_validate({"endpoint": f"http://127.0.0.1:{http}", "sample_ratio": 1})
    with OtlpReceiver() as receiver, (tmp_path / "rotel.log").open("wb") as log:
        words = [f"--otlp-http-endpoint=127.0.0.1:{http}", f"--otlp-grpc-endpoint=127.0.0.1:{grpc}", "--exporter=otlp"]
        words += [f"--otlp-exporter-endpoint={receiver.url}", "--otlp-exporter-protocol=http"]
        process = subprocess.Popen([agent, "start", *words], stdout=log, stderr=log, cwd=tmp_path)
        sender = Telemetry(settings, {"service.instance.id": "gate:8080"}, HandClock())
        try:

            def accepts() -> bool:
                try:
                    OtlpClient(settings).check()
                except UndeliveredError:
                    return False
                return True

            wait_until(accepts, (tmp_path / "rotel.log").read_text)
            sender.collect(registry.collect)
            request = sender.begin_request(CLIENT, "")
            assert request is not None
            request.name = "GET /api/v1/streams"
            sender.end_request(request)
            sender.flush(everything=True)
            assert {outcome for outcome, count in sender.counts().items() if count} == {"sent"}
            wait_until(lambda: receiver.spans and receiver.metric_requests, (tmp_path / "rotel.log").read_text)
        finally:
            sender._client.close()
            process.terminate()
            process.wait(30)
        (span,) = receiver.spans
        assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("GET /api/v1/streams", "ab" * 16, "cd" * 8)
        (age,) = receiver.metrics["age_seconds"].gauge.data_points
        assert (values(age.attributes), age.as_double) == ({"stream": "door"}, 0.25)
        resource = values(receiver.traces[0].resource_spans[0].resource.attributes)
        assert resource["service.instance.id"] == "gate:8080"
