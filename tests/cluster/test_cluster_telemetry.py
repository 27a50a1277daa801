"""OpenTelemetry on a real Ray cluster: nodes send traces, and a node without the extra is reported with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.media import ROOT
from tests.support.otlp_receiver import OtlpReceiver, values
from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

CAMERAS = {"door": "test://?size=320x180&fps=5"}
WITHOUT_OTEL = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.startswith("opentelemetry") else find(name, *more)
"""
"""Runs at the start of each Python: an environment without the extra ``otel``."""


class UnreadyGateway(Gateway):
    """A service whose nodes cannot start."""

    becomes_ready = False


def telemetry(receiver: OtlpReceiver) -> str:
    return f"telemetry: {{endpoint: '{receiver.url}', sample_ratio: 1, metrics_s: 1, headers: {{Authorization: Bearer 7}}}}\n"


def test_nodes_send_traces_and_metrics(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    folder.mkdir()
    with (
        OtlpReceiver() as receiver,
        RayCluster(tmp_path, "a") as cluster,
        Gateway(folder, cluster, CAMERAS, more=telemetry(receiver)) as gateway,
    ):
        gateway.wait(lambda: any(span.name == "frame" for span in receiver.spans), "traces of frames")
        gateway.wait(lambda: receiver.metric_requests, "metrics")
        resource = values(receiver.traces[-1].resource_spans[0].resource.attributes)
        assert resource["vision_infer.node"] == "a"
        assert {headers["authorization"] for headers in receiver.headers} == {"Bearer 7"}


def test_a_node_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_OTEL, encoding="utf-8")
    with (
        OtlpReceiver() as receiver,
        RayCluster(tmp_path, "a", environ={"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as cluster,
        UnreadyGateway(tmp_path / "gateway", cluster, CAMERAS, more=telemetry(receiver)) as gateway,
    ):

        def reasons() -> list[str]:
            return [node["reason"] for node in json.loads(gateway.ask("GET", "/api/v1/nodes")[1])]

        gateway.wait(lambda: any("it cannot start" in reason for reason in reasons()), "the reason of the node")
        logs = "".join(path.read_text(encoding="utf-8") for path in (cluster.session / "logs").glob("worker-*.err"))
        assert "the settings do not work on this node: telemetry.endpoint: needs the package opentelemetry.proto" in logs
        assert "cannot be reached" not in logs
        assert "Bearer 7" not in logs
