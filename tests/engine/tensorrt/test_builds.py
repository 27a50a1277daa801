"""TensorRT-RTX builds every kind of model in every precision without a GPU, and the plan computes in that precision."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.engine.tensorrt.networks import (
    NAMES,
    OPTIONS,
    PRECISIONS,
    SM_89,
    Name,
    Precision,
    api,
    compiled,
    graph,
    layers,
    simplified,
)
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.tensorrt.compile import _configure, compile_plan
from vision_infer.engine.tensorrt.network import parse_network
from vision_infer.engine.tensorrt.plan_file import parse_plan
from vision_infer.model.export.families import family_names, read_family
from vision_infer.model.export.family import Family
from vision_infer.precision.quantization.int8 import calibrated_tensors

ALL = [(name, precision) for name in NAMES for precision in PRECISIONS]
FLOAT_CONVOLUTIONS = {"nanodet": 3, "yolox": 9, "detr": 0, "detector": 12, "classifier": 0, "embedder": 0}
"""The number of convolutions that INT8 leaves in float32: those whose results the head reads."""
KINDS = ("TOPK", "SOFTMAX")


@pytest.mark.parametrize(("name", "precision"), ALL)
def test_a_plan_is_built(name: Name, precision: Precision) -> None:
    plan = compiled(name, precision)[0].plan
    facts = read_graph_facts(graph(name, precision))
    assert (plan.card, plan.precision) == (facts.card, precision)
    assert plan.compute_capabilities == ("sm_89",)
    assert plan.runtime_version == api().version
    assert plan.batch_sizes == OPTIONS.batch_sizes
    assert set(plan.outputs) == set(facts.card.outputs)
    assert plan.engine == f"tensorrt-rtx-cuda-{precision}"
    # Weights make up most of a plan; in INT8 they have a quarter of their size.
    assert len(plan.plan) > graph(name, "fp32").stat().st_size / 8
    assert parse_plan(plan.to_bytes(), "plan") == plan


@pytest.mark.parametrize(("timed", "tf32", "profiles"), [(False, False, 1), (True, True, 2)])
def test_every_plan_can_be_recorded(timed: bool, tf32: bool, profiles: int) -> None:
    """TensorRT-RTX refuses to build a plan with this flag that would allocate memory or wait while it runs."""
    trt, path = replace(api(), has_timings=timed), graph("embedder", "fp32")
    parsed = parse_network(trt, path, read_graph_facts(path).card)
    config = _configure(trt, parsed, SM_89, replace(OPTIONS, tf32=tf32))
    assert config.get_flag(trt.module.BuilderFlag.REQUIRE_USER_ALLOCATION)
    assert config.get_flag(trt.module.BuilderFlag.TF32) == tf32
    assert (config.max_aux_streams, config.num_optimization_profiles) == (0, profiles)
    assert parsed.builder.build_serialized_network(parsed.network, config) is not None


@pytest.mark.parametrize(("name", "precision"), ALL)
def test_a_plan_computes_in_its_precision(name: Name, precision: Precision) -> None:
    counts = {kind: _counts(text) for kind, text in compiled(name, precision)[0].layers.items()}
    convolutions, found = counts["convolutions"], layers(name, precision)
    quantized = [layer for layer in found if layer.kind == "QUANTIZE"]
    dequantized = [layer for layer in found if layer.kind == "DEQUANTIZE"]
    assert convolutions.total() == sum(layer.kind == "CONVOLUTION" for layer in found) > 0
    if precision == "int8":
        assert convolutions["fp32"] == FLOAT_CONVOLUTIONS[name]
        assert convolutions["int8"] == convolutions.total() - FLOAT_CONVOLUTIONS[name]
        assert {layer.outputs for layer in quantized} == {("int8",)}
        # Each is in front of a convolution, for its activations or its weights; other layers may read the same tensor.
        assert {layer.inputs[0] for layer in dequantized} == {"int8"}
        assert all("CONVOLUTION" in layer.readers for layer in dequantized)
        assert all(layer.readers == ("DEQUANTIZE",) for layer in quantized)
    else:
        assert set(convolutions) == {precision}
        assert not quantized
        assert not dequantized
        assert set(counts.get("matrix products", ())) <= {precision}


def _counts(text: str) -> Counter[str]:
    return Counter({what: int(number) for number, what in (part.split() for part in text.split(", "))})


@pytest.mark.parametrize(("name", "precision"), ALL)
def test_progress_rises_to_the_end(name: Name, precision: Precision) -> None:
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
def test_every_family_that_can_be_exported_can_be_built(name: str) -> None:
    family = read_family(name)
    assert isinstance(family, Family)
    pytest.importorskip(family.library, reason=f"{family.library} is not installed")
    # INT8 needs convolutions before the last one: a transformer has none.
    for precision in PRECISIONS if calibrated_tensors(simplified(name)) else PRECISIONS[:2]:
        made = compile_plan(graph(name, precision), api(), SM_89, OPTIONS)
        assert precision in " ".join(made.layers.values()), made.layers


def test_decoding_and_selection_stay_in_float32() -> None:
    for precision in PRECISIONS[1:]:
        outputs = {kind: {layer.outputs[0] for layer in layers("nanodet", precision) if layer.kind == kind} for kind in KINDS}
        assert outputs["TOPK"] == {"float"}
        assert outputs["SOFTMAX"] <= {"float"}
