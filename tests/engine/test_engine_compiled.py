"""Cached engines: the same results sooner, and an engine even if the cache fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.cache_keys import no_news
from tests.engine.graphs import tiny_graph
from tests.engine.runtimes import RUNTIMES
from tests.support.disks import small_disk
from vision_infer.core.card import ModelCard
from vision_infer.engine.engine import Engine, RawResults
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.store.cache import EngineCache


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def infer(engine: Engine) -> RawResults:
    loan = engine.lend(1)
    shape = loan.slots[0].pixels.shape
    loan.slots[0].pixels[:] = np.random.default_rng(7).integers(0, 256, shape, np.uint8)
    return engine.collect(engine.submit(loan))


def same(first: RawResults, second: RawResults) -> bool:
    return all(np.array_equal(array, second.outputs[name]) for name, array in first.outputs.items())


def test_a_cached_engine_gives_the_same_results_bit_for_bit(runtime: str, bundled: Path, tmp_path: Path) -> None:
    with open_engine(bundled, EngineRequest(runtime, "cpu", workers=1)) as engine:
        expected = infer(engine)
    request = EngineRequest(runtime, "cpu", workers=1, engine_dir=tmp_path / "engines")
    said: list[str] = []
    with open_engine(bundled, request, said.append) as engine:
        assert same(infer(engine), expected)
    assert said == [f"building {runtime}-cpu-fp32 for nanodet-416 (not cached yet)"]
    with open_engine(bundled, request, no_news) as engine:
        assert engine.name == f"{runtime}-cpu-fp32"
        assert same(infer(engine), expected)


def test_workers_and_threads_share_the_cached_engine(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    graph, folder = tiny_graph(tmp_path / "x.onnx", card), tmp_path / "engines"
    with open_engine(graph, EngineRequest(runtime, "cpu", 1, 1, engine_dir=folder)) as engine:
        expected = infer(engine)
    for workers, threads in ((2, 1), (1, 2), (3, 2)):
        with open_engine(graph, EngineRequest(runtime, "cpu", workers, threads, engine_dir=folder), no_news) as engine:
            assert engine.in_flight == workers
            assert same(infer(engine), expected)
    with open_engine(graph, EngineRequest(runtime, "cpu", 1, 1, batch=3, engine_dir=folder)) as engine:
        assert engine.batch_sizes == (1, 2, 3)
        engine.warm_up()


def test_a_graph_that_has_changed_is_built_again(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    request = EngineRequest(runtime, "cpu", 1, engine_dir=tmp_path / "engines")
    said: list[str] = []
    for candidates in (4, 5):
        with open_engine(tiny_graph(tmp_path / "x.onnx", card, candidates=candidates), request, said.append) as engine:
            assert infer(engine).outputs["scores"].shape == (1, candidates)
    assert said[1].endswith("not cached yet for this graph)")


def test_an_engine_that_the_runtime_refuses_is_built_again(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    """The checksum is right, but the runtime does not accept the content."""
    request = EngineRequest(runtime, "cpu", 1, engine_dir=tmp_path / "engines")
    graph = tiny_graph(tmp_path / "x.onnx", card)
    with open_engine(graph, request):
        pass
    cache = EngineCache(tmp_path / "engines")
    (entry,) = cache.entries()
    cache.store(entry.key, b"not an engine")
    said: list[str] = []
    with open_engine(graph, request, said.append) as engine:
        engine.warm_up()
    assert "cannot be loaded" in said[0]
    assert said[1].startswith("building")
    with open_engine(graph, request, no_news) as engine:
        engine.warm_up()


def test_without_a_trusted_folder_the_engine_runs_uncached(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    folder.chmod(0o777)
    said: list[str] = []
    request = EngineRequest(runtime, "cpu", 1, engine_dir=folder)
    with open_engine(tiny_graph(tmp_path / "x.onnx", card), request, said.append) as engine:
        infer(engine)
    assert len(said) == 1
    assert said[0].startswith("engines are not cached")
    assert "other users may write" in said[0]
    assert list(folder.iterdir()) == []


def test_on_a_full_disk_the_engine_runs_uncached(runtime: str, bundled: Path) -> None:
    with small_disk(1_000_000) as disk:
        disk.chmod(0o700)
        said: list[str] = []
        with open_engine(bundled, EngineRequest(runtime, "cpu", 1, engine_dir=disk), said.append) as engine:
            infer(engine)
        assert len(said) == 2
        assert "cannot be stored: No space left on device" in said[1]
        assert said[1].endswith("the engine runs without it")
        assert [path for path in disk.iterdir() if path.suffix != ".lock"] == []


def test_a_wrong_graph_leaves_no_entry(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    graph = tiny_graph(tmp_path / "x.onnx", card, image=("images", 2, (1, 32, 32, 3)))
    with pytest.raises(Exception, match="batch is fixed at 1"):
        open_engine(graph, EngineRequest(runtime, "cpu", 1, engine_dir=tmp_path / "engines"))
    assert EngineCache(tmp_path / "engines").entries() == []
