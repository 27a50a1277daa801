"""Trials that failed are remembered with the reason, by engine and budget; a crash counts from the second time on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.graphs import tiny_graph
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.auto import choose_by_trial
from vision_infer.engine.selection.candidates import Candidate, candidates
from vision_infer.engine.selection.failures import CRASHED, CRASHES, Failures
from vision_infer.engine.selection.known import try_here

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

OPENVINO = "openvino-cpu-fp32"


@pytest.fixture
def possible(tmp_path: Path, card: ModelCard) -> list[Candidate]:
    found = candidates(tiny_graph(tmp_path / "model.onnx", card))
    return [one for one in found if one.engine in ("onnxruntime-cpu-fp32", OPENVINO)]


@pytest.fixture
def failures(tmp_path: Path) -> Failures:
    return Failures(tmp_path / "engines", 1.0)


class Killed(BaseException):
    """Stands for a process that ends in the middle."""


def opener(opened: list[str], broken: BaseException | None = None) -> Callable[[Candidate], Engine]:
    def open_it(candidate: Candidate) -> Engine:
        opened.append(candidate.engine)
        if candidate.engine == OPENVINO and broken is not None:
            raise broken
        return open_engine(candidate.graph, EngineRequest(candidate.engine, "cpu", workers=1))

    return open_it


def trial(possible: list[Candidate], failures: Failures, broken: BaseException | None = None) -> tuple[list[str], list[str]]:
    """What was opened, and what was said."""
    opened: list[str] = []
    said: list[str] = []
    choose_by_trial(possible, opener(opened, broken), seconds=0.02, on_message=said.append, failures=failures)
    return opened, said


def test_what_failed_is_not_opened_again_and_the_reason_is_told(possible: list[Candidate], failures: Failures) -> None:
    opened, _ = trial(possible, failures, EngineError("it does not load"))
    assert OPENVINO in opened
    opened, said = trial(possible, failures)
    assert OPENVINO not in opened
    assert said == [f"{OPENVINO} is left out: it does not load (an earlier trial)"]


def test_what_works_leaves_nothing_behind(possible: list[Candidate], failures: Failures) -> None:
    trial(possible, failures)
    assert not any((failures.engine_dir / "choices").glob("failed-*"))
    assert OPENVINO in trial(possible, failures)[0]


def test_a_crash_counts_from_the_second_time_on(possible: list[Candidate], failures: Failures) -> None:
    for _ in range(CRASHES):
        assert failures.reason(possible[1]) == ""
        with pytest.raises(Killed):
            trial(possible, failures, Killed())
    opened, said = trial(possible, failures)
    assert OPENVINO not in opened
    assert said == [f"{OPENVINO} is left out: {CRASHED} (an earlier trial)"]


def test_one_crash_and_a_trial_that_ends_well(possible: list[Candidate], failures: Failures) -> None:
    for _ in range(3):  # killed now and then is no crash each time
        with pytest.raises(Killed):
            trial(possible, failures, Killed())
        assert OPENVINO in trial(possible, failures)[0]


def test_a_failure_counts_for_its_budget_and_lower_ones(possible: list[Candidate], tmp_path: Path) -> None:
    Failures(tmp_path, 1.0).end(possible[1], "1.4 points lost")
    assert Failures(tmp_path, 0.5).reason(possible[1]) == "1.4 points lost"
    assert Failures(tmp_path, 2.0).reason(possible[1]) == ""


def test_another_graph_is_tried_anew(possible: list[Candidate], failures: Failures, card: ModelCard) -> None:
    failures.end(possible[1], "it does not load")
    tiny_graph(possible[1].graph, card, candidates=7)
    assert failures.reason(possible[1]) == ""


@pytest.mark.parametrize("content", ["{", "[]", '{"unfinished": "many"}', '{"budget": null, "reason": "x"}'])
def test_what_is_damaged_says_nothing(possible: list[Candidate], failures: Failures, content: str) -> None:
    failures.end(possible[1], "it does not load")
    (file,) = (failures.engine_dir / "choices").glob("failed-*")
    file.write_text(content)
    assert failures.reason(possible[1]) == ""
    failures.begin(possible[1])
    failures.end(possible[1])


def test_what_cannot_be_kept_is_forgotten(possible: list[Candidate], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    failures = Failures(tmp_path / "taken", 1.0)
    failures.begin(possible[1])
    failures.end(possible[1], "it does not load")
    assert failures.reason(possible[1]) == ""


def test_again_tries_what_was_left_out(possible: list[Candidate], failures: Failures) -> None:
    failures.end(possible[1], "it does not load")
    request = EngineRequest(workers=1, engine_dir=failures.engine_dir)
    for again in (False, True):
        said: list[str] = []
        try_here(possible[0].graph, request, seconds=0.02, on_message=said.append, again=again)
        assert (f"trying {OPENVINO}" in said) == again
    assert failures.reason(possible[1]) == ""
