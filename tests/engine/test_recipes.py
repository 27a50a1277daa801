"""Recipes: every file in ``engines/`` loads; an error names the wrong field."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.media import ROOT
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.graph_facts import GraphFacts
from vision_infer.engine.recipe import EngineRecipe, candidate_of, find_recipe, read_recipe, recipes_dir
from vision_infer.engine.selection.candidates import EngineCandidate
from vision_infer.model.catalog import resolve_model

RECIPES = sorted((ROOT / "engines").glob("*.yaml"))


def test_there_are_recipes_and_they_are_found() -> None:
    assert len(RECIPES) >= 2
    assert recipes_dir() == ROOT / "engines"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_loads_and_the_readme_lists_it(path: Path) -> None:
    recipe = read_recipe(path)
    assert resolve_model(recipe.model).is_file()
    assert f"({path.name})" in (ROOT / "engines" / "README.md").read_text(encoding="utf-8")
    assert find_recipe(path.stem, (ROOT / "engines",)) == path


def test_the_readme_describes_every_field() -> None:
    page = (ROOT / "engines" / "README.md").read_text(encoding="utf-8")
    assert [name for name in EngineRecipe.model_fields if f"| `{name}` |" not in page] == []


def test_recipes_are_found_by_name_or_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("")
    assert find_recipe("mine", (tmp_path / "none", tmp_path)) == tmp_path / "mine.yaml"
    assert find_recipe("below/x.yaml", ()) == Path("below/x.yaml")
    assert find_recipe("other", (tmp_path,)) is None
    assert find_recipe("../mine", (tmp_path,)) is None
    assert find_recipe("nanodet-416", (ROOT / "engines",)) is None  # the name of a model


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "recipe"),
        ("[]", "recipe"),
        ("model: x", "runtime"),
        ("model: x\nruntime: tensorflow", "runtime"),
        ("model: x\nruntime: openvino\nbudget: -1", "budget"),
        ("model: x\nruntime: openvino\nbudget: .nan", "budget"),
        ("model: x\nruntime: openvino\nbatch: 0", "batch"),
        ("model: x\nruntime: openvino\nmore: 1", "more"),
        ("model: x\nruntime: onnxruntime\ncompute: bf16", "compute"),
        ("model: x\nruntime: openvino\nprecision: int8\ncompute: bf16", "compute"),
        ("model: [", "not YAML"),
    ],
)
def test_an_error_names_the_wrong_field(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(EngineError) as caught:
        read_recipe(path)
    assert str(path) in caught.value.message
    assert word in caught.value.message
    assert "docs/reference/results.md" in caught.value.hint


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="No such file"):
        read_recipe(tmp_path / "none.yaml")


def test_the_engine_that_a_recipe_describes(tmp_path: Path, card: ModelCard) -> None:
    fp32, int8 = GraphFacts(card, "fp32"), GraphFacts(card, "int8")
    possible = (
        EngineCandidate(tmp_path, fp32, "onnxruntime-cpu-fp32"),
        EngineCandidate(tmp_path, fp32, "openvino-cpu-fp32"),
        EngineCandidate(tmp_path, fp32, "openvino-cpu-bf16", "bf16"),
        EngineCandidate(tmp_path, int8, "onnxruntime-cpu-int8"),
    )
    assert candidate_of(EngineRecipe(model="x", runtime="openvino"), possible) == possible[1]
    assert candidate_of(EngineRecipe(model="x", runtime="openvino", compute="bf16"), possible) == possible[2]
    assert candidate_of(EngineRecipe(model="x", runtime="onnxruntime", precision="int8"), possible) == possible[3]
    with pytest.raises(EngineError, match="no graph in fp16") as caught:
        candidate_of(EngineRecipe(model="x", runtime="openvino", precision="fp16"), possible)
    assert "model quantize x --precision fp16" in caught.value.hint
    with pytest.raises(EngineError, match="no instructions for bf16"):
        candidate_of(EngineRecipe(model="x", runtime="openvino", compute="bf16"), possible[:2])
    with pytest.raises(EngineError, match="OpenVINO is not installed") as caught:
        candidate_of(EngineRecipe(model="x", runtime="openvino"), possible[:1])
    assert ".[openvino]" in caught.value.hint
