"""The progress of a run, with a fake clock."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.progress import Progress

from tests.support.hand_clock import HandClock
from vision_infer.cli.progress import LINE_INTERVAL_NS, Bars, PlainLines, RunRate, totals
from vision_infer.pipeline.status import StreamState, StreamStatus


def status(name: str, state: StreamState, decoded: int, expected: int | None = 100) -> StreamStatus:
    return StreamStatus(name, f"{name}.mp4", state, expected, 25.0, decoded, decoded, 0, 0, {}, None, 0)


def test_totals_use_actual_counts_of_ended_sources_and_expected_ones_of_others() -> None:
    ended = status("a", StreamState.ENDED, 90)
    running = status("b", StreamState.RUNNING, 30)
    assert totals([ended, running]) == (190, 120)
    assert totals([ended, status("c", StreamState.WAITING, 0, None)]) == (None, 90)
    assert totals([status("d", StreamState.RUNNING, 130)]) == (130, 130)


def test_the_rate_contains_frames_speed_and_remaining_time() -> None:
    clock = HandClock(0)
    rate = RunRate(clock)
    clock.now = 2_000_000_000
    assert rate.text([status("a", StreamState.RUNNING, 50)]) == "50/100 frames, 25.0 fps, 1.0x real time, 00:02 left"
    assert rate.text([status("a", StreamState.RUNNING, 50, None)]).startswith("50/? frames, 25.0 fps")


def test_plain_lines_are_printed_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = HandClock(0)
    lines = PlainLines(clock)
    for second in range(12):
        clock.now = second * 1_000_000_000
        lines([status("a", StreamState.RUNNING, 10 * second), status("b", StreamState.ENDED, 7)])
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 11 * 1_000_000_000 // LINE_INTERVAL_NS
    assert message[0].startswith("1/2 sources done, 57/107 frames")


def camera(name: str, state: StreamState, reason: str = "") -> StreamStatus:
    return replace(status(name, state, 30, None), live=True, reason=reason, result_fps=9.5, dropped={"superseded": 4})


def test_nothing_is_printed_before_the_first_line_is_due(capsys: pytest.CaptureFixture[str]) -> None:
    PlainLines(HandClock(0))([status(name, StreamState.RUNNING, 0) for name in "ab"])
    assert capsys.readouterr().err == ""


def test_state_changes_of_cameras_are_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock = HandClock(0)
    lines = PlainLines(clock)
    for state, reason in [
        (StreamState.LIVE, ""),
        (StreamState.LIVE, ""),
        (StreamState.BACKING_OFF, "gone; next attempt in 1.0 s"),
    ]:
        lines([camera("yard", state, reason)])
    assert capsys.readouterr().err.splitlines() == ["yard: live", "yard: backing off: gone; next attempt in 1.0 s"]
    clock.now = LINE_INTERVAL_NS
    lines([camera("yard", StreamState.BACKING_OFF)])
    assert capsys.readouterr().err == "30 results, 9.5 per second, 4 frames dropped\n"


def test_there_is_a_bar_for_each_running_source_and_one_for_all() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = Progress(console=console, auto_refresh=False)
    bars = Bars(progress, HandClock(0))
    bars([status("a", StreamState.RUNNING, 10), status("b", StreamState.RUNNING, 20), status("c", StreamState.WAITING, 0)])
    assert [task.description for task in progress.tasks] == ["all", "a", "b"]
    assert [task.completed for task in progress.tasks] == [30, 10, 20]
    bars([status("a", StreamState.ENDED, 100), status("b", StreamState.RUNNING, 50), status("c", StreamState.RUNNING, 1)])
    assert [task.description for task in progress.tasks] == ["all", "b", "c"]


def test_the_bar_of_a_camera_shows_its_rate_or_its_state() -> None:
    progress = Progress(console=Console(file=io.StringIO(), force_terminal=True, width=120), auto_refresh=False)
    bars = Bars(progress, HandClock(0))
    bars([camera("yard", StreamState.LIVE), camera("door", StreamState.BACKING_OFF, "gone")])
    assert [task.fields["text"] for task in progress.tasks[1:]] == ["30 results, 9.5 per second", "backing off"]
