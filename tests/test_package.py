"""The installed package: its import time, its files, and the bundled model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.media import ROOT, bikes

HEAVY = (
    "torch",
    "av",
    "cv2",
    "onnxruntime",
    "openvino",
    "onnx",
    "supervision",
    "lap",
    "fastapi",
    "aiortc",
    "pyarrow",
    "paho",
    "httpx",
)


@pytest.mark.parametrize(
    "words", [["-c", "import vision_infer"], ["-m", "vision_infer", "--help"], ["-m", "vision_infer", "run", "--help"]]
)
def test_import_and_help_load_no_heavy_library(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, timeout=60, check=True)
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "vision_infer" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_contains_the_bundled_model_and_the_licenses(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "vision_infer/bundled/nanodet-416/model.onnx" in names
    assert "vision_infer/bundled/nanodet-416/model.yaml" in names
    assert "vision_infer/py.typed" in names
    assert sum(name.endswith("/LICENSE") or "/licenses/" in name for name in names) >= 2
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert wheel.stat().st_size < 12e6


def test_the_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    # The dependencies are those of this environment; pip unpacks the package itself from the wheel.
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    here = next(path for path in map(Path, sys.path) if (path / "numpy").is_dir())
    (site / "dependencies.pth").write_text(f"{here}\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = "import vision_infer, sys; sys.stderr.write(vision_infer.__file__); from vision_infer.cli.main import main; main()"
    words = [str(python), "-c", script, "run", str(bikes()), "--every", "100", "--json", "--quiet"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert str(site) in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["model"]) == (3, "nanodet-416")


def test_the_demo_names_the_next_command() -> None:
    done = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "next: .venv/bin/vision-infer run VIDEO" in done.stdout
