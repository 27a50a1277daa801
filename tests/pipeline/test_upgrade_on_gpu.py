"""A lane on a GPU starts with ONNX Runtime, and gets a plan that a child process builds and compares."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.stand_in_gpu import StandInGpu, half_graph, stand_in_gpu
from tests.pipeline.fakes import LONG_S, EchoEngine, wait_for
from tests.support import media
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.core.result import Result
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import SpeedRounds
from vision_infer.engine.selection import auto, lookup
from vision_infer.engine.selection.lookup import find_choices
from vision_infer.engine.store.cache import EngineCache
from vision_infer.pipeline.lanes import samples
from vision_infer.pipeline.lanes import upgrade as upgrades
from vision_infer.pipeline.lanes.replicas import OpenedReplica
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.precision import autotune_with_accuracy
from vision_infer.precision.autotune_with_accuracy import autotune
from vision_infer.stream.find import last_at_least
from vision_infer.stream.source import SourceSpec

__all__ = ["stand_in_gpu"]

CLIPS = 8


class ChildHere:
    """Runs the child processes of upgrades in this process, where the stand-in is."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(
        self,
        command: Sequence[str],
        nice: int,
        stopped: Callable[[], bool],
        on_line: Callable[[str], None],
        stdin: BinaryIO | None,
    ) -> str | None:
        self.count += 1
        sys.stdin = SimpleNamespace(buffer=stdin)
        sys.stdout, before = Lines(on_line), sys.stdout
        try:
            autotune(command[4:])
        except VisionInferError as error:
            return str(error)
        finally:
            sys.stdin, sys.stdout = sys.__stdin__, before
        return None


