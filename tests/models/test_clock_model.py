"""The clock model reads the time in an image, or none; in an engine, and in a complete pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.bundled_scripts import bundled_script
from tests.support.media import BUNDLED, bikes, decoded
from vision_infer import Detector, Pipeline
from vision_infer.core.geometry import Size, letterbox
from vision_infer.core.image import Image
from vision_infer.core.time_code import COLUMNS, MODULUS, ROWS, column_edges, row_edges
from vision_infer.engine.runtime import EngineSettings
from vision_infer.engine.runtimes.onnxruntime import OnnxRuntimeEngine
from vision_infer.model.graph import read_card
from vision_infer.stream.image import ArrayImage, VideoImage
from vision_infer.stream.time_code_reader import draw, read

pytest.importorskip("onnxruntime")

with bundled_script("clock/convert") as script:
    build_clock_model, clock_card, convert = script.build_clock_model, script.clock_card, script.main

CLOCK = BUNDLED.parents[1] / "clock" / "model.onnx"
SIZES = [Size(640, 360), Size(1280, 720), Size(768, 432), Size(320, 180), Size(160, 90)]
VALUES = [0, 1, 0x555555, 0xAAAAAA, 1 << 23, MODULUS - 1]
moments = st.integers(0, MODULUS - 1)


def infer(engine: OnnxRuntimeEngine, pictures: list[Image]) -> list[int | None]:
    """Return the time in each image, run as one batch."""
    loan = engine.lend(len(pictures))
    for slot, image in zip(loan.slots, pictures, strict=True):
        image.write_into(slot, letterbox(image.size, engine.input_size, engine.card.fit, engine.card.fill))
    ticket = engine.submit(loan)
    outputs = {name: values.copy() for name, values in engine.collect(ticket).outputs.items()}
    assert outputs["boxes"].shape == (len(pictures), 300, 4)
    assert not outputs["scores"][:, 1:].any()
    found: list[int | None] = []
    for scores, class_ids, boxes in zip(outputs["scores"], outputs["class_ids"], outputs["boxes"], strict=True):
        assert scores[0] in (0, 1)
        assert boxes.any() == scores.any()
        found.append(int(class_ids[0]) if scores[0] else None)
    return found


@pytest.fixture(scope="module")
def engine() -> Iterator[OnnxRuntimeEngine]:
    with OnnxRuntimeEngine(CLOCK, EngineSettings(batch=8)) as opened:
        yield opened


def noise(size: Size, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)


def coded(size: Size, moment: int) -> NDArray[np.uint8]:
    image = noise(size)
    draw(image, moment)
    return image


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_time_is_read_from_images_of_any_size(engine: OnnxRuntimeEngine, size: Size) -> None:
    assert infer(engine, [ArrayImage(coded(size, value)) for value in VALUES]) == VALUES


@given(st.lists(moments, min_size=1, max_size=8), st.sampled_from(SIZES))
@settings(max_examples=40)
def test_any_time_is_read_in_any_batch(engine: OnnxRuntimeEngine, values: list[int], size: Size) -> None:
    assert infer(engine, [ArrayImage(coded(size, value)) for value in values]) == values


@given(moments, st.integers(0, ROWS * COLUMNS - 1), st.integers(0, 255))
@settings(max_examples=60)
def test_a_changed_cell_gives_the_same_result_as_reading_the_array(
    engine: OnnxRuntimeEngine, moment: int, cell: int, level: int
) -> None:
    image = coded(engine.input_size, moment)
    columns, rows = column_edges(engine.input_size.width), row_edges(engine.input_size.height)
    row, column = divmod(cell, COLUMNS)
    image[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = level
    (found,) = infer(engine, [ArrayImage(image)])
    assert found == read(image)
    assert found in (None, moment)


def test_images_without_a_code_give_no_detection(engine: OnnxRuntimeEngine) -> None:
    size = Size(640, 360)
    flat = [ArrayImage(np.full((size.height, size.width, 3), level, np.uint8)) for level in (0, 90, 255)]
    assert infer(engine, [*flat, ArrayImage(noise(size)), ArrayImage(255 - coded(size, 12345))]) == [None] * 5
    upside_down = [
        ArrayImage(turned) for turned in (coded(size, 77)[::-1], coded(size, 77)[:, ::-1], coded(size, 77)[::-1, ::-1])
    ]
    assert infer(engine, [*upside_down]) == [None] * 3


def test_real_images_give_no_detection(engine: OnnxRuntimeEngine) -> None:
    frames = decoded(bikes())[::40]
    assert infer(engine, [VideoImage(frame) for frame in frames]) == [None] * len(frames)


@pytest.mark.parametrize("size", [Size(160, 90), Size(416, 416), Size(640, 384)], ids=str)
def test_additional_convolutions_do_not_change_the_result(tmp_path: Path, size: Size) -> None:
    path = tmp_path / "model.onnx"
    model = build_clock_model("clock-slow", size, burn=3)
    path.write_bytes(model.SerializeToString())
    assert read_card(model, "clock-slow") == clock_card("clock-slow", size)
    assert [node.op_type for node in model.graph.node].count("Conv") == 4
    with OnnxRuntimeEngine(path, EngineSettings(batch=8)) as slow:
        black = ArrayImage(np.zeros((360, 640, 3), np.uint8))
        pictures = [ArrayImage(coded(Size(640, 360), value)) for value in VALUES]
        assert infer(slow, [*pictures, black]) == [*VALUES, None]


def test_the_bundled_file_has_the_nodes_of_a_new_build() -> None:
    bundled = onnx.load(CLOCK)
    built = build_clock_model()
    assert [node.op_type for node in bundled.graph.node] == [node.op_type for node in built.graph.node]
    assert read_card(bundled, "clock") == clock_card()


def test_a_small_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 160x90, got 100x90"):
        build_clock_model(size=Size(100, 90))


def write_clip(path: Path, size: Size, values: list[int], codec: str = "libx264") -> Path:
    """Write a strongly compressed clip of noise with a time code in each frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options={"preset": "ultrafast", "crf": "38"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
        for value in values:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coded(size, value), "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_the_time_is_read_from_each_frame_of_a_compressed_clip(tmp_path: Path, size: Size) -> None:
    values = [(MODULUS - 400 + 40 * number) % MODULUS for number in range(20)]
    clip = write_clip(tmp_path / "clock.mp4", size, values)
    results = list(Pipeline(Detector("clock", device="cpu")).run(clip))
    assert [result.detections.class_ids.tolist() for result in results] == [[value] for value in values]
    assert {tuple(result.detections.labels) for result in results} == {(str(value),) for value in values}
    unit = size.width / 20, size.height / 12
    for result in results:
        box = np.array([unit[0], unit[1], 19 * unit[0], 3 * unit[1]])
        assert np.abs(result.detections.boxes[0] - box).max() <= max(unit) / 10


def test_the_script_builds_the_bundled_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(["--check"])
    convert(["--out", str(tmp_path / "slow.onnx"), "--burn", "2"])
    assert capsys.readouterr().out.startswith("model.onnx: byte-identical\nslow.onnx: ")
    with pytest.raises(SystemExit, match=r"slow\.onnx differs from what this script builds"):
        convert(["--check", "--out", str(tmp_path / "slow.onnx")])
