"""OpenTelemetry of a service that runs as users run it: one process, and several worker processes."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.support.otlp_receiver import OtlpReceiver, values
from tests.support.serve_process import LIMIT_S, ServeProcess
from vision_infer import __version__

STREAM = "test://?size=320x180&fps=10"


def infer(site: ServeProcess, traceparent: str) -> None:
    image = bytes(cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1])
    headers = {"Content-Type": "image/jpeg", "traceparent": traceparent}
    request = urllib.request.Request(f"http://127.0.0.1:{site.port}/api/v1/infer", image, headers)
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        assert json.loads(answer.read())["stream"] == "image"


def infer_over_grpc(site: ServeProcess, traceparent: str) -> None:
    (address,) = re.findall(r"over gRPC on (\S+)", site.log)
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([bytes(cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1])], object))
    with triton.InferenceServerClient(address) as client:
        client.infer("nanodet-416@image", [image], headers={"traceparent": traceparent})


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_traces_and_metrics_of_a_service_reach_the_receiver(processes: int, tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        telemetry = f"{{endpoint: '{receiver.url}', sample_ratio: 0.2, metrics_s: 1}}"
        streams = f"{{s0: {{url: '{STREAM}'}}, s1: {{url: '{STREAM}'}}}}"
        text = f"processes: {processes}\ntelemetry: {telemetry}\nstreams: {streams}\npreview: {{enabled: false}}\n"
        text += "service: {inference_protocol: {grpc_port: 0}}\n"
        with ServeProcess(tmp_path, text) as site:
            site.wait(lambda: {one["status"]["state"] for one in site.streams().values()} == {"live"}, "the streams to be live")
            infer(site, f"00-{'ab' * 16}-{'cd' * 8}-01")
            infer_over_grpc(site, f"00-{'ef' * 16}-{'cd' * 8}-01")
            site.wait(lambda: len({one.trace_id for one in receiver.spans if one.name == "frame"}) > 4, "traces of frames")
            site.wait(lambda: receiver.metric_requests, "metrics")
            site.stop()
        frames = [values(span.attributes) for span in receiver.spans if span.name == "frame"]
        continued = {span.name: span for span in receiver.spans if span.trace_id.hex() == "ab" * 16}
        over_grpc = {span.name: span for span in receiver.spans if span.trace_id.hex() == "ef" * 16}
        resources = [values(one.resource.attributes) for body in receiver.traces for one in body.resource_spans]
        counted = receiver.metrics["vision_infer_stream_frames"]
    assert {one["vision_infer.stream"] for one in frames} == {"s0", "s1", "image"}
    assert all(0 < float(one["vision_infer.age_ms"]) < 60_000 for one in frames if one["vision_infer.stream"] != "image")
    assert continued["POST /api/v1/infer"].parent_span_id.hex() == "cd" * 8
    assert continued["frame"].parent_span_id == continued["POST /api/v1/infer"].span_id
    called = "inference.GRPCInferenceService/ModelInfer" if processes == 1 else "POST /v2/models/{name}/infer"
    assert over_grpc[called].parent_span_id.hex() == "cd" * 8
    assert over_grpc["frame"].parent_span_id == over_grpc[called].span_id
    assert {"decode", "queue", "preprocess", "inference", "select", "track"} <= continued.keys()
    workers = {one.get("vision_infer.worker") for one in resources}
    assert workers == ({None} if processes == 1 else {"worker-0", "worker-1"})
    assert {one["service.version"] for one in resources} == {__version__}
    assert len({one["service.instance.id"] for one in resources}) == processes
    assert counted.sum.data_points
