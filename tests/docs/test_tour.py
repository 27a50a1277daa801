"""Every function that docs/tour.md names exists, and every file that the explanations name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.media import ROOT

PAGE = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
HOPS = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))
FILES = sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE)))


def test_the_tour_names_functions() -> None:
    assert len(HOPS) > 30


@pytest.mark.parametrize(("path", "name"), HOPS)
def test_a_named_function_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / "vision_infer" / path).read_text(encoding="utf-8"))
    assert name in set(names(tree)), f"{path} does not define {name}"


@pytest.mark.parametrize("path", FILES)
def test_a_named_file_exists(path: str) -> None:
    assert Path(ROOT / "vision_infer" / path).is_file()


def test_files_that_the_explanations_name_exist() -> None:
    for page in [ROOT / "docs" / "architecture.md", *(ROOT / "docs" / "explanation").glob("*.md")]:
        for path in re.findall(r"`((?:[\w-]+/)+[\w-]+\.py)`", page.read_text(encoding="utf-8")):
            assert any((base / path).is_file() for base in (ROOT, ROOT / "vision_infer")), f"{page.name}: {path}"


def names(tree: ast.AST, before: str = "") -> Iterator[str]:
    """Yield classes, functions, assigned names, and methods as ``Class.method``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield before + node.name
            yield from names(node, f"{before}{node.name}.")
        elif isinstance(node, ast.Assign):
            yield from (before + target.id for target in node.targets if isinstance(target, ast.Name))
