"""The rules of the layout: folders, names, sizes, and imports without circles."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import hypothesis
import pytest

from tests.support.media import ROOT
from vision_infer.config.serve_file import load_settings

MODULES = sorted((ROOT / "vision_infer").rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", ["models", "engines", "capacity", "streams", "benchmarks"])
def test_folders_at_the_root_have_a_readme(folder: str) -> None:
    assert (ROOT / folder / "README.md").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", sorted((ROOT / "streams").iterdir()), ids=lambda path: path.name)
def test_each_example_configuration_loads_and_is_listed(path: Path) -> None:
    if path.name == "README.md":
        return
    assert load_settings(path, [], {}, {}).streams
    assert f"({path.name})" in (ROOT / "streams" / "README.md").read_text(encoding="utf-8")


def test_every_module_and_public_name_has_a_docstring() -> None:
    missing: list[str] = []
    for path in MODULES:
        tree = parsed(path)
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
        for node in parsed(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            if any(isinstance(part, ast.Attribute) and part.attr in ("environ", "getenv") for part in ast.walk(node)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_modules_have_specific_names() -> None:
    empty = {"utils", "util", "helpers", "common", "misc", "manager"}
    assert [path for path in MODULES if path.stem in empty] == []


def test_functions_fit_a_screen() -> None:
    long: list[str] = []
    benchmarks = [path for path in sorted((ROOT / "benchmarks").rglob("*.py")) if "results" not in path.parts]
    for path in [*MODULES, *benchmarks]:
        nodes = ast.walk(parsed(path))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        long += [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            for node in functions
            if (node.end_lineno or 0) - node.lineno > 70
        ]
    assert long == []


def test_no_folder_holds_more_than_twenty_modules() -> None:
    folders = {path.parent for path in MODULES}
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: size for folder, size in sizes.items() if size > 20} == {}


def test_each_class_name_is_used_once() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_modules_import_each_other() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    imports: dict[str, set[str]] = {}
    for name, path in names.items():
        found: set[str] = set()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        imports[name] = {module for module in found & names.keys() if not name.startswith(f"{module}.") and module != name}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' <- '.join(error.args[1])}")


def test_modules_are_at_most_350_lines_long() -> None:
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > 350} == {}


def test_hints_that_say_what_to_do_are_sentences() -> None:
    verbs = (
        r"f?[\"'](add|call|check|choose|close|create|delete|export|free|give|import|install|leave|lower|name|please|put|raise|"
        r"remove|restart|run|see|send|set|start|try|use|write)\b"
    )
    found: list[str] = []
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error"):
                hints = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "hint")]
                found += [f"{path}:{hint.lineno}" for hint in hints if re.match(verbs, ast.unparse(hint))]
    assert found == []


def test_the_chosen_profile_of_hypothesis_is_used(pytestconfig: pytest.Config) -> None:
    chosen = pytestconfig.getoption("--hypothesis-profile") or "other"
    assert hypothesis.settings.get_current_profile_name() == chosen
    assert hypothesis.settings().deadline is None
