"""Every kind of network in every precision is taken by TensorRT-RTX, without a GPU, and computes in what its precision says."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.engine.tensorrt.networks import NAMES, OPTIONS, PRECISIONS, SM_89, Name, Precision, api, compiled, graph
from vision_infer.engine.engine import OUTPUT_NAMES
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.tensorrt.compile import compile_plan
from vision_infer.engine.tensorrt.network import inspect_network, parse_network
from vision_infer.engine.tensorrt.plan_file import parse_plan
from vision_infer.model.export.families import family_names, read_family
from vision_infer.model.export.family import Family

ALL = [(name, precision) for name in NAMES for precision in PRECISIONS]
KEPT = {"nanodet": 3, "yolox": 9, "detr": 0, "detector": 12, "classifier": 0, "embedder": 0}
"""convolutions that INT8 leaves alone: those whose results the head reads"""


@pytest.mark.parametrize(("name", "precision"), ALL)
def test_it_is_built(name: Name, precision: Precision) -> None:
    plan = compiled(name, precision)[0].plan
    facts = read_graph_facts(graph(name, precision))
    assert (plan.card, plan.precision) == (facts.card, precision)
    assert plan.compute_capabilities == ("sm_89",)
    assert plan.runtime_version == api().version
    assert plan.batch_sizes == OPTIONS.batch_sizes
    assert set(plan.outputs) == set(OUTPUT_NAMES[facts.card.task])
    assert plan.engine == f"tensorrt-rtx-cuda-{precision}"
    # Weights are the most of a plan, and it is no smaller than their quarter.
    assert len(plan.plan) > graph(name, "fp32").stat().st_size / 8
    assert parse_plan(plan.to_bytes(), "plan") == plan


@pytest.mark.parametrize(("name", "precision"), ALL)
def test_it_computes_in_what_its_precision_says(name: Name, precision: Precision) -> None:
    layers = compiled(name, precision)[0].facts
    convolutions = [one.precision for one in layers.of_kind("CONVOLUTION")]
    quantized, dequantized = layers.of_kind("QUANTIZE"), layers.of_kind("DEQUANTIZE")
    assert convolutions
    if precision == "int8":
        kept = KEPT[name]
        assert (convolutions.count("int8"), convolutions.count("fp32")) == (len(convolutions) - kept, kept)
        assert {one.outputs for one in quantized} == {("int8",)}
        # Each stands before a convolution, for its activations or its weights; others may read the same tensor.
        assert {one.inputs[0] for one in dequantized} == {"int8"}
        assert all("CONVOLUTION" in one.readers for one in dequantized)
        assert all(one.readers == ("DEQUANTIZE",) for one in quantized)
    else:
        assert set(convolutions) == {precision}
        assert not quantized
        assert not dequantized
        assert {one.precision for one in layers.of_kind("MATRIX_MULTIPLY")} <= {precision}


@pytest.mark.parametrize(("name", "precision"), ALL)
def test_progress_rises_and_ends(name: Name, precision: Precision) -> None:
    reports = compiled(name, precision)[1]
    fractions = [one.fraction for one in reports]
    assert len(reports) > 50
    assert all(0 <= before <= after <= 1 for before, after in pairwise(fractions))
    assert all(before.elapsed_s <= after.elapsed_s for before, after in pairwise(reports))
    assert fractions[0] < 0.1
    assert (reports[-1].phase, fractions[-1], reports[-1].left_s) == ("done", 1.0, 0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries that export
@pytest.mark.parametrize("name", [name for name in family_names() if isinstance(read_family(name), Family)])
def test_every_family_that_can_be_exported_is_taken(name: str) -> None:
    family = read_family(name)
    assert isinstance(family, Family)
    pytest.importorskip(family.library, reason=f"{family.library} is not here")
    for precision in PRECISIONS:
        made = compile_plan(graph(name, precision), api(), SM_89, OPTIONS)
        told = made.facts.precisions()
        assert precision in " ".join(told.values()), told


def test_decoding_and_selection_stay_in_float32() -> None:
    for precision in ("fp16", "int8"):
        facts = inspect_network(
            parse_network(api(), graph("nanodet", precision), read_graph_facts(graph("nanodet", precision)).card)
        )
        assert {one.outputs[0] for one in facts.of_kind("TOPK")} == {"float32"}
        assert {one.outputs[0] for one in facts.of_kind("SOFTMAX")} <= {"float32"}
