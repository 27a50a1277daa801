"""Checks of the instructions in the Dockerfile, without Docker."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.constraints import clean_pip, pinned
from tests.support.media import ROOT

TARGETS = ["cpu", "gpu"]
HOME = "/var/lib/vision-infer"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@dataclass
class Stage:
    """The instructions of one stage."""

    image: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.steps if word == keyword]


def read_stages() -> tuple[dict[str, str], dict[str, Stage]]:
    """Return the arguments before the first stage, and the stages by name."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    )
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    steps: list[tuple[str, str]] | None = None
    for line in text.replace("\\\n", " ").splitlines():
        keyword, _, rest = line.strip().partition(" ")
        rest = re.sub(r"\s+", " ", rest.strip()) if keyword == "RUN" else rest.strip()
        if keyword == "FROM":
            image, _, name = rest.partition(" AS ")
            stage = Stage(re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], image))
            stages[name], steps = stage, stage.steps
        elif keyword and steps is None:
            assert keyword == "ARG"
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif keyword and steps is not None:
            steps.append((keyword, rest))
    return arguments, stages


ARGUMENTS, STAGES = read_stages()
# All instructions of https://docs.docker.com/reference/dockerfile/ except the deprecated one.
KEYWORDS = {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD"}
KEYWORDS |= {"RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}


def test_all_instructions_are_valid() -> None:
    assert {word for stage in STAGES.values() for word, _ in stage.steps} <= KEYWORDS


def test_all_stages_that_are_used_exist() -> None:
    for name, stage in STAGES.items():
        assert stage.image in STAGES or re.search(r":\d+\.\d+", stage.image), name
        for rest in stage.of("COPY"):
            assert set(re.findall(r"--from=(\S+)", rest)) <= set(STAGES), name
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    assert {service["build"]["target"] for service in services if "build" in service} <= set(STAGES)
    # The image needs the Python that the virtual environment links to.
    for target in TARGETS:
        assert STAGES[f"{target}-environment"].image == STAGES[target].image


def test_the_python_of_the_images_is_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = re.search(r"python:(\d+\.\d+)-", ARGUMENTS["PYTHON_IMAGE"])
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]


def requirements_of(target: str) -> tuple[list[str], dict[str, Requirement]]:
    """Return the options of pip in an image's environment, and the requirements of the extras that it installs, by package."""
    (run,) = STAGES[f"{target}-environment"].of("RUN")
    for name in ("TENSORRT", "EXTRAS"):
        run = run.replace(f"${{{name}}}", ARGUMENTS[name])
    words = shlex.split(run.partition("pip install")[2])
    extras = re.search(r"vision-infer\[([\w,-]+)\]", " ".join(words))
    assert extras is not None
    listed = [Requirement(text) for extra in extras[1].split(",") for text in EXTRAS[extra]]
    return words, {canonicalize_name(requirement.name): requirement for requirement in listed}


def test_the_gpu_image_has_what_the_gpu_path_uses() -> None:
    _, found = requirements_of("gpu")
    assert {"onnxruntime-gpu", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-ml-py", "tensorrt-cu13"} <= set(found)
    assert found["onnxruntime-gpu"].extras == {"cuda", "cudnn"}
    # Versions come from the constraints alone, the same as outside of the image.
    run = STAGES["gpu-environment"].of("RUN")[0]
    assert "==" not in run
    assert "--constraint /wheel/constraints.txt" in run
    for name in ("onnxruntime-gpu", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-ml-py", "tensorrt-cu13", "tensorrt-rtx-cu13"):
        assert pinned(name)
    settings = dict(word.split("=", 1) for word in STAGES["gpu"].of("ENV")[0].split() if word.startswith("NVIDIA_"))
    # The capability "video" adds the libraries of NVDEC to the container, "utility" that of NVML.
    assert set(settings["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility", "video"}


def test_the_images_for_kubernetes_have_ray() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"--build-arg EXTRAS=(\S+) -t vision-infer:cluster-(\w+)", text) == [
        ("serve,kuberay", target) for target in TARGETS
    ]
    for target in TARGETS:
        assert "EXTRAS" in STAGES[f"{target}-environment"].of("ARG")
    (ray,) = (one for text in EXTRAS["kuberay"] if (one := Requirement(text)).name == "ray")
    assert ray.extras == {"default"}  # the health check of a node, and Ray Client
    assert ray.specifier.contains(pinned("ray"))


@pytest.mark.parametrize("tensorrt", ["tensorrt", "tensorrt-rtx"])
def test_only_the_packages_of_tensorrt_may_be_sources(tensorrt: str) -> None:
    words, _ = requirements_of("gpu")
    assert words[words.index("--only-binary") + 1] == ":all:"
    assert words.index("--only-binary") < words.index("--no-binary")  # ":all:" clears the names before it
    sources = set(words[words.index("--no-binary") + 1].split(","))
    assert sources == {"tensorrt-cu13", "tensorrt-cu13-libs", "tensorrt-rtx-cu13"}
    assert {canonicalize_name(Requirement(text).name) for text in EXTRAS[tensorrt]} <= sources
    assert "--no-binary" not in requirements_of("cpu")[0]


@pytest.mark.slow
def test_the_gpu_image_can_be_installed_with_these_options(tmp_path: Path) -> None:
    """With TensorRT-RTX, whose wheels are on the same index as the other packages."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True, timeout=120
    )
    (wheel,) = tmp_path.glob("vision_infer-*.whl")
    words, _ = requirements_of("gpu")
    options = [
        str(ROOT / "constraints.txt") if word == "/wheel/constraints.txt" else word
        for word in words
        if "vision-infer" not in word
    ]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        *options,
        f"{wheel}[gpu,serve,tensorrt-rtx]",
    ]
    done = subprocess.run(pip, env=clean_pip(), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert all(
        f"{name}-{pinned(name)}" in done.stdout.replace("_", "-") for name in ("onnxruntime-gpu", "tensorrt-rtx-cu13-libs")
    )


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_an_unprivileged_user(target: str) -> None:
    stage = STAGES[target]
    words = [word for word, _ in stage.steps]
    assert stage.of("USER") == ["10001:10001"]
    assert "RUN" not in words[words.index("USER") :]
    assert stage.of("VOLUME") == [HOME]
    assert {f"VISION_INFER_HOME={HOME}", "ORT_DISABLE_TELEMETRY=1"} <= set(stage.of("ENV")[0].split())
    assert f"--owner 10001 --group 10001 --mode 0700 {HOME}" in stage.of("RUN")[-1]
    assert stage.of("EXPOSE") == ["8080 8189/udp 8189/tcp"]
    assert stage.of("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(stage.of("ENTRYPOINT")[0]) == ["vision-infer"]
    assert json.loads(stage.of("CMD")[0]) == ["serve", "/etc/vision-infer/cameras.yaml", "--host", "0.0.0.0"]


def test_both_images_have_the_same_settings() -> None:
    shared = {"USER", "VOLUME", "WORKDIR", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD", "RUN"}
    cpu, gpu = ([step for step in STAGES[target].steps if step[0] in shared] for target in TARGETS)
    assert cpu == gpu


def test_layers_contain_no_secrets_and_no_caches() -> None:
    for name, stage in STAGES.items():
        for word, rest in stage.steps:
            assert word in ("RUN", "COPY", "CMD") or not re.search(r"token|password|secret", rest, re.IGNORECASE), name
            if word == "RUN" and "pip " in rest:
                assert "--no-cache-dir" in rest
            if word == "RUN" and "pip install" in rest:
                assert "--constraint" in rest
            if word == "RUN" and "apt-get" in rest:
                assert rest.endswith("rm -rf /var/lib/apt/lists/*")
                assert "--no-install-recommends" in rest
    for target in TARGETS:
        assert STAGES[target].of("COPY") == [f"--from={target}-environment /opt/vision-infer /opt/vision-infer"]


def copied() -> list[str]:
    return [source for rest in STAGES["wheel"].of("COPY") for source in rest.split()[:-1]]


def test_the_build_context_contains_exactly_the_copied_files() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(copied()) == sorted(rule[1:] for rule in rules if rule.startswith("!"))
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_the_wheel_can_be_built_from_the_copied_files(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, context / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, context / source)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "wheel")]
    subprocess.run(command, cwd=context, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "wheel").glob("vision_infer-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "vision_infer/cli/main.py" in names
    assert any(name.startswith("vision_infer/bundled/") and name.endswith(".onnx") for name in names)


class HealthHandler(http.server.BaseHTTPRequestHandler):
    """Responds to health checks with the status of the test."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), HealthHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def health(port: int) -> int:
    _, _, command = STAGES["cpu"].of("HEALTHCHECK")[0].partition("CMD ")
    program, *rest = json.loads(command)
    assert program == "python"
    arguments = [argument.replace("8080", str(port)) for argument in rest]
    # The health check must not use a proxy that is configured for the cameras.
    environ = {**os.environ, "http_proxy": "http://192.0.2.1:9", "HTTP_PROXY": "http://192.0.2.1:9"}
    done = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, timeout=60, check=False)
    return done.returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_health_check_returns_the_status(
    server: http.server.HTTPServer, status: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HealthHandler, "status", status)
    assert health(server.server_port) == code


def test_the_health_check_fails_without_a_server(server: http.server.HTTPServer) -> None:
    port = server.server_port
    server.shutdown()
    server.server_close()
    assert health(port) == 1
