"""The gateway of the Helm chart: its settings, its token, its readiness probe and its metrics."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from tests.deploy.chart import CAMERA, FULL, Objects, container_of, objects, pods, render, settings_of
from tests.support.media import ROOT

__all__ = ["objects"]


def test_the_gateway_loads_its_settings_and_secrets(tmp_path: Path) -> None:
    objects = render(FULL)
    settings = settings_of(objects, tmp_path)
    assert settings.service.token == SecretStr("0123456789abcdef-admin_token")
    assert settings.service.view_token == SecretStr("0123456789abcdef-view_token")
    assert settings.streams["door"].detect == "rtsp://viewer:0123456789abcdef-door@192.0.2.10/sub"
    assert settings.preview.max_viewers == 5
    assert "vision.cameras.svc" in settings.service.allow_hosts
    container = container_of(pods(objects)["gateway"])
    volumes = {volume["name"]: volume for volume in pods(objects)["gateway"]["spec"]["volumes"]}
    assert volumes["cameras"]["secret"]["secretName"] == "camera-passwords"
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/etc/vision-infer"]["configMap"]["name"] == "vision"
    assert mounts["/run/secrets/vision-infer"]["secret"]["secretName"] == "vision-infer-tokens"
    assert "/run/secrets/cameras" not in str(pods(render({}))["gateway"])


def test_settings_of_the_user_replace_those_of_the_chart(tmp_path: Path) -> None:
    settings = settings_of(render({"settings": {"service": {"log_format": "human"}, "streams": {}}}), tmp_path)
    assert settings.service.log_format == "human"
    assert settings.service.token is not None


def test_the_gateway_restarts_for_settings_that_are_read_at_the_start() -> None:
    def checksum(settings: dict[str, Any]) -> str:
        annotations = pods(render({"settings": settings}))["gateway"]["metadata"]["annotations"]
        return str(annotations["checksum/settings"])

    assert checksum({}) == checksum({"streams": {"door": {"detect": CAMERA}}})
    assert checksum({}) != checksum({"preview": {"max_viewers": 5}})


def test_the_gateway_connects_to_the_head_with_the_token_of_kuberay(objects: Objects) -> None:
    container = container_of(pods(objects)["gateway"])
    words = container["args"]
    assert words[words.index("--cluster") + 1] == "ray://vision-head-svc:10001"  # KubeRay's name of the head's Service
    ports = {port["name"]: port["containerPort"] for port in container_of(pods(objects)["head"])["ports"]}
    assert ports["client"] == 10001
    (token,) = (one for one in container["env"] if one["name"] == "RAY_AUTH_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "vision", "key": "auth_token"}  # KubeRay's names, too
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    help_text = subprocess.run(
        [sys.executable, "-m", "vision_infer", "serve", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", help_text))


class _Ready(BaseHTTPRequestHandler):
    status = 200
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def ready_server() -> Iterator[HTTPServer]:
    _Ready.asked, _Ready.status = [], 200
    server = HTTPServer(("127.0.0.1", 0), _Ready)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "result"), [(200, 0), (503, 1), (401, 1)])
@pytest.mark.parametrize("file", ["chart", "single"])
def test_the_readiness_probe_sends_a_token(ready_server: HTTPServer, tmp_path: Path, file: str, status: int, result: int) -> None:
    if file == "chart":
        container = container_of(pods(render({}))["gateway"])
    else:
        objects = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8"))
        (pod,) = (one["spec"]["template"] for one in objects if one["kind"] == "Deployment")
        container = container_of(pod)
    _Ready.status = status
    for name in ("admin_token", "view_token"):
        (tmp_path / name).write_text("secret\n", encoding="utf-8")
    _, *words = container["readinessProbe"]["exec"]["command"]
    script = words[-1].replace("/run/secrets/vision-infer", str(tmp_path)).replace(", 8080", f", {ready_server.server_port}")
    done = subprocess.run([sys.executable, *words[:-1], script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == result, done.stderr
    assert _Ready.asked == [("/readyz", "Bearer secret")]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "page"}


def test_the_service_leads_to_the_page(objects: Objects) -> None:
    service = objects["Service", "vision"]["spec"]
    pod = pods(objects)["gateway"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    named = {port["name"]: port["containerPort"] for port in container_of(pod)["ports"]}
    assert [named[port["targetPort"]] for port in service["ports"]] == [8080]
    assert objects["Deployment", "vision"]["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_prometheus_reads_the_metrics_of_the_gateway() -> None:
    objects = render(FULL)
    monitor = objects["ServiceMonitor", "vision"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("page", "/metrics")
    assert endpoint["authorization"]["credentials"] == {"name": "vision-infer-tokens", "key": "view_token"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= objects["Service", "vision"]["metadata"]["labels"].items()
    assert "ServiceMonitor" not in {kind for kind, _ in render({})}
