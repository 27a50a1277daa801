"""The deployment files work unmodified: images, compose file, systemd unit, monitoring."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from tests.support.compose import composed
from tests.support.media import ROOT
from tests.support.serve_process import ServeProcess
from vision_infer.config.preview import PreviewSettings
from vision_infer.config.serve_file import load_settings

DEPLOY = ROOT / "deploy"
PROFILES = ["", "camera", "gpu", "camera,gpu"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KUBERNETES: dict[str, dict[str, Any]] = {
    one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
}
SECRETS = ["admin_token", "camera_publish_password", "camera_read_password", "grafana_password", "view_token"]


def output_of(command: list[str], **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("profiles", PROFILES)
def test_docker_compose_accepts_the_file(profiles: str) -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    # Warnings fail the test as well: a `$` meant for the shell would be reported as an unset variable.
    assert output_of(["docker-compose", "config", "--quiet"], COMPOSE_PROFILES=profiles) == (0, "", "")


def test_all_profiles_are_checked() -> None:
    assert {profile for service in SERVICES.values() for profile in service.get("profiles", [])} == {"camera", "gpu"}
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == [
        "vision-infer",
        "mediamtx",
        "prometheus",
        "grafana",
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_only_the_privileges_that_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    cpus = set() if name == "vision-infer-gpu" else {"cpus"}  # a GPU needs as many CPUs as decode video for it
    assert set(service["deploy"]["resources"]["limits"]) == {"memory", "pids", *cpus}
    assert not {"privileged", "network_mode", "pid", "cap_add", "env_file"} & set(service)
    assert set(service.get("environment", ())) <= {"VISION_INFER_PREVIEW__ADDRESSES"}  # secrets are files
    assert service.get("user", "65534:65534") != "0"
    for port in service.get("ports", []):
        assert re.fullmatch(r"(127\.0\.0\.1|\$\{PUBLISH_ADDRESS:-127\.0\.0\.1\}):(\d+):\2(/tcp|/udp)?", port)
    for volume in service.get("volumes", []):
        assert volume.endswith(":ro") or volume.split(":")[0] in COMPOSE["volumes"]


PORTS = {(8080, "tcp"), (PreviewSettings().port, "udp"), (PreviewSettings().port, "tcp")}
"""The ports that viewers need: the page and the API, and live video over UDP or TCP."""


def published(ports: Iterable[str]) -> set[tuple[int, str]]:
    """Return the ports of a container in Docker's notation, all with the same number outside."""
    found = [re.fullmatch(r".*?(\d+):(\d+)(?:/(tcp|udp))?", port) for port in ports]
    assert all(one is not None and one[1] == one[2] for one in found)
    return {(int(one[2]), one[3] or "tcp") for one in found if one is not None}


def test_all_files_publish_the_ports_that_viewers_need() -> None:
    assert published(SERVICES["vision-infer"]["ports"]) == PORTS
    assert SERVICES["vision-infer-gpu"]["ports"] == SERVICES["vision-infer"]["ports"]
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"docker run .*?vision-infer:\w+\n", page, re.DOTALL)
    assert published(re.findall(r"-p (\S+)", command)) == PORTS
    environ = dict(one.split("=", 1) for one in re.findall(r"-e '(.*?)'", page))
    assert load_settings(None, ["test://"], environ, {}).preview.addresses == ("192.168.1.10",)
    exposed = re.findall(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [
        {(int(port), kind or "tcp") for port, _, kind in (one.partition("/") for one in line.split())} for line in exposed
    ] == [PORTS, PORTS]
    assert {(port["port"], port["protocol"].lower()) for port in KUBERNETES["Service"]["spec"]["ports"]} == PORTS


def test_compose_announces_the_address_that_it_publishes() -> None:
    for address, published_on in (("", "127.0.0.1"), ("192.168.1.10", "192.168.1.10")):
        service = composed("vision-infer", PUBLISH_ADDRESS=address)
        assert {port["host_ip"] for port in service["ports"]} == {published_on}
        settings = load_settings(None, ["test://"], service["environment"], {})
        assert settings.preview.addresses == ((address,) if address else ())


def test_the_files_for_kubernetes_belong_together(tmp_path: Path) -> None:
    text = KUBERNETES["ConfigMap"]["data"]["cameras.yaml"]
    (tmp_path / "admin_token").write_text("0123456789abcdef\n", encoding="utf-8")
    (tmp_path / "cameras.yaml").write_text(text.replace("/run/secrets/vision-infer", str(tmp_path)), encoding="utf-8")
    assert load_settings(tmp_path / "cameras.yaml", [], {}, {}).service.token == SecretStr("0123456789abcdef")
    pod = KUBERNETES["Deployment"]["spec"]["template"]
    assert pod["metadata"]["labels"] == KUBERNETES["Service"]["spec"]["selector"]
    (container,) = pod["spec"]["containers"]
    named = {port["name"]: (port["containerPort"], port["protocol"]) for port in container["ports"]}
    for port in KUBERNETES["Service"]["spec"]["ports"]:
        assert named[port["targetPort"]] == (port["port"], port["protocol"])
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["spec"]["volumes"]]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/etc/vision-infer", "/run/secrets/vision-infer", "/var/lib/vision-infer", "/tmp"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "page"}


