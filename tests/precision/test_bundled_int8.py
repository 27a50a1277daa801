"""The INT8 form of the bundled model: size, passports, and the same detections as FP32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import media
from tests.support.bundled_scripts import bundled_script
from vision_infer.engine.graph_facts import read_graph_facts, variants
from vision_infer.engine.store.passport import passports_beside
from vision_infer.precision.frames import FrameNeeds, Frames
from vision_infer.precision.verification.agreement import Judge
from vision_infer.precision.verification.engine_check import open_reference


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with bundled_script("nanodet-416/quantize") as module:
        yield module


GRAPHS = [media.BUNDLED, media.BUNDLED.with_name("model-256x416.onnx")]
each_size = pytest.mark.parametrize("fp32", GRAPHS, ids=lambda path: path.stem)


def int8_of(fp32: Path) -> Path:
    (found,) = variants(fp32)
    return found


def test_the_files_and_their_passports_belong_together(script: ModuleType) -> None:
    lines = script.check().splitlines()
    assert [line.partition(":")[0] for line in lines] == [int8_of(fp32).name for fp32 in GRAPHS]
    assert all("within the budget on onnxruntime-cpu-int8" in line for line in lines)
    assert sum(int8_of(fp32).stat().st_size for fp32 in GRAPHS) <= script.LARGEST


@each_size
def test_the_card_is_that_of_fp32(fp32: Path) -> None:
    facts = read_graph_facts(int8_of(fp32))
    assert facts.precision == facts.card.precision == "int8"
    assert facts.card.model_copy(update={"precision": "fp32"}) == read_graph_facts(fp32).card


@each_size
def test_the_passports_have_the_measurements(fp32: Path) -> None:
    passports = passports_beside(int8_of(fp32))
    assert {one.engine for one in passports} == {"onnxruntime-cpu-int8", "openvino-cpu-int8"}
    for passport in passports:
        (accuracy,) = passport.accuracy
        assert accuracy.judged == "proven"
        assert accuracy.frames >= 200
        assert accuracy.high <= 1.0
        assert accuracy.drift is not None
        assert abs(accuracy.drift.count) < 3
        assert passport.speed[0].fp32_ratio is not None
        assert passport.speed[0].fp32_ratio > 1


@each_size
def test_int8_detects_the_same_objects_as_fp32(fp32: Path) -> None:
    int8 = int8_of(fp32)
    with Frames([str(media.bikes())], read_graph_facts(int8).card, FrameNeeds(10, 10, 60)) as frames:
        with open_reference(fp32) as engine:
            judge = Judge(engine, frames.evaluation)
        with open_reference(int8) as engine:
            agreement = judge.compare(engine)
    assert agreement.figures["found_again"] >= 98
    assert agreement.figures["mean_iou"] >= 0.93
    assert abs(agreement.figures["score_change"]) < 0.03
    assert abs(agreement.figures["count_change"]) < 10  # a few frames are not more precise; the passports are
