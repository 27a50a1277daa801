"""Lanes start with the engine that loads fastest, and get a better one while they run."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from tests.engine.graphs import tiny_graph
from tests.pipeline.fakes import LONG_S, EchoEngine, FakeSink, FakeSource, add, close, finish, make_supervisor, wait_for
from tests.support import media
from tests.support.waiting import wait_until
from vision_infer.config.run import run_settings
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.result import Result
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.candidates import EngineCandidate, candidates
from vision_infer.engine.selection.lookup import find_choice
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore
from vision_infer.engine.selection.warm_start import WarmStart
from vision_infer.pipeline.lanes import upgrade as upgrades
from vision_infer.pipeline.lanes.child_process import run_child
from vision_infer.pipeline.lanes.upgrade import EngineUpgrade, Upgrade, autotune_command, build_command
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.supervisor import Supervisor

if find_spec("openvino") is not None:
    import_module("openvino")  # it starts a thread that never ends

Stopped = Callable[[], bool]
needs_both = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("onnxruntime") is None, reason="could not import 'openvino' or 'onnxruntime'"
)


class Better(EchoEngine):
    """An engine with an event for its end."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()

    def __exit__(self, *_: object) -> None:
        self.closed.set()


@pytest.fixture
def wanted(tmp_path: Path, card: ModelCard) -> Upgrade:
    graph = tiny_graph(tmp_path / "model.onnx", card)
    facts = read_graph_facts(graph)
    better = EngineChoice(EngineCandidate(graph, facts, "openvino-cpu-fp32"), "openvino-cpu-fp32: faster")
    quick = WarmStart(EngineCandidate(graph, facts, "onnxruntime-cpu-fp32"), better)
    return Upgrade("main", graph, EngineRequest(engine_dir=tmp_path / "engines"), quick)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Better]:
    """The better engines that were opened."""
    made: list[Better] = []

    def open_candidate(candidate: EngineCandidate, request: EngineRequest, on_message: object) -> Better:
        made.append(Better())
        return made[-1]

    monkeypatch.setattr(upgrades, "open_candidate", open_candidate)
    return made


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upgrade lanes of any age."""
    monkeypatch.setattr(upgrades, "BUILD_AFTER_S", 0.0)
    monkeypatch.setattr(upgrades, "AUTOTUNE_AFTER_S", 0.0)


def test_rows_are_written_while_the_better_engine_is_built(wanted: Upgrade, opened: list[Better]) -> None:
    reported: list[str] = []
    swapped = threading.Event()
    shared, first = FakeSink(), Better()

    def before(index: int) -> None:
        if index == 60:
            wait_for(swapped)

    def build(words: Sequence[str], nice: int, stopped: Stopped, *_: object) -> None:
        assert "openvino-cpu-fp32" in words
        shared.wait_written(20)
        assert not opened

    def on_message(line: str) -> None:
        reported.append(line)
        swapped.set()

    source = FakeSource(0, 200, before=before)
    supervisor = make_supervisor(first, [source], shared=[shared])
    with EngineUpgrade(supervisor.swap_engine, on_message, runner=build) as upgrade:
        upgrade.add(wanted)
        supervisor.add(add(source))
        finish(supervisor)
    assert shared.results() == list(range(200))
    assert reported == ["main: continues with openvino-cpu-fp32: faster"]
    (second,) = opened
    assert [len(first.batches) + len(second.batches), first.closed.is_set(), second.closed.is_set()] == [200, True, False]
    assert len(second.batches) >= 140


def test_an_unused_lane_is_not_upgraded(wanted: Upgrade, opened: list[Better], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrades, "LOOK_AGAIN_S", 0.01)
    reported: list[str] = []
    done = threading.Event()

    def on_message(line: str) -> None:
        reported.append(line)
        done.set()

    def before(index: int) -> None:
        if index == 30:
            wait_for(done)

    source = FakeSource(0, 60, before=before)
    supervisor = make_supervisor(EchoEngine(), [source])
    idle = replace(wanted, lane="main@32x64")  # it was added first
    with EngineUpgrade(supervisor.swap_engine, on_message, runner=lambda *_: None, statuses=supervisor.lane_statuses) as upgrade:
        upgrade.add(idle)
        upgrade.add(wanted)
        supervisor.add(add(source))
        finish(supervisor)
    assert reported == ["main: continues with openvino-cpu-fp32: faster"]
    assert len(opened) == 1


def test_the_engine_of_one_device_is_upgraded(wanted: Upgrade, opened: list[Better]) -> None:
    swapped: list[tuple[str, int | None]] = []
    done = threading.Event()

    def swap(name: str, engine: object, *, replica: int | None) -> None:
        swapped.append((name, replica))

    with EngineUpgrade(swap, lambda _: done.set(), runner=lambda *_: None) as upgrade:
        upgrade.add(replace(wanted, replica=1))
        wait_for(done)
    assert swapped == [("main", 1)]


def test_a_failure_is_one_line(wanted: Upgrade, opened: list[Better]) -> None:
    reported: list[str] = []
    done = threading.Event()

    def on_message(line: str) -> None:
        reported.append(line)
        done.set()

    supervisor = make_supervisor(EchoEngine(), [])
    with EngineUpgrade(supervisor.swap_engine, on_message, runner=lambda *_: "error: no space") as upgrade:
        upgrade.add(wanted)
        wait_for(done)
    close(supervisor)
    assert reported == ["main: keeps onnxruntime-cpu-fp32: error: no space"]
    assert not opened


@pytest.mark.parametrize("error", [ValueError("its labels differ"), EngineError("it is broken"), KeyError("main")])
def test_a_refused_engine_is_closed(wanted: Upgrade, opened: list[Better], error: Exception) -> None:
    reported: list[str] = []
    done = threading.Event()

    def swap(name: str, engine: object, *, replica: int | None) -> None:
        raise error

    def on_message(line: str) -> None:
        reported.append(line)
        done.set()

    with EngineUpgrade(swap, on_message, runner=lambda *_: None) as upgrade:
        upgrade.add(wanted)
        wait_for(done)
    assert len(reported) == 1
    assert opened[0].closed.is_set()


def test_closing_ends_the_child_without_a_message(wanted: Upgrade, opened: list[Better]) -> None:
    reported: list[str] = []
    running = threading.Event()

    def build(words: Sequence[str], nice: int, stopped: Stopped, *_: object) -> str:
        running.set()
        wait_until(stopped, "the upgrade to be closed")
        return "it was stopped"

    upgrade = EngineUpgrade(lambda *_, **__: None, reported.append, runner=build)
    upgrade.add(wanted)
    upgrade.add(wanted)
    wait_for(running)
    upgrade.close()
    upgrade.add(wanted)  # too late: nothing happens
    assert (reported, opened) == ([], [])


def test_a_short_run_does_not_autotune(wanted: Upgrade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrades, "AUTOTUNE_AFTER_S", LONG_S * 10)
    called: list[str] = []

    def choose(words: Sequence[str], nice: int, stopped: Stopped, *_: object) -> None:
        called.append(words[0])

    with EngineUpgrade(lambda *_, **__: None, called.append, runner=choose) as upgrade:
        upgrade.add(replace(wanted, quick=replace(wanted.quick, better=None)))
    assert not called


@needs_both
def test_a_lane_that_is_closed_before_its_upgrade_gets_one_when_it_is_opened_again(wanted: Upgrade, tmp_path: Path) -> None:
    kept, ran = threading.Event(), threading.Event()
    frames: list[BinaryIO | None] = []

    def build(words: Sequence[str], nice: int, stopped: Stopped, on_line: object, stdin: BinaryIO | None) -> str:
        frames.append(stdin)
        ran.set()
        return "no plan"

    def of_lane(samples: BinaryIO, on_kept: Callable[[], None]) -> Upgrade:
        return replace(wanted, quick=replace(wanted.quick, better=None, samples=samples), on_kept=on_kept)

    with (tmp_path / "old").open("w+b") as old, (tmp_path / "new").open("w+b") as new:
        old.close()  # as the engine of a closed lane does
        with EngineUpgrade(lambda *_, **__: None, lambda _: None, runner=build) as upgrade:
            upgrade.add(of_lane(old, kept.set))
            wait_for(kept)
            upgrade.add(of_lane(new, lambda: None))
            wait_for(ran)
        assert frames == [new]


def test_autotuning_selects_the_next_engine(wanted: Upgrade, opened: list[Better]) -> None:
    commands: list[Sequence[str]] = []
    reported: list[str] = []
    swapped = threading.Event()
    unknown = replace(wanted, quick=replace(wanted.quick, better=None), data=("a.mp4",))

    def choose(words: Sequence[str], nice: int, stopped: Stopped, *_: object) -> None:
        commands.append(words)
        possible = candidates(wanted.path)
        best = next(one for one in possible if one.engine == "openvino-cpu-fp32")
        assert wanted.request.engine_dir is not None
        TuningStore(wanted.request.engine_dir, 1.0).save_choice(possible, EngineChoice(best, "openvino-cpu-fp32: tried"))

    def on_message(line: str) -> None:
        reported.append(line)
        swapped.set()

    with EngineUpgrade(lambda *_, **__: None, on_message, runner=choose) as upgrade:
        upgrade.add(unknown)
        wait_for(swapped)
    assert commands == [autotune_command(unknown)]
    assert commands[0][-1] == "a.mp4"
    assert reported == ["main: continues with openvino-cpu-fp32: tried"]


@needs_both
@pytest.mark.slow
def test_a_run_continues_with_the_engine_that_was_built_meanwhile(
    tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    swapped = threading.Event()
    swap = Supervisor.swap_engine

    def noted(self: Supervisor, name: str, engine: Engine, timeout_s: float = LONG_S, replica: int = 0) -> Engine | None:
        old = swap(self, name, engine, timeout_s, replica)
        swapped.set()
        return old

    def hold(frame: object, result: Result) -> Result:
        if result.frame == 20:  # the run is not near its end before that
            wait_for(swapped)
        return result

    monkeypatch.setattr(Supervisor, "swap_engine", noted)
    monkeypatch.setitem(sys.modules, "held_rows", SimpleNamespace(hold=hold))
    graph, folder = tiny_graph(tmp_path / "model.onnx", card), tmp_path / "engines"
    possible = candidates(graph)
    best = next(one for one in possible if one.engine == "openvino-cpu-fp32")
    TuningStore(folder, 1.0).save_choice(possible, EngineChoice(best, "openvino-cpu-fp32: faster"))
    sources = [tmp_path / f"{number}.mp4" for number in range(8)]
    for source in sources:
        source.symlink_to(media.excerpt(0, 150, 64, 48))
    settings = run_settings(
        sources=tuple(map(str, sources)),
        model=str(graph),
        engine_dir=folder,
        device="cpu",
        hook="held_rows:hold",
        out=("rows.jsonl",),
    )
    summary = run(settings, threading.Event())
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for source in sources:
        assert [row["frame"] for row in rows if row["stream"] == source.stem] == list(range(150))
    assert (summary.frames, summary.exit_status) == (1200, 0)
    assert {row["engine"] for row in rows} == {"onnxruntime-cpu-fp32", "openvino-cpu-fp32"}
    assert rows[0]["engine"] == "onnxruntime-cpu-fp32"
    assert summary.engine == rows[-1]["engine"] == "openvino-cpu-fp32"
    assert summary.frames_by_engine == Counter(row["engine"] for row in rows)
    assert summary.engine_reasons[-1] == "main: continues with openvino-cpu-fp32: faster"


@needs_both
def test_the_child_process_autotunes_and_stores_the_choice(wanted: Upgrade) -> None:
    assert wanted.request.engine_dir is not None
    assert find_choice(wanted.path, wanted.request.engine_dir) is None
    assert run_child(autotune_command(wanted), 0, lambda: False) is None
    assert find_choice(wanted.path, wanted.request.engine_dir) is not None


@needs_both
def test_the_child_process_compiles_an_engine_into_the_cache(wanted: Upgrade) -> None:
    assert run_child(build_command(wanted), 0, lambda: False) is None
    assert wanted.request.engine_dir is not None
    assert list(wanted.request.engine_dir.iterdir())


def test_no_command_is_made_without_an_engine_folder(wanted: Upgrade) -> None:
    with pytest.raises(AssertionError, match="engine folder"):
        autotune_command(replace(wanted, request=replace(wanted.request, engine_dir=None)))


def test_the_child_process_reports_a_failure_in_one_line(wanted: Upgrade, tmp_path: Path) -> None:
    missing = replace(wanted, path=tmp_path / "missing.onnx")
    failure = run_child(autotune_command(missing), 0, lambda: False)
    assert failure is not None
    assert "missing.onnx" in failure
    assert "Traceback" not in failure
