"""The house keeps its own rules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.media import ROOT
from vision_infer.config.serve_file import load_settings

MODULES = sorted((ROOT / "vision_infer").rglob("*.py"))


@pytest.mark.parametrize("folder", ["models", "engines", "capacity", "streams", "benchmarks"])
def test_the_folders_at_the_root_say_what_they_hold(folder: str) -> None:
    assert (ROOT / folder / "README.md").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", sorted((ROOT / "streams").iterdir()), ids=lambda path: path.name)
def test_every_configuration_loads_as_it_stands_and_is_told_of(path: Path) -> None:
    if path.name == "README.md":
        return
    assert load_settings(path, [], {}, {}).streams
    assert f"({path.name})" in (ROOT / "streams" / "README.md").read_text(encoding="utf-8")


def test_every_module_and_public_name_has_a_docstring() -> None:
    missing: list[str] = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if ast.get_docstring(tree) is None and path.read_text(encoding="utf-8").strip():
            missing.append(str(path.relative_to(ROOT)))
        public = [
            node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        missing += [f"{path.relative_to(ROOT)}:{node.lineno} {node.name}" for node in public if not ast.get_docstring(node)]
    assert missing == []


def test_no_module_reads_the_environment_when_it_is_imported() -> None:
    found: list[str] = []
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            if any(isinstance(part, ast.Attribute) and part.attr in ("environ", "getenv") for part in ast.walk(node)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_names_say_something() -> None:
    empty = {"utils", "util", "helpers", "common", "misc", "manager"}
    assert [path for path in MODULES if path.stem in empty] == []


def test_functions_fit_a_screen() -> None:
    long: list[str] = []
    for path in [*MODULES, *sorted(Path(ROOT / "benchmarks").glob("*.py"))]:
        functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)]
        long += [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            for node in functions
            if (node.end_lineno or 0) - node.lineno > 70
        ]
    assert long == []
