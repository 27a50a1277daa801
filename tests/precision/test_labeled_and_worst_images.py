"""Accuracy against annotations; images of the frames that differ most."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from tests.precision.test_agreement import CARD, COUNT, judge, outputs
from tests.precision.tiny import ScriptedEngine
from tests.support.assets import BOXES, IMAGES, photographs
from vision_infer.core.errors import ModelError, OutputError, StreamError, UsageError
from vision_infer.precision import worst_images as module
from vision_infer.precision.accuracy import read_annotations
from vision_infer.precision.labeled import LabeledJudge, labeled_judge
from vision_infer.precision.verification.engine_check import EngineVerification, open_reference
from vision_infer.precision.worst_images import write_worst


def test_the_map_is_that_of_coco(bundled: Path) -> None:
    pytest.importorskip("pycocotools")
    folder = photographs().parent
    compare, data = labeled_judge(folder / "instances.json", folder / "images")(bundled)
    assert data == f"instances.json ({IMAGES} annotated images)"
    with open_reference(bundled) as engine:
        agreement = compare(engine)
    assert agreement.figures["map_fp32"] == pytest.approx(61.4, abs=0.5)  # tests/precision/test_accuracy.py has pycocotools' own
    assert agreement.lost.value == agreement.lost.low == agreement.lost.high == 0
    assert (agreement.frames, agreement.objects, agreement.conclusive) == (IMAGES, BOXES, False)


def test_annotations_that_do_not_fit_the_model(bundled: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    folder = photographs().parent
    with pytest.raises(UsageError, match="cannot be read"):
        labeled_judge(tmp_path / "none.json", folder)
    truth = read_annotations(folder / "instances.json")
    with open_reference(bundled) as engine, pytest.raises(StreamError, match="no such file"):
        LabeledJudge(engine, truth, tmp_path)
    classifier = CARD.model_copy(update={"task": "classify"})
    with pytest.raises(ModelError, match="the task is 'classify'"):
        LabeledJudge(ScriptedEngine(classifier, []), truth, folder)


def drawn(folder: Path | None, overwrite: bool = False) -> tuple[str, ...]:
    fp32 = judge()
    agreement = fp32.compare(ScriptedEngine(CARD, outputs(lost=5)))
    return write_worst(
        folder, fp32, Path("model.onnx"), cast(EngineVerification, SimpleNamespace(agreement=agreement)), overwrite
    )


def test_images_of_the_frames_that_differ_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other: dict[str, Any] = outputs(lost=5)[0]
    monkeypatch.setattr(module, "open_reference", lambda _: ScriptedEngine(CARD, [other]))
    paths = drawn(tmp_path / "worst")
    assert len(paths) == 6
    image = cv2.imread(paths[0])
    assert image is not None
    height, width = image.shape[:2]
    assert width == 2 * 64 + 4
    assert height > 64
    assert np.ptp(image) > 100
    with pytest.raises(OutputError, match="already exists"):
        drawn(tmp_path / "worst")
    assert drawn(tmp_path / "worst", overwrite=True) == paths
    assert drawn(None) == ()
    assert len(list((tmp_path / "worst").iterdir())) == 6 < COUNT
