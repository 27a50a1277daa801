"""Failed engines are saved with the reason, by engine and budget; a crash counts from the second time on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.graphs import tiny_graph
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.auto import AutotuneOptions, AutotuneRequest, autotune, autotune_model
from vision_infer.engine.selection.candidates import EngineCandidate, candidates
from vision_infer.engine.selection.tuning_store import CRASHED, MAX_CRASHES, TuningStore

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

OPENVINO = "openvino-cpu-fp32"


@pytest.fixture
def possible(tmp_path: Path, card: ModelCard) -> list[EngineCandidate]:
    found = candidates(tiny_graph(tmp_path / "model.onnx", card))
    return [one for one in found if one.engine in ("onnxruntime-cpu-fp32", OPENVINO)]


@pytest.fixture
def store(tmp_path: Path) -> TuningStore:
    return TuningStore(tmp_path / "engines", 1.0)


class Killed(BaseException):
    """Represents a process that ends while it tries an engine."""


def opener(opened: list[str], broken: BaseException | None = None) -> Callable[[EngineCandidate], Engine]:
    def open_it(candidate: EngineCandidate) -> Engine:
        opened.append(candidate.engine)
        if candidate.engine == OPENVINO and broken is not None:
            raise broken
        return open_engine(candidate.graph, EngineRequest(candidate.engine, "cpu", workers=1))

    return open_it


def tune(possible: list[EngineCandidate], store: TuningStore, broken: BaseException | None = None) -> tuple[list[str], list[str]]:
    """Return the opened engines, and the messages."""
    opened: list[str] = []
    said: list[str] = []
    request = AutotuneRequest(
        possible, opener(opened, broken), AutotuneOptions(seconds=0.02), on_message=said.append, store=store
    )
    autotune(request)
    return opened, said


def test_a_failed_engine_is_not_opened_again_and_the_reason_is_reported(
    possible: list[EngineCandidate], store: TuningStore
) -> None:
    opened, _ = tune(possible, store, EngineError("it does not load"))
    assert OPENVINO in opened
    opened, said = tune(possible, store)
    assert OPENVINO not in opened
    assert said == [f"{OPENVINO} is left out: it does not load (found by an earlier autotune)"]


def test_a_working_engine_leaves_no_file(possible: list[EngineCandidate], store: TuningStore) -> None:
    tune(possible, store)
    assert not any((store.engine_dir / "choices").glob("failed-*"))
    assert OPENVINO in tune(possible, store)[0]


def test_a_crash_counts_from_the_second_time_on(possible: list[EngineCandidate], store: TuningStore) -> None:
    for _ in range(MAX_CRASHES):
        assert store.failure(possible[1]) == ""
        with pytest.raises(Killed):
            tune(possible, store, Killed())
    opened, said = tune(possible, store)
    assert OPENVINO not in opened
    assert said == [f"{OPENVINO} is left out: {CRASHED} (found by an earlier autotune)"]


def test_one_crash_is_forgiven_after_a_success(possible: list[EngineCandidate], store: TuningStore) -> None:
    for _ in range(3):  # an interrupt now and then does not count
        with pytest.raises(Killed):
            tune(possible, store, Killed())
        assert OPENVINO in tune(possible, store)[0]


def test_a_failure_counts_for_its_budget_and_lower_ones(possible: list[EngineCandidate], tmp_path: Path) -> None:
    TuningStore(tmp_path, 1.0).end(possible[1], "1.4 points lost")
    assert TuningStore(tmp_path, 0.5).failure(possible[1]) == "1.4 points lost"
    assert TuningStore(tmp_path, 2.0).failure(possible[1]) == ""


def test_another_graph_is_tried_again(possible: list[EngineCandidate], store: TuningStore, card: ModelCard) -> None:
    store.end(possible[1], "it does not load")
    tiny_graph(possible[1].graph, card, candidates=7)
    assert store.failure(possible[1]) == ""


@pytest.mark.parametrize("content", ["{", "[]", '{"unfinished": "many"}', '{"budget": null, "reason": "x"}'])
def test_a_damaged_file_is_ignored(possible: list[EngineCandidate], store: TuningStore, content: str) -> None:
    store.end(possible[1], "it does not load")
    (file,) = (store.engine_dir / "choices").glob("failed-*")
    file.write_text(content)
    assert store.failure(possible[1]) == ""
    store.begin(possible[1])
    store.end(possible[1])


def test_a_failure_that_cannot_be_written_is_ignored(possible: list[EngineCandidate], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    store = TuningStore(tmp_path / "taken", 1.0)
    store.begin(possible[1])
    store.end(possible[1], "it does not load")
    assert store.failure(possible[1]) == ""


def test_retry_failed_tries_failed_engines_again(possible: list[EngineCandidate], store: TuningStore) -> None:
    store.end(possible[1], "it does not load")
    request = EngineRequest(workers=1, engine_dir=store.engine_dir)
    for again in (False, True):
        said: list[str] = []
        autotune_model(possible[0].graph, request, AutotuneOptions(seconds=0.02, retry_failed=again), said.append)
        assert (f"trying {OPENVINO}" in said) == again
    assert store.failure(possible[1]) == ""