def test_the_readiness_probe_of_kubernetes_sends_the_token(tmp_path: Path) -> None:
    (container,) = KUBERNETES["Deployment"]["spec"]["template"]["spec"]["containers"]
    _, *words, script = container["readinessProbe"]["exec"]["command"]
    token = tmp_path / "admin_token"
    token.write_text("0123456789abcdef\n", encoding="utf-8")
    text = f"service: {{token: '${{file:{token}}}'}}\nstreams: {{test: {{detect: 'test://'}}}}\nmodel: clock\n"
    service = ServeProcess(tmp_path, text)
    service.token = "0123456789abcdef"
    results = []
    with service:
        here = script.replace("/run/secrets/vision-infer", str(tmp_path)).replace(", 8080", f", {service.port}")
        service.wait(lambda: service.ask("GET", "/readyz")[0] == 200, "the service to be ready")
        for sent in ("0123456789abcdef\n", "another token\n"):
            token.write_text(sent, encoding="utf-8")
            results.append(output_of([sys.executable, *words, here])[0])
    assert results == [0, 1]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_a_fixed_version_and_a_health_check(name: str) -> None:
    service = SERVICES[name]
    if name.startswith("vision-infer"):
        assert service["build"] == {"context": ".", "target": service["image"].removeprefix("vision-infer:")}
        return
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+(-ffmpeg)?", service["image"])
    assert "healthcheck" in service


def test_the_script_creates_all_secrets(tmp_path: Path) -> None:
    named = {name: declared["file"] for name, declared in COMPOSE["secrets"].items()}
    assert named == {name: f"./deploy/secrets/{name}" for name in SECRETS}
    assert {secret for service in SERVICES.values() for secret in service.get("secrets", [])} == set(SECRETS)
    folder = tmp_path / "secrets"
    script = ["sh", str(DEPLOY / "make_secrets.sh"), str(folder)]
    assert output_of(script)[0] == 0
    made = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert sorted(made) == SECRETS
    assert all(re.fullmatch(r"[0-9a-f]{64}", secret) for secret in made.values())
    assert len(set(made.values())) == len(SECRETS)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    assert output_of(script)[0] == 0
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == made


def test_the_repository_contains_no_secrets() -> None:
    assert (DEPLOY / "secrets" / ".gitignore").read_text(encoding="utf-8") == "*\n!.gitignore\n"
    for path in [*DEPLOY.rglob("*"), ROOT / "compose.yaml", ROOT / "Dockerfile"]:
        if path.is_file() and path.parent.name != "secrets":
            assert not re.search(r"\b[0-9a-f]{32,}\b", path.read_text(encoding="utf-8")), path


def test_the_configuration_of_compose_is_valid(tmp_path: Path) -> None:
    text = (DEPLOY / "config" / "cameras.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"/run/secrets/(\w+)", text)) == set(SERVICES["vision-infer"]["secrets"])
    assert SERVICES["vision-infer-gpu"]["secrets"] == SERVICES["vision-infer"]["secrets"]
    assert output_of(["sh", str(DEPLOY / "make_secrets.sh"), str(tmp_path)])[0] == 0
    copy = tmp_path / "cameras.yaml"
    copy.write_text(text.replace("/run/secrets", str(tmp_path)), encoding="utf-8")
    settings = load_settings(copy, [], {}, {})
    secrets = {name: (tmp_path / name).read_text(encoding="utf-8") for name in SECRETS}
    assert settings.service.token == SecretStr(secrets["admin_token"])
    assert settings.service.view_token == SecretStr(secrets["view_token"])
    assert settings.streams["door"].detect == f"rtsp://reader:{secrets['camera_read_password']}@mediamtx:8554/door"
    assert "vision-infer" in settings.service.allow_hosts  # the host name that Prometheus uses


def test_mediamtx_rejects_logins_without_the_secret_files() -> None:
    settings = yaml.safe_load((DEPLOY / "mediamtx.yml").read_text(encoding="utf-8"))
    users = settings["authInternalUsers"]
    assert [user["user"] for user in users] == ["publisher", "reader"]
    assert all(user["pass"].startswith("sha256:") for user in users)
    script = SERVICES["mediamtx"]["command"][0]
    for number, secret in enumerate(["camera_publish_password", "camera_read_password"]):
        assert f'MTX_AUTHINTERNALUSERS_{number}_PASS="$$(cat /run/secrets/{secret})"' in script
    assert [name for name in ("rtmp", "hls", "webrtc", "srt", "moq", "api", "playback") if settings[name] is not False] == []
    assert "ports" not in SERVICES["mediamtx"]
    # The camera publishes to the path that the service reads.
    assert list(settings["paths"]) == ["door"]
    assert "publisher:" in SERVICES["camera"]["command"][0]
    assert SERVICES["camera"]["command"][0].rstrip().endswith('@mediamtx:8554/door"')
    assert "@mediamtx:8554/door\n" in (DEPLOY / "config" / "cameras.yaml").read_text(encoding="utf-8")


def unit() -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "vision-infer.service").read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def test_the_unit_uses_notifications_and_the_watchdog() -> None:
    settings = unit()
    assert settings["Type"] == ["notify"]
    assert int(settings["WatchdogSec"][0]) >= 10
    assert settings["Restart"] == ["on-failure"]
    assert settings["StartLimitIntervalSec"] == ["0"]  # no limit of restarts
    assert int(settings["TimeoutStopSec"][0]) > 5
    assert {"AF_UNIX", "AF_NETLINK"} <= set(settings["RestrictAddressFamilies"][0].split())
    assert "--host ${SERVE_HOST}" in settings["ExecStart"][0]
    assert "SERVE_HOST=127.0.0.1" in settings["Environment"][0].split()


