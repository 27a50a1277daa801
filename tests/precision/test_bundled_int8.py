"""The INT8 form of the bundled model: size, passports, and the same detections as FP32."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import media
from tests.support.bundled_scripts import bundled_script
from vision_infer.config.run import run_settings
from vision_infer.engine.device import cpu_facts
from vision_infer.engine.graph_facts import read_graph_facts, variants
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.by_passport import BUDGET_POINTS
from vision_infer.engine.store.passport import passports_beside
from vision_infer.precision.accuracy import evaluate
from vision_infer.precision.frames import FrameNeeds, Frames
from vision_infer.precision.quantization.quantize import VNNI
from vision_infer.precision.verification.agreement import MIN_FRAMES_TO_JUDGE, Agreement, Judge
from vision_infer.precision.verification.engine_check import open_reference


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with bundled_script("nanodet-416/quantize") as module:
        yield module


GRAPHS = [media.BUNDLED, media.BUNDLED.with_name("model-256x416.onnx")]
each_size = pytest.mark.parametrize("fp32", GRAPHS, ids=lambda path: path.stem)


def int8_of(fp32: Path) -> Path:
    (found,) = [path for path in variants(fp32) if path.name.endswith(".int8.onnx")]
    return found


def test_the_files_and_their_passports_belong_together(script: ModuleType) -> None:
    lines = script.check().splitlines()
    found = {line.partition(":")[0]: line for line in lines}
    assert set(found) == {path.name for fp32 in GRAPHS for path in variants(fp32)}
    assert len(found) == 6
    assert all(f"within the budget on onnxruntime-cpu-{'fp16' if 'fp16' in name else 'int8'}" in found[name] for name in found)
    assert sum(path.stat().st_size for fp32 in GRAPHS for path in variants(fp32)) <= script.LARGEST


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
        assert accuracy.frames >= MIN_FRAMES_TO_JUDGE
        assert accuracy.high <= 1.0
        assert accuracy.drift is not None
        assert abs(accuracy.drift.count) < 3
        assert passport.speed[0].fp32_ratio is not None
        assert passport.speed[0].fp32_ratio > 1


def held_out_rows() -> dict[str, list[list[float]]]:
    """Return the figures of the README's table of held-out data: the numbers of each cell, by graph and runtime."""
    text = (media.BUNDLED.parent / "README.md").read_text(encoding="utf-8").replace("−", "-")
    table = text.partition("| Held out |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    return {name: [[float(number) for number in re.findall(r"[-+]?\d+\.\d+", cell)] for cell in rest] for name, *rest in cells}


def compare_int8(fp32: Path, runtime: str, source: Path, needs: FrameNeeds) -> Agreement:
    int8 = int8_of(fp32)
    with Frames([str(source)], read_graph_facts(int8).card, needs) as frames, open_reference(fp32) as reference:
        judge = Judge(reference, frames.evaluation)
        with open_engine(int8, EngineRequest(runtime, "cpu", workers=1, threads=2, compute="f32")) as engine:
            return judge.compare(engine)


def only_the_count(agreement: Agreement) -> bool:
    """Return whether the product's own rule objects to nothing but the number of detections."""
    assert agreement.drift is not None
    steady = replace(agreement, drift=agreement.drift.model_copy(update={"count": 0.0}))
    return steady.shortfall(BUDGET_POINTS) == ""


@pytest.mark.slow
@each_size
def test_int8_detects_the_same_objects_as_fp32(fp32: Path) -> None:
    agreement = compare_int8(fp32, "onnxruntime", media.bikes(), FrameNeeds(10, 10, 60))
    assert agreement.drift is not None
    assert only_the_count(agreement)
    assert abs(agreement.drift.count) <= 5  # 60 frames are not more precise


@pytest.mark.slow  # 1,000 inferences each
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@each_size
def test_held_out_frames_are_judged_by_the_rule_of_the_product(fp32: Path, runtime: str) -> None:
    """The clip and the photographs are in no set of the INT8 graphs. The README states where the count is beyond the limit."""
    pytest.importorskip(runtime)
    size = "416 × 416" if fp32 == media.BUNDLED else "256 × 416"
    _, lost, on_clip, on_photographs = held_out_rows()[f"{size}, {runtime}"]
    clip = media.asset("videos/one-by-one-person-detection.mp4")
    photographs = media.asset("images/coco_val_ccby/images")
    for source, published in ((clip, on_clip), (photographs, on_photographs)):
        agreement = compare_int8(fp32, runtime, source, FrameNeeds(1, 1, 250))
        assert agreement.drift is not None
        assert only_the_count(agreement)
        assert agreement.drift.count == pytest.approx(published[0], abs=2.5), "another CPU differs less"
        if source == clip:
            assert agreement.conclusive
            assert agreement.lost.value == pytest.approx(lost[0], abs=0.3)


@pytest.mark.slow  # 240 inferences
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@each_size
def test_the_accuracy_on_held_out_annotations(fp32: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    pytest.importorskip("pycocotools")
    photographs = media.asset("images/coco_val_ccby")
    size = "416 × 416" if fp32 == media.BUNDLED else "256 × 416"
    published, *_ = held_out_rows()[f"{size}, {runtime}"]
    found = []
    for path, precision in ((int8_of(fp32), "int8"), (fp32, "fp32")):
        settings = run_settings(sources=("-",), model=str(path), device="cpu", engine=f"{runtime}-cpu-{precision}")
        found.append(evaluate(settings, photographs / "instances.json", photographs / "images").figures["AP"])
    # The README's figures are of a processor with VNNI. Without it, sums of products saturate.
    assert found == pytest.approx(published, abs=1.0 if VNNI.isdisjoint(cpu_facts()[1]) else 0.4)
    assert found[1] - found[0] <= BUDGET_POINTS
