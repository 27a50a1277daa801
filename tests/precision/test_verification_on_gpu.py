"""A converted graph is compared with FP32 in every runtime of the machine, TensorRT on its GPU included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.stand_in_gpu import StandInGpu, half_graph, stand_in_gpu
from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import passport_file
from vision_infer.precision.frames import FrameSet
from vision_infer.precision.verification import engine_check
from vision_infer.precision.verification.agreement import Judge
from vision_infer.precision.verification.engine_check import Origin, make_passport, open_reference, verify_engines

__all__ = ["stand_in_gpu"]
COUNT = 120


@pytest.fixture
def frames(card: ModelCard) -> FrameSet:
    """Return bright images, in each of which the model finds one object."""
    pixels = list(np.random.default_rng(0).integers(90, 250, (COUNT, 1, 1, 1), np.uint8) + np.zeros((32, 32, 3), np.uint8))
    layout = letterbox(Size(64, 64), card.input_size, card.fit, card.fill)
    return FrameSet(pixels, (layout,) * COUNT, tuple(map(str, range(COUNT))))


@pytest.mark.slow
def test_the_accuracy_is_measured_through_tensorrt(
    stand_in_gpu: StandInGpu, tmp_path: Path, card: ModelCard, frames: FrameSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_check, "fresh_memory", lambda *_: None)
    graph = tiny_graph(tmp_path / "model.onnx", card)
    half = half_graph(tmp_path / "model.fp16.onnx", card)
    said: list[str] = []
    with open_reference(graph) as reference:
        verified = verify_engines(half, graph, Judge(reference, frames).compare, said.append)
    (one,) = [one for one in verified if one.engine.startswith("tensorrt")]
    assert "onnxruntime-cpu-fp16" in {one.engine for one in verified}
    assert (one.engine, one.device, one.agreement.conclusive) == ("tensorrt-cuda-fp16", "cuda:0", True)
    assert not one.times_faster.by_cpu
    assert "onnxruntime-cuda-fp16: this ONNX Runtime has no CUDA support" in said
    passport = make_passport(half, one, Origin("0" * 64, "", "", "bright images", {}))
    assert (passport.runtime, passport.runtime_version) == ("tensorrt", "11.4.0")
    assert (passport.device.kind, passport.device.name) == ("cuda", "NVIDIA Stand-In")
    # `auto` takes a plan of this graph once the passport is next to it.
    folder = tmp_path / "engines"
    stand_in_gpu.keep(half, folder)
    for there, wanted in ((False, "onnxruntime-cpu-fp32"), (True, "tensorrt-cuda-fp16")):
        if there:
            passport_file(half, passport.engine).write_text(passport.to_json())
        with open_engine(graph, EngineRequest(engine_dir=folder)) as engine:
            assert engine.name == wanted
    assert EngineCache(folder).entries()
