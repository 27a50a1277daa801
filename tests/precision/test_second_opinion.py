"""The frames of a dataset on which a second engine differs most, with the bundled model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.media import excerpt
from vision_infer.config.run import run_settings
from vision_infer.config.validation_errors import SettingsError
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace
from vision_infer.pipeline.runs.api import Detector
from vision_infer.precision.second_opinion import SecondOpinion
from vision_infer.stream.files.images import read_image
from vision_infer.stream.image import ArrayImage

pytest.importorskip("onnxruntime")
FP32, INT8 = "onnxruntime-cpu-fp32", "onnxruntime-cpu-int8"


def test_a_dataset_has_the_frames_on_which_the_engines_differ(tmp_path: Path) -> None:
    clip = excerpt(20, 60, 640, 272)
    words = [sys.executable, "-m", "vision_infer", "run", str(clip), "--engine", FP32, "--every", "10", "--out", f"{tmp_path}/"]
    choice = ["--formats", "yolo", "--quiet", "--sample", "disagree", "--sample-engine", INT8, "--samples", "2"]
    subprocess.run([*words, *choice], check=True, timeout=120)
    images = sorted((tmp_path / "yolo").rglob("*.jpg"))
    assert 1 <= len(images) <= 2
    pixels = read_image(str(images[0]))
    found = Detector(engine=FP32)(pixels)
    opinion = SecondOpinion(run_settings(sources=("-",), engine=FP32, sample="disagree", sample_engine=INT8))
    size, image = Size(640, 272), ArrayImage(pixels)

    def difference(detections: Detections) -> tuple[float, float]:
        latency = Trace().latency()
        return opinion(Result("clip", 0, 0.0, size, "nanodet-416", FP32, detections, latency), image)

    alone, inside = difference(found)
    assert alone + inside > 0
    assert difference(Detections.empty(found.label_names)) == (len(opinion._detector(pixels)), 0.0)


def test_a_second_model_with_other_class_numbers_agrees_with_itself() -> None:
    opinion = SecondOpinion(run_settings(sources=("-",), engine=FP32, sample="disagree", sample_engine=FP32))
    pixels = np.zeros((64, 64, 3), np.uint8)
    found = opinion._detector(pixels)
    result = Result("clip", 0, 0.0, Size(64, 64), "nanodet-416", FP32, found, Trace().latency())
    assert opinion(result, ArrayImage(pixels)) == (0, 0.0)


@pytest.mark.parametrize("given", [{"sample": "disagree"}, {"sample": "uncertain", "sample_engine": FP32}, {"sample_model": "x"}])
def test_the_second_engine_belongs_to_the_choice(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="disagree needs sample_model or sample_engine"):
        run_settings(sources=("-",), **given)
