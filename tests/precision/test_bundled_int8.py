"""The INT8 form of the bundled network: it is small, its passports are its own, and it finds what FP32 finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests import media
from vision_infer.engine.candidates import variants
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.passport import passports_beside
from vision_infer.precision.agreement import Judge
from vision_infer.precision.frames import FrameNeeds, Frames
from vision_infer.precision.proof import open_reference


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quantize_nanodet", media.BUNDLED.with_name("quantize.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def graph() -> Path:
    (found,) = variants(media.BUNDLED)
    return found


def test_the_file_and_its_passports_belong_together(script: ModuleType, graph: Path) -> None:
    assert "within the budget on onnxruntime-cpu-int8" in script.check()
    assert graph.stat().st_size <= script.LARGEST
    facts = read_graph_facts(graph)
    assert facts.precision == facts.card.precision == "int8"
    assert facts.card.model_copy(update={"precision": "fp32"}) == read_graph_facts(media.BUNDLED).card


def test_the_passports_say_what_was_measured(graph: Path) -> None:
    for passport in passports_beside(graph):
        (accuracy,) = passport.accuracy
        assert (accuracy.judged, accuracy.frames) == ("proven", 250)
        assert accuracy.high <= 1.0
        assert passport.speed[0].fp32_ratio is not None
        assert passport.speed[0].fp32_ratio > 1


def test_it_finds_what_fp32_finds(graph: Path) -> None:
    with Frames([str(media.bikes())], read_graph_facts(graph).card, FrameNeeds(10, 10, 40)) as frames:
        with open_reference(media.BUNDLED) as fp32:
            judge = Judge(fp32, frames.evaluation)
        with open_reference(graph) as int8:
            agreement = judge.compare(int8)
    assert agreement.figures["found_again"] >= 98
    assert agreement.figures["mean_iou"] >= 0.93
    assert abs(agreement.figures["score_change"]) < 0.06
