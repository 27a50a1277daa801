"""The user's hook: what it can do, and that its errors do not end a run."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.conftest import Sinks
from tests.pipeline.fakes import EchoEngine, FakeSink, FakeSource, add, finish, make_supervisor, run_all
from tests.support.media import bikes
from vision_infer import Detector, Pipeline
from vision_infer.config.region import Region
from vision_infer.core.details import Keypoints
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import UsageError
from vision_infer.core.result import Result
from vision_infer.pipeline.hooks.frame import HookFrame
from vision_infer.pipeline.hooks.loading import load_hook
from vision_infer.pipeline.runs.summary import source_summary


def run_with(hook: Any, sink: FakeSink, count: int = 12, **stream_options: Any) -> dict[str, Any]:
    """Run one source with the hook; return its part of the summary."""
    supervisor = run_all(EchoEngine(), [FakeSource(0, count)], sink, stream_options, hook=hook)
    assert supervisor.error is None
    return source_summary(supervisor.records()[0])


def test_the_returned_result_is_emitted() -> None:
    sink = FakeSink()

    def relabel(frame: HookFrame, result: Result) -> Result:
        found = replace(result.detections, scores=result.detections.scores * np.float32(0.5))
        return replace(result, detections=found)

    summary = run_with(relabel, sink)
    assert sink.results() == list(range(12))
    assert {float(result.detections.scores[0]) for _, _, result in sink.written if result} == {float(np.float32(0.9)) * 0.5}
    assert (summary["frames"], summary["hook_errors"], summary["dropped"]) == (12, 0, {})


def test_none_drops_only_the_row(sinks: Sinks) -> None:
    rows = sinks["rows"] = FakeSink()
    drawn = sinks["drawn"] = FakeSink(needs_images=True)
    source = FakeSource(0)

    def by_threes(frame: HookFrame, result: Result) -> Result | None:
        return result if frame.index % 3 == 0 else None

    supervisor = make_supervisor(EchoEngine(), [source], hook=by_threes)
    supervisor.add(add(source, "rows", "drawn"))
    finish(supervisor)
    thirds = list(range(0, 20, 3))
    assert rows.results() == drawn.results() == thirds
    assert drawn.indices() == list(range(20))  # every image; those without a row are not drawn
    record = supervisor.records()[0]
    assert record.dropped == {DropReason.HOOK: 20 - len(thirds)}
    assert (record.results, record.detections, record.decoded) == (len(thirds), len(thirds), 20)


class Quits:
    """A hook that is an object, and fails in a different way at each frame."""

    def __call__(self, frame: HookFrame, result: Result) -> Any:
        if result.frame == 0:
            sys.exit("enough")
        if result.frame < 4:
            return result.detections
        if result.frame < 6:
            return replace(result, frame=99)
        if result.frame < 9:
            raise KeyError("label\nof two lines")
        return result


def test_an_error_stops_nothing_and_is_logged_once_per_kind(caplog: pytest.LogCaptureFixture) -> None:
    sink = FakeSink()
    with caplog.at_level(logging.WARNING):
        summary = run_with(Quits(), sink)
    assert sink.results() == list(range(12))
    assert (summary["frames"], summary["hook_errors"]) == (12, 9)
    reported = [record.getMessage() for record in caplog.records]
    assert len(reported) == 4
    for text, words in zip(reported, ("SystemExit: enough", "TypeError", "ValueError", "KeyError"), strict=True):
        assert text.startswith("s0: hook Quits: ")
        assert words in text
        assert "\n" not in text
    assert "(the returned value)" in reported[1]
    assert f"{__file__}:" in reported[3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stream": "other"}, "changed stream to 'other'"),
        ({"pts_s": "soon"}, "changed pts_s"),
        ({"detections": None}, "must be Detections"),
        ({"detections": {"boxes": np.full((1, 4), np.nan, np.float32)}}, "finite"),
        ({"detections": {"scores": np.array([np.inf])}}, "finite"),
        ({"detections": {"details": ["nose"]}}, "details must be Keypoints, Masks or RotatedBoxes, got list"),
        ({"detections": {"details": Keypoints(np.full((1, 2, 3), np.nan, np.float32))}}, "details must be finite"),
        ({"detections": {"class_ids": np.array([1.0])}}, "integers"),
        ({"detections": {"boxes": np.array([["a", "b", "c", "d"]])}}, "floats"),
        ({"detections": {"track_ids": np.array([None])}}, "integers"),
        ({"detections": {"label_names": (5,)}}, "strings"),
        ({"detections": {"class_ids": np.array([1, 2])}}, r"class_ids must be \[1\]"),
    ],
)
def test_results_that_no_sink_can_write_are_discarded(
    change: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    def nonsense(frame: HookFrame, result: Result) -> Result:
        parts = change.get("detections")
        return replace(result, **(change if parts is None else {"detections": replace(result.detections, **parts)}))

    sink = FakeSink()
    with caplog.at_level(logging.WARNING):
        assert run_with(nonsense, sink, 2)["hook_errors"] == 2
    assert sink.results() == [0, 1]
    (reported,) = caplog.records
    assert re.search(words, reported.getMessage())


def test_a_hook_can_return_wider_number_types() -> None:
    def wide(frame: HookFrame, result: Result) -> Result:
        found = result.detections
        return replace(
            result, detections=replace(found, boxes=found.boxes.astype(np.float64), class_ids=found.class_ids.astype(np.uint8))
        )

    sink = FakeSink()
    assert run_with(wide, sink, 2)["hook_errors"] == 0
    for _, _, result in sink.written:
        assert result is not None
        json.loads(result.to_json())


def test_the_number_of_logged_errors_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    def fails(frame: HookFrame, result: Result) -> Result:
        raise type(f"Error{result.frame}", (Exception,), {})

    with caplog.at_level(logging.WARNING):
        summary = run_with(fails, FakeSink(), 60)
    assert summary["hook_errors"] == 60
    assert len(caplog.records) == 20


def test_the_place_of_an_error_is_in_the_hooks_own_file(caplog: pytest.LogCaptureFixture) -> None:
    def fails(frame: HookFrame, result: Result) -> Result:
        np.stack([])  # raised deep inside numpy
        return result

    with caplog.at_level(logging.WARNING):
        run_with(fails, FakeSink(), 1)
    line = fails.__code__.co_firstlineno + 1
    assert f"({__file__}:{line})" in caplog.text


def test_the_time_of_the_hook_is_in_the_account() -> None:
    def slow(frame: HookFrame, result: Result) -> Result | None:
        assert result.latency.total_ns > 0  # the part of the latency that is known until then
        until = time.monotonic_ns() + 20_000_000
        while time.monotonic_ns() < until:  # works for 20 ms
            pass
        return result

    sink = FakeSink()
    supervisor = run_all(EchoEngine(), [FakeSource(0, 4)], sink, hook=slow)
    for _, _, result in sink.written:
        assert result is not None
        spent = result.latency
        assert spent.postprocess_ns >= 20e6
        parts = (spent.decode_ns, spent.queue_ns, spent.preprocess_ns, spent.inference_ns, spent.postprocess_ns)
        assert sum(parts) == spent.total_ns
    assert supervisor.account().summary()["postprocess"]["mean_ms"] >= 20


def test_the_hook_is_called_after_filters_and_tracking() -> None:
    seen: list[tuple[int, list[int] | None]] = []

    def look(frame: HookFrame, result: Result) -> Result:
        tracks = result.detections.track_ids
        seen.append((result.frame, None if tracks is None else tracks.tolist()))
        return result

    below = Region(look=(((-1, 100), (256, 100), (256, 256)),))
    run_with(look, FakeSink(), 3, track=0.5, region=below)
    assert seen == [(0, []), (1, []), (2, [1])], "the third detection confirms the track"
    seen.clear()
    run_with(look, FakeSink(), 3, track=0.5, region=Region(ignore=below.look))
    assert seen == [(0, []), (1, []), (2, [])]
    seen.clear()
    run_with(look, FakeSink(), 3, min_size=200.0)
    assert seen == [(0, None), (1, None), (2, None)]


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules for hooks."""
    (tmp_path / "mine_good.py").write_text("class Box:\n    def keep(self, _, result): return result\nbox = Box()\nnumber = 5\n")
    (tmp_path / "mine_async.py").write_text("async def hook(frame, result): return result\n")
    (tmp_path / "mine_syntax.py").write_text("x = 1\ndef hook(frame, result) return result\n")
    (tmp_path / "mine_needs.py").write_text("import surely_not_installed\n")
    (tmp_path / "mine_exits.py").write_text("raise SystemExit('bye')\n")
    before = list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("mine_")]:
        del sys.modules[name]