def test_the_unit_is_locked_down() -> None:
    settings = unit()
    for name in ("DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "LockPersonality"):
        assert settings[name] == ["yes"], name
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["PrivateUsers"] == ["yes"]
    assert "~@privileged" in settings["SystemCallFilter"]
    assert settings["MemoryMax"] == ["2G"]
    assert settings["CapabilityBoundingSet"] == [""]
    assert settings["StateDirectory"] == ["vision-infer"]
    assert "VISION_INFER_HOME=/var/lib/vision-infer" in settings["Environment"]
    assert "ORT_DISABLE_TELEMETRY=1" in settings["Environment"]
    assert settings["LoadCredential"] == ["secret:/etc/vision-infer/secrets"]


def test_all_options_in_the_deployment_files_exist() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    command = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()[-1]
    lines = [unit()["ExecStart"][0], command, *(line for line in page.splitlines() if "vision-infer serve " in line)]
    given = set(re.findall(r"(?<![\w-])--[a-z-]+", "\n".join(lines)))
    assert {"--host", "--port", "--check"} <= given
    status, text, _ = output_of([sys.executable, "-m", "vision_infer", "serve", "--help"])
    assert status == 0
    assert given - set(re.findall(r"--[a-z-]+", text)) == set()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = (DEPLOY / "vision-infer.service").read_text(encoding="utf-8")
    copy = tmp_path / "vision-infer.service"
    copy.write_text(text.replace("/opt/vision-infer/bin/vision-infer", "/bin/true"), encoding="utf-8")
    status, _, complaints = output_of(["systemd-analyze", "verify", "--man=no", str(copy)])
    assert status == 0
    assert [line for line in complaints.splitlines() if "vision-infer" in line] == []


def test_systemd_rates_the_unit_as_well_protected(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / "vision-infer.service"
    copy.write_text((DEPLOY / "vision-infer.service").read_text(encoding="utf-8"), encoding="utf-8")
    # The threshold is ten times the exposure level.
    status, rating, _ = output_of(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=13", str(copy)])
    assert status == 0, rating


def test_every_container_of_the_page_has_a_memory_limit() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    started = re.findall(r"docker run .*?vision-infer:\w+\n", page, re.DOTALL)
    assert started
    assert all("--memory 2g" in command for command in started)


def test_the_environment_file_sets_the_variables_of_the_unit() -> None:
    lines = (DEPLOY / "vision-infer.env").read_text(encoding="utf-8").splitlines()
    set_there = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
    assert set_there == sorted(set(re.findall(r"\$\{(\w+)\}", unit()["ExecStart"][0])))
    assert unit()["EnvironmentFile"] == ["-/etc/vision-infer/vision-infer.env"]


def test_the_example_for_traefik_is_complete() -> None:
    """Traefik is not a package of Debian, so that only the form is checked: each reference has its target."""
    example: dict[str, Any] = yaml.safe_load((DEPLOY / "proxy" / "traefik.yml").read_text(encoding="utf-8"))
    assert set(example) == {"http", "tls"}
    http = example["http"]
    (router,) = http["routers"].values()
    assert set(router) == {"rule", "entryPoints", "middlewares", "service", "tls"}
    assert router["rule"] == "Host(`cameras.example.org`) && (Path(`/vision`) || PathPrefix(`/vision/`))"
    slash, path = (http["middlewares"][name] for name in router["middlewares"])
    assert re.sub(slash["redirectRegex"]["regex"], r"\1/", "https://cameras.example.org/vision").endswith("/vision/")
    assert slash["redirectRegex"]["replacement"] == "${1}/"
    assert path == {"stripPrefix": {"prefixes": ["/vision"]}}
    balancer = http["services"][router["service"]]["loadBalancer"]
    assert balancer["servers"] == [{"url": "http://127.0.0.1:8080"}]
    assert balancer["responseForwarding"] == {"flushInterval": "-1ms"}
    assert balancer["passHostHeader"] is True
    assert [set(pair) for pair in example["tls"]["certificates"]] == [{"certFile", "keyFile"}]
