"""Frames of a running lane for a child process: at most 128, not too close together, with their layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.graphs import tiny_graph
from tests.support.hand_clock import HandClock
from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.pipeline.lanes.samples import MAX_SAMPLES, SAMPLE_EVERY_S, SampledEngine, count_samples, read_samples

WIDE = Size(64, 48)


@pytest.fixture
def engine(tmp_path: Path, card: ModelCard) -> Engine:
    pytest.importorskip("onnxruntime")
    return open_engine(tiny_graph(tmp_path / "model.onnx", card), EngineRequest("onnxruntime", "cpu", workers=1))


def infer(engine: SampledEngine, value: int, size: Size | None = WIDE) -> float:
    loan = engine.lend(1)
    loan.slots[0].pixels[:] = value
    card = engine.card
    loan.slots[0].layout = None if size is None else letterbox(size, card.input_size, card.fit, card.fill)
    return float(engine.collect(engine.submit(loan)).outputs["scores"][0, 0])


def test_frames_are_kept_with_their_layouts(engine: Engine, tmp_path: Path) -> None:
    clock = HandClock()
    with SampledEngine(engine, tmp_path, clock) as sampled:
        size = sampled.input_size
        assert infer(sampled, 51) == pytest.approx(0.2)
        infer(sampled, 60)  # too early
        clock.move(SAMPLE_EVERY_S)
        infer(sampled, 70, None)  # an image of the warm-up: without a layout
        infer(sampled, 80, Size(20, 90))
        pixels, layouts = read_samples(sampled.file, size)
        assert [int(image[0, 0, 0]) for image in pixels] == [51, 80]
        assert [layout.source for layout in layouts] == [Size(64, 48), Size(20, 90)]
        card = sampled.card
        assert layouts[1] == letterbox(Size(20, 90), card.input_size, card.fit, card.fill)
        assert all(np.ptp(image) == 0 for image in pixels)
        assert not list(tmp_path.glob("tmp*")), "the file has no name"


def test_no_frame_is_kept_after_the_file_is_closed(engine: Engine, tmp_path: Path) -> None:
    with SampledEngine(engine, tmp_path, HandClock()) as sampled:
        sampled.file.close()
        assert infer(sampled, 51) == pytest.approx(0.2)


def test_enough_frames_are_enough(engine: Engine, tmp_path: Path) -> None:
    clock = HandClock()
    with SampledEngine(engine, tmp_path, clock) as sampled:
        for _ in range(MAX_SAMPLES + 5):
            infer(sampled, 100)
            clock.move(SAMPLE_EVERY_S)
        assert count_samples(sampled.file, sampled.input_size) == MAX_SAMPLES
