"""Every combination of extras that a user installs can be installed: pip resolves it with the constraints, without installing."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.support.constraints import clean_pip, pinned
from tests.support.media import ROOT
from vision_infer.cli.checks import CONFLICTING

CUDA = {"nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-curand"}
GPU = {"onnxruntime-gpu", "cuda-bindings", "nvidia-ml-py", *CUDA}
"""What ONNX Runtime needs on a machine with a driver only, and what finds the GPU and compiles the conversion kernel."""
TENSORRT = {"tensorrt-cu13", "tensorrt-cu13-bindings", "tensorrt-cu13-libs"}
RTX = {"tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"}
OTEL = {"opentelemetry-proto"}
COMBINATIONS = [  # smaller ones are parts of these: the constraints pin the same versions
    ("cpu", {"onnxruntime"}),
    ("cpu,demo,evaluate,dev,tensorrt-rtx", {"onnxruntime", "openvino", "torch", "pycocotools", *RTX}),
    ("cpu,serve,kuberay", {"ray", "grpcio", "opencensus"}),
    ("gpu,demo,evaluate,parquet,plot,supervision", {"matplotlib", "pyarrow", "supervision", *GPU}),
    (
        "cpu,serve,kafka,nats,redis,amqp,grpc,notify,otel",
        {"confluent-kafka", "nats-py", "redis", "aio-pika", "grpcio", "apprise", "opentelemetry-proto"},
    ),
    ("cpu,serve,oidc", {"joserfc", "cryptography"}),
    ("gpu,serve,openvino,export,tensorrt", {"aiortc", "torch", "openvino", *GPU, *TENSORRT}),
    ("gpu,serve,openvino,export,tensorrt-rtx", {"torch", "openvino", *GPU, *RTX}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this project's wheel, and an empty wheel in place of TensorRT's libraries.

    The index has only a source package of the libraries. It downloads the wheel from NVIDIA's index while pip resolves, which
    works on a user's machine but not where only one index can be reached.
    """
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    name, version = "tensorrt_cu13_libs", pinned("tensorrt-cu13-libs")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="GPUs are supported on Linux only")
@pytest.mark.parametrize(("extras", "expected"), COMBINATIONS, ids=[extras for extras, _ in COMBINATIONS])
def test_a_combination_of_extras_can_be_installed(extras: str, expected: set[str], folder: Path, tmp_path: Path) -> None:
    (wheel,) = folder.glob("vision_infer-*.whl")
    report = tmp_path / "report.json"
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
    pip += ["--constraint", str(ROOT / "constraints.txt"), "--find-links", str(folder), f"{wheel}[{extras}]"]
    done = subprocess.run(pip, env=clean_pip(), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {canonicalize_name(entry["metadata"]["name"]) for entry in json.loads(report.read_text(encoding="utf-8"))["install"]}
    assert expected <= found
    assert [pair for pair in CONFLICTING if found.issuperset(pair)] == []
