"""The installed package: its import time, its files, and the bundled model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_bytes
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


SOURCES = {
    "service/page": ROOT / "vision_infer" / "service" / "page",
    "service/page/vendor": ROOT / "vision_infer" / "service" / "page" / "vendor",
    "recipes": ROOT / "engines",
    "devices": ROOT / "capacity",
    "bundled/catalog": ROOT / "models" / "catalog",
}
"""The folders of the repository by their place in the package."""


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
    assert "vision_infer/bundled/nanodet-416/model.int8.onnx" in names
    assert "vision_infer/py.typed" in names
    for folder in ("service/page", "service/page/vendor", "recipes", "devices", "bundled/catalog"):
        files = {f"vision_infer/{folder}/{path.name}" for path in SOURCES[folder].iterdir() if path.is_file()}
        assert files, folder
        assert files <= set(names), folder
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert wheel.stat().st_size < 13e6  # of which the model has 10.4 MB


OWN = {".py", ".typed", ".js", ".css", ".html", ".svg", ".yaml", ".json", ".md", ".txt", ""}
"""The kinds of files that this project's authors wrote, except in the folders of others."""
LICENSES = {
    "Apache-2.0": "Apache License",
    "MIT": r"\bMIT\b",
    "BSD-2-Clause": "BSD-2-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "ISC": r"\bISC\b",
}
"""How the texts of the bundled licenses name each license."""


def test_each_bundled_asset_has_a_license_in_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("vision_infer/")]
        (about,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = message_from_bytes(archive.read(about))
        texts = {
            name: archive.read(f"{about.removesuffix('METADATA')}licenses/{name}").decode()
            for name in fields.get_all("License-File", [])
        }
        cards = [yaml.safe_load(archive.read(name)) for name in names if fnmatch(name, "vision_infer/bundled/*/model.yaml")]

    missing = []
    for asset in (name for name in names if "/vendor/" in name or Path(name).suffix not in OWN):
        folder, _, file = asset.replace("vision_infer/bundled/", "models/").rpartition("/")
        part = re.split(r"-bundle|\.", file.removeprefix("LICENSE."))[0]
        if not {f"{folder}/LICENSE", f"{folder}/LICENSE.{part}"} & set(texts):
            missing.append(asset)
    assert not missing
    assert {f"models/{card['name']}/LICENSE" for card in cards} <= set(texts)

    declared_licenses = set(fields["License-Expression"].split(" AND "))
    named = {name for name, words in LICENSES.items() for text in texts.values() if re.search(words, text)}
    assert named == declared_licenses
    assert {part for card in cards for part in card["license"].split(" AND ")} <= declared_licenses


def declared(*extras: str) -> set[str]:
    """Return the distributions that the package and some of its extras require, directly and through others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    waiting += [Requirement(text) for extra in extras for text in optional[extra]]
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        needed = waiting.pop()
        if needed.name == project["name"]:
            waiting += [Requirement(text) for extra in needed.extras for text in optional[extra]]
            continue
        key = (canonicalize_name(needed.name), frozenset(needed.extras))
        if key in found:
            continue
        found.add(key)
        for text in metadata.distribution(needed.name).requires or []:
            more = Requirement(text)
            if more.marker is None or any(more.marker.evaluate({"extra": extra}) for extra in ("", *needed.extras)):
                waiting.append(more)
    return {name for name, _ in found}


def clean_environment(folder: Path, wheel: Path, *extras: str) -> Path:
    """Create an environment with the wheel and what it declares, linked from this environment; return its Python."""
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    for name in declared(*extras):
        for file in metadata.distribution(name).files or []:
            target = site / file.parts[0]
            if file.parts[0] != ".." and not target.exists():
                target.symlink_to(Path(str(metadata.distribution(name).locate_file(file.parts[0]))).resolve())
    return folder / "bin" / "python"


def run_clean(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    script = "import vision_infer, sys; sys.stderr.write(vision_infer.__file__); from vision_infer.cli.main import main; main()"
    done = subprocess.run(
        [str(python), "-c", script, *words], cwd=python.parents[2], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert str(python.parents[1]) in done.stderr
    return done


def test_the_wheel_runs_with_its_declared_dependencies_only(wheel: Path, tmp_path: Path) -> None:
    python = clean_environment(tmp_path / "env", wheel, "cpu")
    assert not list((tmp_path / "env").rglob("fastapi")), "otherwise the environment is not clean"
    done = run_clean(python, "run", str(bikes()), "--every", "100", "--json", "--quiet")
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["model"]) == (3, "nanodet-416")


def test_the_service_starts_with_its_declared_dependencies_only(wheel: Path, tmp_path: Path) -> None:
    python = clean_environment(tmp_path / "env", wheel, "cpu", "serve")
    assert not list((tmp_path / "env").rglob("pytest")), "otherwise the environment is not clean"
    assert "1 stream: test" in run_clean(python, "serve", "test://", "--model", "clock", "--check").stdout
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("service", "preview", "sink/delivery")
        for path in sorted((ROOT / "vision_infer" / package).rglob("*.py"))
        if path.stem not in {"__init__", "oidc"} and path.parent.name != "grpc"  # they need the extras of these names
    ]
    script = f"import importlib; [importlib.import_module(name) for name in {modules!r}]"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run([str(python), "-c", script], cwd=tmp_path, env=environment, check=True, timeout=120)


def test_the_demo_names_the_next_command() -> None:
    done = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "next: .venv/bin/vision-infer run VIDEO --confidence 0.45 --out results/" in done.stdout
    assert "--confidence 0.45 --out demo-output/" in done.stdout
