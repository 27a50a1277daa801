"""Hooks in a separate process: what travels, and what happens when they hang or crash."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.fakes import EchoEngine, FakeSink, FakeSource, run_all
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.config.stream_policy import HookSettings
from vision_infer.core.detections import Detections
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size
from vision_infer.core.result import Result
from vision_infer.core.trace import Latency
from vision_infer.pipeline.hooks.calls import HookFailedError, ProcessHook
from vision_infer.pipeline.hooks.frame import HookFrame, NoPixelsError
from vision_infer.pipeline.runs.summary import source_summary

SIZE = Size(32, 24)
RESULT = Result("yard", 7, 0.28, SIZE, "m", "e", Detections.empty(), Latency(0, 0, 0, 0, 0, 0))
HOOKS = """
import os, time
from dataclasses import replace

state = []

def look(frame, result):
    where = {"pid": os.getpid(), "frame": [frame.stream, frame.index, frame.pts_s, frame.captured_s]}
    if frame.index % 2:
        image = frame.image
        where["image"] = [list(image.shape), image.flags.writeable, int(image.sum())]
        frame.show(image + 1)
    print("noise")
    return replace(result, extra=where)

def none(frame, result):
    return None

def fails(frame, result):
    raise KeyError("label")

def unsendable(frame, result):
    return replace(result, latency=lambda: 0)

def hangs(frame, result):
    state.append(frame.index)
    if len(state) == 2:
        time.sleep(1000)
    return result

def crashes(frame, result):
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "far_away.py").write_text(HOOKS)
    (tmp_path / "far_broken.py").write_text("import surely_not_installed\n")
    return tmp_path


@pytest.fixture
def calls() -> Iterator[list[ProcessHook]]:
    opened: list[ProcessHook] = []
    yield opened
    for call in opened:
        call.close()


def frame_of(index: int, image: np.ndarray[Any, Any] | None = None) -> HookFrame:
    def read() -> np.ndarray[Any, Any]:
        if image is None:
            raise NoPixelsError("the frame has no pixels")
        return image

    return HookFrame(read, "yard", index, 0.28, SIZE, 1.5, None)


def open_call(folder: Path, calls: list[ProcessHook], name: str, clock: HandClock | None = None, **options: Any) -> ProcessHook:
    settings = HookSettings(call=f"far_away:{name}", process=True, folder=folder, **options)
    calls.append(ProcessHook(settings, clock or HandClock()))
    return calls[-1]


def test_the_image_travels_on_request_only(folder: Path, calls: list[ProcessHook], capfd: pytest.CaptureFixture[str]) -> None:
    call = open_call(folder, calls, "look")
    image = np.full((24, 32, 3), 2, np.uint8)
    frame = frame_of(8, image)
    result = call(frame, RESULT)
    assert result.extra["pid"] not in (os.getpid(), None)
    assert result.extra["frame"] == ["yard", 8, 0.28, 1.5]
    assert "image" not in result.extra
    assert frame.shown is None
    frame = frame_of(9, image)
    result = call(frame, RESULT)
    assert result.extra["image"] == [[24, 32, 3], False, 2 * image.size]
    assert frame.shown is not None
    assert frame.shown.tolist() == (image + 1).tolist()
    with pytest.raises(NoPixelsError):
        call(frame_of(11), RESULT)
    assert call(frame_of(12), RESULT).extra["pid"] == result.extra["pid"], "the process goes on"
    printed = capfd.readouterr()
    assert "noise" not in printed.out, "standard output may be rows"


def test_errors_have_their_kind_and_place(folder: Path, calls: list[ProcessHook]) -> None:
    assert open_call(folder, calls, "none")(frame_of(0), RESULT) is None
    with pytest.raises(HookFailedError, match="label") as raised:
        open_call(folder, calls, "fails")(frame_of(0), RESULT)
    assert raised.value.kind == "KeyError"
    assert raised.value.place.startswith(f"{folder}/far_away.py:")
    with pytest.raises(HookFailedError, match="pickle"):
        open_call(folder, calls, "unsendable")(frame_of(0), RESULT)


def test_a_hook_that_hangs_is_killed_and_started_again_later(folder: Path, calls: list[ProcessHook]) -> None:
    clock = HandClock()
    call = open_call(folder, calls, "hangs", clock, timeout_s=0.3)
    assert call(frame_of(0), RESULT).frame == 7
    process = call._process
    assert process is not None
    with pytest.raises(HookFailedError, match=r"did not return within 0\.3 s") as raised:
        call(frame_of(1), RESULT)
    assert raised.value.kind == "timeout"
    assert process.returncode == -signal.SIGKILL
    clock.move(0.9)
    with pytest.raises(HookFailedError, match="starts again later") as raised:
        call(frame_of(2), RESULT)
    assert raised.value.kind == "busy"
    clock.move(0.2)
    assert call(frame_of(3), RESULT).frame == 7
    assert call._process is not process


def test_the_waits_after_crashes_are_drawn_from_growing_ranges(folder: Path, calls: list[ProcessHook]) -> None:
    clock = HandClock()
    call = open_call(folder, calls, "crashes", clock)
    waits: list[float] = []
    for _ in range(3):
        with pytest.raises(HookFailedError, match="its process has ended: SIGKILL") as raised:
            call(frame_of(0), RESULT)
        assert raised.value.kind == "crash"
        waits.append((call._start_ns - clock.monotonic_ns()) / 1e9)
        clock.move(100)
    assert all(1 <= wait <= longest for wait, longest in zip(waits, (1, 2, 4), strict=True)), waits


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("far_away:gone", "module far_away has no function gone"),
        ("far_nowhere:look", "module far_nowhere not found"),
        ("far_broken:look", "surely_not_installed"),
    ],
)
def test_a_hook_that_cannot_be_imported_is_refused(folder: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ProcessHook(HookSettings(call=name, process=True, folder=folder), HandClock())


def test_a_run_with_a_process_ends_it(folder: Path) -> None:
    sink = FakeSink()
    hook = {"call": "far_away:look", "process": True, "folder": folder}
    supervisor = run_all(EchoEngine(), [FakeSource(0, 6)], sink, {"hook": hook})
    assert sink.results() == list(range(6))
    assert source_summary(supervisor.records()[0])["hook_errors"] == 0
    (pid,) = {result.extra["pid"] for _, _, result in sink.written if result is not None and result.extra is not None}
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process of the hook has ended")
