"""Autotuning with the user's frames: FP32 runs them once, and bfloat16 is used only within the budget."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.assets import photographs
from tests.support.media import bikes
from vision_infer.core.errors import StreamError
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.candidates import candidates
from vision_infer.engine.selection.lookup import find_choice
from vision_infer.precision import autotune_with_accuracy as module
from vision_infer.precision.autotune_with_accuracy import choose_engine
from vision_infer.precision.frames import FrameNeeds
from vision_infer.precision.verification.agreement import Agreement, Judge
from vision_infer.precision.verification.drift import BootstrapInterval

pytest.importorskip("openvino")


@pytest.fixture
def alone(bundled: Path, tmp_path: Path) -> Path:
    """The bundled model without its variants and their passports."""
    return Path(shutil.copy(bundled, tmp_path / "alone.onnx"))


@pytest.mark.slow  # 10 s
def test_every_engine_is_compared_on_the_frames(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judges: list[Judge] = []
    kept: list[Agreement] = []

    class Counted(Judge):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            judges.append(self)

        def compare(self, engine: Engine) -> Agreement:
            kept.append(super().compare(engine))
            return kept[-1]

    monkeypatch.setattr(module, "Judge", Counted)
    monkeypatch.setattr(module, "NEEDS", FrameNeeds(calibration=1, search=1, evaluation=30))
    said: list[str] = []
    request = EngineRequest(device="cpu", workers=1, engine_dir=tmp_path / "engines")
    choice = choose_engine(alone, request, [str(bikes())], seconds=0.5, on_message=said.append)
    tried = [one for one in candidates(alone)[1:] if one.facts.precision != "int8"]
    assert len(judges) == 1  # FP32 runs them once
    assert len(kept) == len(tried)
    assert kept[0].lost.value == pytest.approx(0, abs=0.1)  # OpenVINO in float32
    assert all(f"trying {one.engine}" in said for one in tried)
    assert choice.candidate in candidates(alone)
    assert find_choice(alone, tmp_path / "engines") == choice


def test_without_frames_only_float32_is_tried(alone: Path) -> None:
    said: list[str] = []
    choice = choose_engine(alone, EngineRequest(device="cpu", workers=1), seconds=0.2, on_message=said.append)
    assert choice.candidate.lossless
    for one in candidates(alone)[1:]:
        assert (f"trying {one.engine}" in said) == one.lossless
        assert one.lossless or f"{one.engine} is left out: its loss of accuracy has to be measured on this CPU" in "\n".join(said)


def test_too_few_frames(alone: Path) -> None:
    image = next(photographs().glob("*.jpg"))
    with pytest.raises(StreamError, match="at least"):
        choose_engine(alone, EngineRequest(device="cpu"), [str(image)])


@pytest.mark.parametrize(("proven", "judged"), [(True, "proven"), (False, "not proven")])
def test_the_figures_in_a_passport(proven: bool, judged: str) -> None:
    kept = Agreement(BootstrapInterval(0.5, 0.1, 0.9), "points", 40, 100, proven, {}).measured("my.mp4")
    assert (kept.value, kept.low, kept.high, kept.frames, kept.data, kept.judged) == (0.5, 0.1, 0.9, 40, "my.mp4", judged)