def test_a_hook_is_imported_from_the_current_folder_which_then_comes_last(hooks: Path) -> None:
    assert load_hook("mine_good:box.keep")(None, None) is None  # type: ignore[arg-type]
    assert load_hook("os.path:join") is not None
    assert sys.path[-1] == str(hooks)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("filters.py", "MODULE:FUNCTION"),
        ("a/b:hook", "MODULE:FUNCTION"),
        (":hook", "MODULE:FUNCTION"),
        ("mine_good:", "MODULE:FUNCTION"),
        ("mine_gone:hook", "module mine_gone not found"),
        ("mine_good.sub:hook", "module mine_good.sub not found"),
        ("mine_good:gone", "mine_good has no function gone"),
        ("mine_good:number", "is not a function"),
        ("mine_async:hook", "async"),
        ("mine_syntax:hook", "SyntaxError"),
        ("mine_needs:hook", "surely_not_installed"),
        ("mine_exits:hook", "SystemExit: bye"),
    ],
)
def test_a_hook_that_cannot_be_imported_is_refused_before_the_run(hooks: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_hook(name)
    assert str(raised.value).startswith(f"hook {name}: ")
    assert words in str(raised.value)


def test_a_pipeline_in_python_takes_a_function() -> None:
    def not_the_first(frame: HookFrame, result: Result) -> Result | None:
        return result if frame.index else None

    pipeline = Pipeline(Detector(), every=50, hook=not_the_first)
    assert [result.frame for result in pipeline.run(bikes())] == [50, 100, 150, 200]