class Lines:
    """A standard output that passes its lines on."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line

    def write(self, text: str) -> None:
        if text.strip():
            self._on_line(text.rstrip("\n"))

    def flush(self) -> None:
        """Do nothing."""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> ChildHere:
    """Run child processes here and at once; a plan is measured to be three times as fast as the first engine."""
    here = ChildHere()
    monkeypatch.setattr(upgrades, "run_child", here)
    monkeypatch.setattr(upgrades, "AUTOTUNE_AFTER_S", 0.0)
    monkeypatch.setattr(lookup, "ASSUMED_BUILD_S", 1.0)
    monkeypatch.setattr(samples, "SAMPLE_EVERY_S", 0.0)
    monkeypatch.setattr(autotune_with_accuracy, "SAMPLES_WAIT_S", LONG_S)

    def measure_speed(engines: dict[str, Engine], *_: Any, batch: int, **__: Any) -> dict[str, SpeedRounds]:
        speeds = {name: 100.0 if name == "reference" else 300.0 if "fp16" in name else 200.0 for name in engines}
        return {name: SpeedRounds(batch, [fps] * 5, [1.0] * 5, [1.0], [0.1] * 5) for name, fps in speeds.items()}

    monkeypatch.setattr(auto, "measure_speed", measure_speed)
    return here


@pytest.fixture
def settings(tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> RunSettings:
    """Run a small model, in FP32 and FP16, on eight clips. The first rows wait for `swapped`."""
    monkeypatch.chdir(tmp_path)
    graph = tiny_graph(tmp_path / "model.onnx", card)
    half_graph(tmp_path / "model.fp16.onnx", card)
    sources = [tmp_path / f"{number}.mp4" for number in range(CLIPS)]
    for source in sources:
        source.symlink_to(media.excerpt(0, 150, 64, 48))
    return run_settings(
        sources=tuple(map(str, sources)),
        model=str(graph),
        engine_dir=tmp_path / "engines",
        hook="held_rows:hold",
        out=("rows.jsonl",),
    )


def held(monkeypatch: pytest.MonkeyPatch, until: threading.Event) -> None:
    """Hold the results of frame 60 until an event."""

    def hold(frame: object, result: Result) -> Result:
        if result.frame == 60:
            until.wait(LONG_S / CLIPS)  # every clip waits, one after the other
        return result

    monkeypatch.setitem(sys.modules, "held_rows", SimpleNamespace(hold=hold))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_continues_with_the_plan_that_was_built_and_compared_meanwhile(
    stand_in_gpu: StandInGpu, child: ChildHere, settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = threading.Event()
    swap = Supervisor.swap_engine

    def noted(self: Supervisor, name: str, engine: Engine, *more: Any, **options: Any) -> Engine | None:
        old = swap(self, name, engine, *more, **options)
        swapped.set()
        return old

    monkeypatch.setattr(Supervisor, "swap_engine", noted)
    held(monkeypatch, swapped)
    summary = run(settings, threading.Event())
    assert (summary.frames, summary.exit_status) == (150 * CLIPS, 0)
    found = rows(tmp_path)
    for number in range(CLIPS):
        assert [row["frame"] for row in found if row["stream"] == str(number)] == list(range(150))
    assert {row["engine"] for row in found} == {"onnxruntime-cpu-fp32", "tensorrt-cuda-fp16"}, "\n".join(summary.engine_reasons)
    assert stand_in_gpu.built == ["model.fp16.onnx", "model.onnx"]
    assert {round((one or 0) / 1e6) for one in stand_in_gpu.workspaces} == {250}
    assert "main: trying tensorrt-cuda-fp16" in summary.engine_reasons
    assert summary.engine_reasons[-1].startswith("main: continues with tensorrt-cuda-fp16: 3.0× as fast as onnxruntime-cpu-fp32")
    passports = [EngineCache(tmp_path / "engines").passport(entry.key) for entry in EngineCache(tmp_path / "engines").entries()]
    (loss,) = [one.loss() for one in passports if one is not None and one.engine == "tensorrt-cuda-fp16"]
    assert loss is not None
    assert (loss.frames, loss.data) == (samples.MAX_SAMPLES, "the first frames of the streams")
    # The next run takes it at once.
    again = run(settings.model_copy(update={"out": ("again.jsonl",), "hook": ()}), threading.Event())
    assert again.engine == "tensorrt-cuda-fp16"
    assert (child.count, len(stand_in_gpu.built)) == (1, 2)


@pytest.mark.slow  # 8 s
def test_fp16_that_loses_too_much_is_left_out(
    stand_in_gpu: StandInGpu,
    child: ChildHere,
    settings: RunSettings,
    card: ModelCard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half_graph(tmp_path / "model.fp16.onnx", card, factor=0.4)
    swapped = threading.Event()
    original = upgrades.EngineUpgrade._put_in

    def put_in(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        swapped.set()

    monkeypatch.setattr(upgrades.EngineUpgrade, "_put_in", put_in)
    held(monkeypatch, swapped)
    summary = run(settings, threading.Event())
    assert summary.engine == "tensorrt-cuda-fp32"
    (why,) = [line for line in summary.engine_reasons if "tensorrt-cuda-fp16 is left out" in line]
    assert "points lost" in why
    assert [choice.candidate.engine for choice in find_choices(tmp_path / "model.onnx", tmp_path / "engines", "cuda:0")] == [
        "tensorrt-cuda-fp32"
    ]


def test_a_build_that_fails_is_one_line_and_the_run_goes_on(
    stand_in_gpu: StandInGpu, child: ChildHere, settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_gpu.build_error = EngineError("TensorRT cannot build it: OutOfMemory")
    kept = threading.Event()
    original = upgrades.EngineUpgrade._keeps

    def keeps(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        kept.set()

    monkeypatch.setattr(upgrades.EngineUpgrade, "_keeps", keeps)
    held(monkeypatch, kept)
    summary = run(settings, threading.Event())
    assert (summary.frames, summary.engine, summary.exit_status) == (150 * CLIPS, "onnxruntime-cpu-fp32", 0)
    assert [line for line in summary.engine_reasons if "keeps" in line] == [
        "main: keeps onnxruntime-cpu-fp32: no plan can be used: TensorRT cannot build it: OutOfMemory. "
        "See: vision-infer engine choose MODEL --device cuda:0"
    ]
    assert find_choices(tmp_path / "model.onnx", tmp_path / "engines", "cuda:0") == []  # the next process tries again


def test_a_failed_upgrade_is_not_tried_again_in_this_process(
    stand_in_gpu: StandInGpu, child: ChildHere, settings: RunSettings, tmp_path: Path
) -> None:
    from vision_infer.engine.open import EngineRequest
    from vision_infer.engine.selection.warm_start import find_warm_start

    path, request = tmp_path / "model.onnx", EngineRequest(engine_dir=tmp_path / "engines")
    quick = find_warm_start(path, request)
    assert quick is not None
    runs: list[Sequence[str]] = []
    said = threading.Event()

    def fail(command: Sequence[str], *_: Any) -> str:
        runs.append(command)
        return "the process ended with status -9"

    lanes = [SimpleNamespace(name=name, next_gpus=set()) for name in ("first", "second")]
    lines: list[str] = []

    def on_message(line: str) -> None:
        lines.append(line)
        said.set()

    with upgrades.EngineUpgrade(lambda *_, **__: None, on_message, runner=fail) as upgrade:
        opened = [OpenedReplica(EchoEngine(), quick)]
        upgrade.add(*upgrades.upgrades_of(lanes[0], path, request, opened))  # type: ignore[arg-type]
        wait_for(said)
        (later,) = upgrades.upgrades_of(lanes[1], path, request, opened)  # type: ignore[arg-type]
        assert lanes[1].next_gpus == {0}
        upgrade.add(later)
    assert lines == ["first: keeps onnxruntime-cuda-fp32: the process ended with status -9"]
    assert len(runs) == 1
    assert "cuda:0" in runs[0]
    assert [lane.next_gpus for lane in lanes] == [set(), set()]


def test_a_run_on_a_short_clip_builds_no_plan(
    stand_in_gpu: StandInGpu, child: ChildHere, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "ASSUMED_BUILD_S", 60.0)
    settings = settings.model_copy(update={"hook": ()})
    written: list[int] = []

    def pwrite(_: int, content: bytes, place: int) -> int:
        written.append(place)
        return len(content)

    monkeypatch.setattr(os, "pwrite", pwrite)
    summary = run(settings, threading.Event())
    assert (summary.engine, child.count, stand_in_gpu.built) == ("onnxruntime-cpu-fp32", 0, [])
    assert written == []  # no frames for a child process that does not start
    (line,) = [line for line in summary.engine_reasons if "main: keeps" in line]
    assert "building plans for cuda:0 takes about 120 s, longer than the clips" in line


def test_a_run_takes_a_cached_plan(stand_in_gpu: StandInGpu, settings: RunSettings, tmp_path: Path) -> None:
    stand_in_gpu.keep(tmp_path / "model.onnx", tmp_path / "engines")
    summary = run(settings.model_copy(update={"hook": ()}), threading.Event())
    assert (summary.frames, summary.engine) == (150 * CLIPS, "tensorrt-cuda-fp32")
    assert {row["engine"] for row in rows(tmp_path)} == {"tensorrt-cuda-fp32"}


def test_how_long_sources_last() -> None:
    clip = SourceSpec("clip", "video", (str(media.excerpt(0, 150, 64, 48)),))
    missing = SourceSpec("missing", "video", ("/nowhere.mp4",))
    camera = SourceSpec("camera", "live", ("rtsp://camera/stream",))
    assert last_at_least([clip, missing], 5)
    assert not last_at_least([clip, missing], 7)
    assert last_at_least([clip, clip], 7)
    assert last_at_least([camera], 3600)
