"""The declared dependencies: every import is declared, and the smallest installation runs on a file."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.media import ROOT, bikes
from vision_infer.core.packages import EXTRA_OF, SERVICE

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# Modules whose package has another name on a GPU, or is chosen by the user's platform.
OTHER_NAMES = {
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt-cu13",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "cuda": "cuda-bindings",
}


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found, requirement
    return found[0].lower().replace("_", "-")


def declared(*extras: str) -> set[str]:
    """Return the names of the packages that the project, or its extras, require."""
    return {name_of(entry) for extra in extras for entry in EXTRAS[extra]} or {name_of(e) for e in PROJECT["dependencies"]}


@cache
def imported() -> dict[str, set[str]]:
    """Return the files that import each third-party module, anywhere in them."""
    users: dict[str, set[str]] = {}
    for path in sorted((ROOT / "vision_infer").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [entry.name for entry in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "vision_infer":
                    users.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    return users


def test_every_import_is_a_declared_dependency() -> None:
    known = declared() | declared(*(extra for extra in EXTRAS if extra not in ("dev", "demo")))
    packages = packages_distributions()
    missing = {}
    for module, files in imported().items():
        names = {OTHER_NAMES.get(module, ""), *(name.lower().replace("_", "-") for name in packages.get(module, [module]))}
        if not names & known:
            missing[module] = sorted(files)
    assert not missing


@pytest.mark.parametrize("module", sorted(EXTRA_OF))
def test_the_hint_names_an_extra_that_installs_the_module(module: str) -> None:
    names = {name.lower().replace("_", "-") for name in packages_distributions()[module]}
    assert names & declared(EXTRA_OF[module])


def test_the_extra_of_the_service_installs_all_its_modules() -> None:
    names = {name.lower().replace("_", "-") for module in SERVICE for name in packages_distributions()[module]}
    assert names & (declared("serve") | declared("images")) >= names - {"opencv-python"}


@pytest.mark.slow
def test_the_smallest_installation_runs_on_a_file(tmp_path: Path) -> None:
    """Install ``.[cpu]`` into an empty environment: its size, a run, and the hints of what needs an extra."""
    subprocess.run([sys.executable, "-m", "venv", "env"], cwd=tmp_path, check=True, timeout=120)
    python = tmp_path / "env" / "bin" / "python"
    constraints = str(ROOT / "constraints.txt")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{ROOT}[cpu]"]
    subprocess.run(pip, check=True, timeout=280)
    subprocess.run([python, "-m", "pip", "check"], check=True, timeout=60)

    site = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    tools = ("pip", "setuptools", "pkg_resources")  # they come with the environment
    files = [path for path in site.rglob("*") if path.is_file() and path.relative_to(site).parts[0] not in tools]
    assert sum(path.stat().st_size for path in files) < 350e6

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "env" / "bin" / "vision-infer"), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    done = run("run", bikes(), "--every", "100", "--out", "rows.jsonl", "--track")
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]) == 3
    assert "Run: pip install '.[serve]'" in run("serve", "test://", "--model", "clock").stderr
    drawn = run("run", bikes(), "--every", "100", "--out", "drawn.mp4")
    assert (drawn.returncode, "Run: pip install '.[images]'" in drawn.stderr) == (2, True)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    assert "Run: pip install '.[images]'" in run("run", "photo.jpg").stderr


def test_no_hint_installs_a_package_of_this_name_from_an_index() -> None:
    """The package is not published, so a package of this name on an index would be another one."""
    advice = r"(pip|uv|pipx)[a-z ]* install[^|]*[ '\"]vision-infer($|[][ '\".,])"
    words = ["git", "grep", "-nIE", advice, "--", ".", ":!CHANGELOG.md", ":!docs/reference"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout
