"""Building an engine: cached, timed, with a passport; refused if it is known to lose too much accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.graphs import tiny_graph
from tests.support.disks import small_disk
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.build import Profile, Timing, build_engine
from vision_infer.engine.selection.candidates import EngineCandidate, candidates
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import MeasuredAccuracy

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
SHORT = Timing(rounds=2, round_s=0.02)


@pytest.fixture
def possible(tmp_path: Path, card: ModelCard) -> list[EngineCandidate]:
    return candidates(tiny_graph(tmp_path / "model.onnx", card))


def by_name(possible: list[EngineCandidate], engine: str) -> EngineCandidate:
    return next(one for one in possible if one.engine == engine)


@pytest.mark.parametrize("engine", ["onnxruntime-cpu-fp32", "openvino-cpu-fp32"])
def test_an_engine_is_cached_with_a_passport(
    possible: list[EngineCandidate], tmp_path: Path, card: ModelCard, engine: str
) -> None:
    cache = EngineCache(tmp_path / "engines")
    said: list[str] = []
    one = by_name(possible, engine)
    passport = build_engine(one, possible[0], Profile(batch=1, workers=2), cache, said.append, SHORT)
    assert any(f"building {engine} for tiny (not cached yet)" in line for line in said)
    assert cache.passport(one.key()) == passport
    assert cache.load(one.key()) is not None
    assert (passport.engine, passport.card.name, passport.compute) == (engine, "tiny", "f32")
    assert passport.sources.graph == one.key().graph_sha256
    assert "numpy" in passport.tools
    (speed,) = passport.speed
    assert (speed.batch, speed.workers, speed.threads) == (1, 2, 1)
    assert 0 < speed.p50_ms <= speed.p95_ms
    assert 0 < speed.fps_low <= speed.fps <= speed.fps_high
    assert speed.fp32_ratio == 1 if one == possible[0] else (speed.fp32_ratio or 0) > 0
    assert passport.accuracy == ()


def accuracy(high: float) -> MeasuredAccuracy:
    fields = {"metric": "agreement", "value": high / 2, "low": 0, "high": high, "data": "my.mp4", "frames": 200}
    return MeasuredAccuracy.model_validate({**fields, "judged": "proven"})


def test_an_earlier_accuracy_is_kept_and_decides(possible: list[EngineCandidate], tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    one = by_name(possible, "openvino-cpu-fp32")
    passport = build_engine(one, possible[0], Profile(workers=1), cache, lambda _: None, SHORT)
    cache.store_passport(one.key(), passport.model_copy(update={"accuracy": (accuracy(0.8),)}).to_json())
    again = build_engine(one, possible[0], Profile(workers=1), cache, lambda _: None, SHORT)
    assert again.accuracy == (accuracy(0.8),)
    assert (again.build_seconds or 0) >= (passport.build_seconds or 0)
    cache.store_passport(one.key(), passport.model_copy(update={"accuracy": (accuracy(1.8),)}).to_json())
    with pytest.raises(EngineError) as caught:
        build_engine(one, possible[0], Profile(workers=1), cache, lambda _: None, SHORT)
    assert "rejected: 0.90 points lost (0.00 to 1.80) on 200 frames, the budget is 1" in caught.value.message
    assert "--accept-loss" in caught.value.hint
    assert not build_engine(one, possible[0], Profile(workers=1), cache, lambda _: None, SHORT, budget=2.0).accepted
    for accept in (True, False):  # once accepted, it remains so
        assert build_engine(one, possible[0], Profile(workers=1), cache, lambda _: None, SHORT, accept_loss=accept).accepted


def test_a_full_disk_is_an_error_of_the_build(possible: list[EngineCandidate]) -> None:
    with small_disk(4096) as disk:
        disk.chmod(0o700)
        cache = EngineCache(disk)
        with pytest.raises(EngineError, match="cannot be stored: No space left"):
            build_engine(by_name(possible, "openvino-cpu-fp32"), possible[0], Profile(workers=1), cache, lambda _: None, SHORT)
        assert cache.entries() == []
