"""The bundled model finds the same on a GPU and on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.matching import Outputs, assert_same
from tests.support.gpu import needs_cuda
from tests.support.media import bikes, decoded
from vision_infer.core.geometry import letterbox
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.stream.image import VideoImage

ort = pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.gpu,
    needs_cuda,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in ort.get_available_providers(), reason="needs an NVIDIA GPU: no CUDAExecutionProvider"
    ),
]


def infer(engine: Engine, pictures: list[VideoImage]) -> Outputs:
    loan = engine.lend(len(pictures))
    for slot, image in zip(loan.slots, pictures, strict=True):
        image.write_into(slot, letterbox(image.size, engine.input_size, engine.card.fit, engine.card.fill))
    return engine.collect(engine.submit(loan)).outputs


def test_cuda_and_the_cpu_find_the_same(bundled: Path) -> None:
    pictures = [VideoImage(frame) for frame in decoded(bikes())[::32]]
    with open_engine(bundled, EngineRequest(device="cpu", workers=1)) as engine:
        expected = [infer(engine, [image]) for image in pictures]
    with open_engine(bundled, EngineRequest(device="cuda:0", batch=4)) as engine:
        assert engine.name == "onnxruntime-cuda-fp32"
        assert engine.batch_sizes == (1, 2, 4)
        assert engine.in_flight == 2
        engine.warm_up()
        for count in engine.batch_sizes:
            found = infer(engine, pictures[:count])
            assert sum(assert_same(found, place, expected[place], 0, score=0.02, pixels=2.0) for place in range(count))


def test_auto_chooses_the_gpu(bundled: Path) -> None:
    with open_engine(bundled, EngineRequest()) as engine:
        assert engine.name == "onnxruntime-cuda-fp32"
        assert engine.batch_sizes[-1] == 8
