"""``Pipeline.run`` with the built-in test pattern as its camera."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.support import media
from vision_infer import Detector, Pipeline
from vision_infer.core import packages
from vision_infer.core.errors import MissingPackageError, StreamError, UsageError
from vision_infer.core.result import Result

pytest.importorskip("onnxruntime")

PATTERN = "test://?size=160x90&fps=20"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector("clock", device="cpu")


def test_cameras_end_after_the_duration(detector: Detector) -> None:
    found = list(Pipeline(detector).run(PATTERN, PATTERN, duration=1.0))
    assert {result.stream for result in found} == {"test", "test-2"}
    assert all(result.live is not None and result.live.clock == "camera" for result in found)
    assert 0 < max(result.frame for result in found) <= 21


def test_a_slow_caller_gets_new_results_and_the_number_of_lost_frames(detector: Detector) -> None:
    with Pipeline(detector).run(PATTERN) as results:
        for _ in range(8):
            result = next(results)
            time.sleep(0.3)  # the slow caller
    assert result.live is not None
    assert sum(result.live.dropped_before.values()) > 0
    assert time.time_ns() - result.live.captured_wall_ns < 5e9


def test_async_iteration_leaves_the_event_loop_free(detector: Detector) -> None:
    async def work() -> tuple[list[Result], int]:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(other())
        found = [result async for result in Pipeline(detector).run(PATTERN, duration=1.0)]
        ticking.cancel()
        return found, turns

    found, turns = asyncio.run(work())
    assert found
    assert turns > 10


def test_a_canceled_task_ends_the_run(detector: Detector) -> None:
    before = set(threading.enumerate())

    async def work() -> None:
        async for _ in Pipeline(detector).run(PATTERN):
            pass

    async def canceled() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(), 0.5)

    asyncio.run(canceled())
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), thread.name


def test_cameras_and_files_are_not_mixed(detector: Detector) -> None:
    with pytest.raises(UsageError, match="cameras and files cannot be read in one run"):
        Pipeline(detector).run(PATTERN, media.bikes())


def test_settings_of_the_other_kind_are_refused(detector: Detector) -> None:
    with pytest.raises(UsageError, match=r"`every` applies to files only\. For cameras, use `fps`\."):
        Pipeline(detector, every=2).run(PATTERN)
    with pytest.raises(UsageError, match="`live` applies to cameras only"):
        Pipeline(detector).run("-", live=True)
    with pytest.raises(UsageError, match=r"`duration` applies to cameras only\. For files, use `end`\."):
        Pipeline(detector).run(media.bikes(), duration=3)


def test_a_camera_that_fails_is_logged_while_the_others_continue(detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    results = Pipeline(detector).run(PATTERN, "rtsp://user:secret@127.0.0.1:1/yard")
    while not any(record.message.startswith("yard: failed: ") for record in caplog.records):
        assert next(results).stream == "test"
    assert "secret" not in caplog.text
    results.close()


def test_a_camera_that_cannot_be_connected_raises_an_error(detector: Detector) -> None:
    before = set(threading.enumerate())
    with pytest.raises(StreamError, match="connection refused"):
        list(Pipeline(detector).run("rtsp://127.0.0.1:1/none"))
    with pytest.raises(StreamError, match="has no host"):
        list(Pipeline(detector).run("rtsp:///none"))
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), thread.name


def test_a_file_can_be_read_in_real_time() -> None:
    """The engine for its shape is ready before the first frame, which would be too old otherwise."""
    with Detector(device="cpu") as real:
        found = list(Pipeline(real, fps=5).run(media.excerpt(20, 10, 640, 272), live=True))
    assert 0 < len(found) <= 3
    assert all(result.live is not None and result.live.clock == "playout" for result in found)


def test_the_test_pattern_names_the_package_that_is_missing(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"the test pattern needs the package cv2.*'\.\[images\]'"):
        Pipeline(detector).run(PATTERN)
