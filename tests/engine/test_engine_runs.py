"""Each runtime: the same results in every batch and on every thread, and buffers that are always released."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.graphs import tiny_graph
from tests.engine.matching import Outputs, assert_same
from tests.engine.runtimes import RUNTIMES, open_with
from tests.support.media import bikes, decoded
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.engine import Engine, RawResults
from vision_infer.engine.runtime import EngineSettings
from vision_infer.engine.runtimes.onnxruntime import OnnxRuntimeEngine
from vision_infer.engine.runtimes.openvino import OpenVinoEngine
from vision_infer.stream.image import VideoImage

pytest.importorskip("onnxruntime")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pictures() -> list[VideoImage]:
    return [VideoImage(frame) for frame in decoded(bikes())[::40]]


def infer(engine: Engine, pictures: list[VideoImage]) -> Outputs:
    loan = engine.lend(len(pictures))
    for slot, image in zip(loan.slots, pictures, strict=True):
        image.write_into(slot, letterbox(image.size, engine.input_size, engine.card.fit, engine.card.fill))
    return engine.collect(engine.submit(loan)).outputs


@pytest.fixture(scope="module")
def singles(bundled: Path, pictures: list[VideoImage]) -> list[Outputs]:
    with OnnxRuntimeEngine(bundled, EngineSettings()) as engine:
        return [infer(engine, [image]) for image in pictures]


def test_the_clip_has_objects_to_find(singles: list[Outputs]) -> None:
    assert all((outputs["scores"][0] >= 0.3).any() for outputs in singles)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_batch_gives_the_results_of_its_images(
    runtime: str, bundled: Path, pictures: list[VideoImage], singles: list[Outputs], count: int
) -> None:
    with open_with(runtime, bundled, batch=4) as engine:
        batch = infer(engine, pictures[:count])
        again = infer(engine, pictures[count - 1 :: -1])
    assert batch["boxes"].shape == (count, 300, 4)
    for place in range(count):
        assert assert_same(batch, place, singles[place], 0)
        assert assert_same(again, count - 1 - place, singles[place], 0)


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_parallel_threads_give_the_same_as_sequential_ones(
    runtime: str, bundled: Path, pictures: list[VideoImage], singles: list[Outputs], workers: int, threads: int
) -> None:
    together = threading.Barrier(workers, timeout=60)
    with open_with(runtime, bundled, workers=workers, threads=threads) as engine:
        engine.warm_up()

        def work(start: int) -> None:
            together.wait()
            for turn in range(4):
                number = (start + turn) % len(pictures)
                assert assert_same(infer(engine, [pictures[number]]), 0, singles[number], 0)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers), timeout=120))
        assert [engine.lend(1) for _ in range(workers)]


def fill(engine: Engine, values: list[int]) -> RawResults:
    loan = engine.lend(len(values))
    for slot, value in zip(loan.slots, values, strict=True):
        slot.pixels[:] = value
    return engine.collect(engine.submit(loan))


def first_scores(raw: RawResults) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = raw.outputs["scores"][:, 0]
    return scores


def test_results_belong_to_the_caller(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    with open_with(runtime, tiny_graph(tmp_path / "x.onnx", card), batch=2) as engine:
        first = fill(engine, [51, 102])
        kept = {name: array.copy() for name, array in first.outputs.items()}
        for value in (0, 255):
            fill(engine, [value, value])
        assert all(np.array_equal(first.outputs[name], kept[name]) for name in kept)
        assert first_scores(first) == pytest.approx([0.2, 0.4])
        assert first.outputs["boxes"].tolist() == [[[1, 2, 20, 30]] * 4] * 2
        assert {name: array.dtype for name, array in first.outputs.items()} == {
            "boxes": np.float32,
            "scores": np.float32,
            "class_ids": np.int32,
        }
        assert 0 < first.started_ns <= first.ended_ns


def test_every_batch_size_in_every_buffer(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    with open_with(runtime, tiny_graph(tmp_path / "x.onnx", card), batch=5, workers=3) as engine:
        engine.warm_up()
        for count in (5, 1, 3, 2, 4, 1, 5):
            loans = [engine.lend(count) for _ in range(3)]
            for number, loan in enumerate(loans):
                for place, slot in enumerate(loan.slots):
                    slot.pixels[:] = 10 * number + place
            for number, ticket in reversed(list(enumerate([engine.submit(loan) for loan in loans]))):
                scores = first_scores(engine.collect(ticket))
                assert scores * 255 == pytest.approx([10 * number + place for place in range(count)], abs=1e-3)


def test_many_threads_and_one_engine(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    with open_with(runtime, tiny_graph(tmp_path / "x.onnx", card), workers=4) as engine:

        def work(value: int) -> None:
            for _ in range(200):
                assert first_scores(fill(engine, [value])) * 255 == pytest.approx([value], abs=1e-3)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, [3, 60, 140, 250], timeout=60))


def test_a_failure_releases_the_buffer(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    path = tiny_graph(tmp_path / "x.onnx", card, fail_above=2)
    with open_with(runtime, path, batch=3) as engine:
        for _ in range(3):
            with pytest.raises(EngineError) as caught:
                fill(engine, [1, 2, 3])
            assert f"{runtime}-cpu-fp32" in caught.value.message
            assert "batch of 3" in caught.value.message
            assert "\n" not in str(caught.value)
            assert first_scores(fill(engine, [51, 102])) == pytest.approx([0.2, 0.4])


def test_an_interrupt_releases_the_buffer(runtime: str, tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C in a notebook the same engine is used again."""
    with open_with(runtime, tiny_graph(tmp_path / "x.onnx", card)) as engine:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(type(engine), "_bind", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fill(engine, [51])
        assert first_scores(fill(engine, [51])) == pytest.approx([0.2])


def test_slots_have_the_size_of_the_input(runtime: str, bundled: Path) -> None:
    with open_with(runtime, bundled) as engine:
        assert engine.input_size == Size(416, 416)
        (slot,) = engine.lend(1).slots
        assert slot.pixels.shape == (416, 416, 3)


@pytest.mark.parametrize(("workers", "threads", "sessions"), [(1, 1, 1), (3, 1, 1), (2, 2, 2)])
def test_single_threaded_workers_share_one_session_of_onnx_runtime(
    tmp_path: Path, card: ModelCard, workers: int, threads: int, sessions: int
) -> None:
    settings = EngineSettings(workers=workers, threads=threads)
    with OnnxRuntimeEngine(tiny_graph(tmp_path / "x.onnx", card), settings) as engine:
        assert len({id(session) for session in engine._session_of.values()}) == sessions


def test_closing_frees_the_sessions(tmp_path: Path, card: ModelCard) -> None:
    engine = OnnxRuntimeEngine(tiny_graph(tmp_path / "x.onnx", card), EngineSettings(workers=2, threads=2))
    leave: Callable[..., None] = engine.__exit__
    leave(None, None, None)
    leave(None, None, None)
    assert not engine._sessions


def test_the_floating_point_mode_of_the_caller_is_unchanged(runtime: str, bundled: Path) -> None:
    """A session that flushes denormals to zero would change the floating-point mode of the calling thread for good."""
    smallest = np.nextafter(0.0, 1.0)
    with open_with(runtime, bundled) as engine:
        engine.collect(engine.submit(engine.lend(1)))
        assert np.array([smallest])[0] * 1.0 == smallest
        assert np.float64(2.0) ** -1060 > 0


def test_openvino_runs_while_the_caller_continues(tmp_path: Path, card: ModelCard) -> None:
    """One thread submits several batches, and collects them in any order."""
    pytest.importorskip("openvino")
    with OpenVinoEngine(tiny_graph(tmp_path / "x.onnx", card), EngineSettings(workers=4)) as engine:
        engine.warm_up()
        loans = [engine.lend(1) for _ in range(4)]
        for number, loan in enumerate(loans):
            loan.slots[0].pixels[:] = 10 * number
        tickets = [engine.submit(loan) for loan in loans]
        for number in (3, 0, 2, 1):
            raw = engine.collect(tickets[number])
            assert first_scores(raw) * 255 == pytest.approx([10 * number], abs=1e-3)
            assert 0 < raw.started_ns <= raw.ended_ns
        leave: Callable[..., None] = engine.__exit__
        engine.submit(engine.lend(1))
        leave(None, None, None)  # waits for pending batches
        leave(None, None, None)


def test_openvino_reads_the_buffers_without_a_copy(tmp_path: Path, card: ModelCard) -> None:
    pytest.importorskip("openvino")
    with OpenVinoEngine(tiny_graph(tmp_path / "x.onnx", card), EngineSettings()) as engine:
        fill(engine, [1])
        loan = engine.lend(1)
        bound = engine._requests[id(loan.buffer)].get_tensor("images")
        assert bound.data.ctypes.data == loan.buffer.images.ctypes.data
        engine.release(loan)


def test_openvino_loads_its_exported_engine(bundled: Path, pictures: list[VideoImage], singles: list[Outputs]) -> None:
    pytest.importorskip("openvino")
    settings = EngineSettings(workers=2)
    with OpenVinoEngine(bundled, settings) as engine:
        compiled = engine.export()
    with OpenVinoEngine(bundled, settings, compiled) as engine:
        assert (engine.name, engine.card.name, engine.batch_sizes) == ("openvino-cpu-fp32", "nanodet-416", (1,))
        assert assert_same(infer(engine, pictures[:1]), 0, singles[0], 0)
    with pytest.raises(EngineError, match="cannot be loaded"):
        OpenVinoEngine(bundled, settings, b"not what it compiled")


def test_bfloat16_is_optional(tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    path = tiny_graph(tmp_path / "x.onnx", card)
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with OpenVinoEngine(path, EngineSettings(compute="bf16")) as engine:
            assert engine.name == "openvino-cpu-bf16"
            assert first_scores(fill(engine, [51])) == pytest.approx([0.2], abs=0.01)
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(EngineError, match="bfloat16"):
        OpenVinoEngine(path, EngineSettings(compute="bf16"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_telemetry_of_the_runtimes_is_off(runtime: str, tmp_path: Path) -> None:
    """Both would store an identifier of this device in the user's home."""
    pytest.importorskip(runtime)
    code = f"from vision_infer.engine.runtimes.{runtime} import load_{runtime}; load_{runtime}(); load_{runtime}()"
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env={**environ, **home}, check=True, timeout=120)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
