"""The bundled model for wide images: built from the square one, whose weights it reads, and used for wide images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from tests.support import media
from tests.support.bundled_scripts import bundled_script
from tests.support.serve_process import ServeProcess
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.external_data import external_files
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.model.catalog import model_card, model_inputs
from vision_infer.precision.frames import FrameNeeds, Frames
from vision_infer.precision.verification.agreement import Judge
from vision_infer.precision.verification.engine_check import open_reference

pytest.importorskip("onnxruntime")
SQUARE, WIDE = Size(416, 416), Size(416, 256)


@pytest.fixture(scope="module")
def widen() -> Iterator[ModuleType]:
    """The script models/nanodet-416/widen.py as a module."""
    with bundled_script("nanodet-416/widen") as module:
        yield module


def test_the_wide_file_is_built_from_the_square_one(widen: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    widen.main(["--check"])
    assert capsys.readouterr().out == "model-256x416.onnx: byte-identical\n"
    wide = media.BUNDLED.with_name("model-256x416.onnx")
    assert external_files(wide) == (media.BUNDLED.resolve(),)
    assert wide.stat().st_size <= widen.LARGEST


def test_the_extracted_raw_model_gives_the_same_results(widen: ModuleType, tmp_path: Path) -> None:
    """Converted again at its own size, it gives the same results."""
    again = tmp_path / "again.onnx"
    onnx.save(widen.deploy(media.BUNDLED.read_bytes(), SQUARE), again)
    pixels = np.random.default_rng(0).integers(0, 256, (416, 416, 3), np.uint8)
    given = []
    for path in (media.BUNDLED, again):
        with open_engine(path, EngineRequest("onnxruntime", "cpu", workers=1)) as engine:
            loan = engine.lend(1)
            loan.slots[0].pixels[:] = pixels
            given.append(engine.collect(engine.submit(loan)).outputs)
    for name, values in given[0].items():
        np.testing.assert_allclose(given[1][name], values, atol=1e-4)


def test_both_sizes_have_both_precisions() -> None:
    graphs = model_inputs("nanodet-416", None, {})
    assert list(graphs) == [SQUARE, WIDE]
    card = model_card("nanodet-416", None, {})
    for size, path in graphs.items():
        its = card.input.model_copy(update={"width": size.width, "height": size.height})
        for graph, precision in ((path, "fp32"), (path.with_name(f"{path.stem}.int8.onnx"), "int8")):
            with open_reference(graph) as engine:
                assert engine.card == card.model_copy(update={"input": its, "precision": precision})
                engine.warm_up()


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (Size(1920, 1080), WIDE),
        (Size(1280, 720), WIDE),
        (Size(2560, 1080), WIDE),
        (Size(640, 272), WIDE),
        (Size(640, 480), SQUARE),
        (Size(1080, 1920), SQUARE),
        (Size(500, 500), SQUARE),
    ],
)
def test_wide_images_use_the_wide_graph(image: Size, size: Size) -> None:
    assert best_input(image, (SQUARE, WIDE)) == size


def test_the_wide_model_detects_the_same_objects_as_the_square_one() -> None:
    """Images have the same scale in both; only the padding differs."""
    counts = {}
    for size, path in model_inputs("nanodet-416", None, {}).items():
        with open_reference(path) as engine, Frames([str(media.bikes())], engine.card, FrameNeeds(5, 5, 20)) as frames:
            judge = Judge(engine, frames.evaluation)
            counts[size] = sum(len(judge.detections(engine, number)[0]) for number in range(len(frames.evaluation)))
    assert counts[SQUARE] > 25
    assert abs(counts[WIDE] / counts[SQUARE] - 1) < 0.15


@pytest.mark.slow
def test_the_service_uses_the_wide_graph_for_wide_streams(tmp_path: Path) -> None:
    with ServeProcess(tmp_path, "streams:\n  wide: {url: 'test://?size=640x360&fps=5'}\n") as service:

        def frames() -> dict[str, int]:
            engines = json.loads(service.ask("GET", "/api/v1/engines")[1])
            return {engine["name"]: engine["frames"] for engine in engines}

        service.wait(lambda: frames().get("nanodet-416@416x256", 0) > 5, "wide pictures are inferred")
        assert frames()["nanodet-416"] == 0
        status, answer = service.ask("PUT", "/api/v1/streams/tall", {"url": "test://?size=360x480&fps=5"})
        assert status == 201, answer
        service.wait(lambda: frames()["nanodet-416"] > 3, "others go through the square input")
