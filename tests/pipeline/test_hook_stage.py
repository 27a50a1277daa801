"""Hooks on a thread: images on request, time limits, and what a failure costs the stream and the others."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.pipeline.conftest import Sinks
from tests.pipeline.fakes import SIDE, EchoEngine, FakeImage, FakeSink, FakeSource, add, finish, make_supervisor, wait_for
from tests.pipeline.live_fakes import Camera, Rig, running
from tests.support.waiting import wait_until
from vision_infer.config.zones import ZoneSettings
from vision_infer.core.errors import UsageError
from vision_infer.core.frame import Frame
from vision_infer.core.result import RESULT_SCHEMA, Result
from vision_infer.pipeline.hooks.frame import HookFrame
from vision_infer.pipeline.runs.summary import source_summary

HERE = __name__
YARD = ZoneSettings(polygon=((0, 0), (256, 0), (256, 256), (0, 256)), min_s=0)
seen: list[Any] = []
hanging = threading.Event()
release = threading.Event()


@pytest.fixture(autouse=True)
def _clean() -> None:
    seen.clear()
    hanging.clear()
    release.clear()


class ImageSink(FakeSink):
    """Keeps the images that it gets."""

    def __init__(self) -> None:
        super().__init__(needs_images=True, before=self._keep)
        self.images: list[np.ndarray[Any, Any]] = []

    def _keep(self, frame: Frame) -> None:
        self.images.append(frame.image.to_rgb())


def run_file(sinks: Sinks, hook: Any, count: int = 4) -> tuple[ImageSink, dict[str, Any]]:
    """Run one file with these hooks; return the sink of images and the summary of the file."""
    sink = sinks["drawn"] = ImageSink()
    source = FakeSource(0, count)
    supervisor = make_supervisor(EchoEngine(), [source])
    supervisor.add(add(source, "drawn", hook=hook))
    finish(supervisor)
    return sink, source_summary(supervisor.records()[0])


def ask(frame: HookFrame, result: Result) -> Result:
    if frame.index == 2:
        image = frame.image
        assert frame.image is image, "converted once"
        seen.append((image.shape, image.flags.writeable, int(image[0, 0, 0])))
    return result


def test_an_image_is_converted_only_on_request_and_is_read_only(sinks: Sinks, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    convert = FakeImage.to_rgb

    def counted(image: FakeImage) -> np.ndarray[Any, Any]:
        calls.append(image.numbers[0])
        return convert(image)

    monkeypatch.setattr(FakeImage, "to_rgb", counted)
    rows = sinks["rows"] = FakeSink()
    source = FakeSource(0, 4)
    supervisor = make_supervisor(EchoEngine(), [source])
    supervisor.add(add(source, "rows", hook=f"{HERE}:ask"))
    finish(supervisor)
    assert rows.results() == [0, 1, 2, 3]
    assert seen == [((SIDE, SIDE, 3), False, 2)]
    assert calls == [2]


def write(frame: HookFrame, result: Result) -> Result:
    frame.image[0] = 0
    return result


def wrong_size(frame: HookFrame, result: Result) -> Result:
    frame.show(frame.image[:10])
    return result


@pytest.mark.parametrize(("name", "words"), [("write", "read-only"), ("wrong_size", "show() needs an array uint8 [256, 256, 3]")])
def test_wrong_uses_of_an_image_are_errors(sinks: Sinks, caplog: pytest.LogCaptureFixture, name: str, words: str) -> None:
    with caplog.at_level(logging.WARNING):
        sink, summary = run_file(sinks, f"{HERE}:{name}")
    assert [int(image[0, 0, 0]) for image in sink.images] == [0, 1, 2, 3]
    assert summary["hook_errors"] == 4
    assert len(caplog.records) == 1
    assert words in caplog.text


def brighter(frame: HookFrame, result: Result) -> Result:
    frame.show(frame.image + np.uint8(100))
    return result


def test_shown_images_go_to_the_sinks_and_to_the_next_hook(sinks: Sinks) -> None:
    sink, summary = run_file(sinks, [f"{HERE}:brighter", f"{HERE}:brighter"])
    assert [int(image[0, 0, 0]) for image in sink.images] == [200, 201, 202, 203]
    assert sink.results() == [0, 1, 2, 3]
    assert summary["hook_errors"] == 0


def fails_on_even(frame: HookFrame, result: Result) -> Result:
    if frame.index % 2 == 0:
        raise KeyError("label")
    return result


def test_a_failed_frame_can_be_withheld_from_all_outputs(sinks: Sinks) -> None:
    sink, summary = run_file(sinks, f"{HERE}:fails_on_even,on_error=drop")
    assert sink.indices() == sink.results() == [1, 3]
    assert [int(image[0, 0, 0]) for image in sink.images] == [1, 3]
    assert (summary["hook_errors"], summary["dropped"], summary["frames"]) == (2, {"hook": 2}, 2)


def count_in_extra(frame: HookFrame, result: Result) -> Result:
    before = result.extra or {}
    return replace(result, extra={**before, "calls": before.get("calls", 0) + 1, "of": frame.stream})


def drop_odd(frame: HookFrame, result: Result) -> Result | None:
    return None if frame.index % 2 else result


def test_hooks_are_called_in_order_until_one_drops_the_result(sinks: Sinks) -> None:
    hooks = [f"{HERE}:count_in_extra", f"{HERE}:drop_odd", f"{HERE}:count_in_extra"]
    sink, summary = run_file(sinks, hooks)
    results = [result for _, _, result in sink.written if result is not None]
    assert [result.extra for result in results] == [{"calls": 2, "of": "s0"}] * 2
    row = json.loads(results[0].to_json())
    assert row["extra"] == {"calls": 2, "of": "s0"}
    assert set(row) <= set(RESULT_SCHEMA["properties"])
    assert summary["dropped"] == {"hook": 2}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([1], "extra must be a dict"),
        ({"a": float("nan")}, "not JSON compliant"),
        ({"a": np.float32(1)}, "not JSON serializable"),
        ({"a": "x" * 70_000}, "at most 65536 characters"),
    ],
)
def test_extra_fields_that_are_not_json_are_refused(caplog: pytest.LogCaptureFixture, extra: Any, words: str) -> None:
    source, sink = FakeSource(0, 2), FakeSink()
    supervisor = make_supervisor(EchoEngine(), [source], shared=[sink], hook=lambda frame, result: replace(result, extra=extra))
    supervisor.add(add(source))
    finish(supervisor)
    assert [result.extra for _, _, result in sink.written if result is not None] == [None, None]
    assert words in caplog.text


def hang_on_two(frame: HookFrame, result: Result) -> Result:
    seen.append(frame.index)
    if frame.index == 2:
        hanging.set()
        wait_for(release)
    return replace(result, extra={"hooked": True})


def test_a_hook_that_hangs_is_reported_and_costs_other_streams_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """After its time limit, the stream continues without the hook, until the call returns."""
    slow, other = Camera(0), Camera(1)
    with Rig() as rig:
        rig.add(slow, hook=f"{HERE}:hang_on_two,timeout_s=0.2")
        rig.add(other)
        rig.give(slow, 2)
        slow.give()
        wait_for(hanging)
        with running(rig, [other], 50):
            pass
        wait_until(lambda: len(rig.sink.indices("s0")) == 3, "the frame that was given up")
        rig.give(slow, 3)
        assert seen == [0, 1, 2], "no call while the earlier one hangs"
        status = rig.status("s0").hook
        assert status is not None
        assert (status.errors, status.timeouts) == (4, 4)
        assert "hang_on_two: timeout: did not return within 0.2 s" in status.error
        release.set()
        while len(seen) < 4:  # until the late answer is there
            rig.give(slow)
        assert rig.status("s1").hook is None
        assert rig.status("s0").dropped == {}
    hooked = [result.extra is not None for name, _, result in rig.sink.written if name == "s0" and result is not None]
    assert hooked[:6] == [True, True, False, False, False, False]
    assert hooked[-1], "the late answer is discarded, and the hook is called again"
    assert len([record for record in caplog.records if "did not return" in record.getMessage()]) == 1


def test_a_stream_with_a_hanging_hook_can_be_removed() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, hook=f"{HERE}:hang_on_two,timeout_s=0.2")
        rig.give(camera, 3)
        rig.supervisor.remove("s0")
        assert rig.supervisor.statuses() == []
        release.set()


def test_hooks_change_while_the_stream_runs() -> None:
    camera = Camera(0)
    with Rig() as rig:
        command = rig.add(camera)
        rig.give(camera, 2)
        command = rig.change(command, hook=f"{HERE}:count_in_extra")
        rig.give(camera, 2)
        with pytest.raises(UsageError, match="no function gone"):
            rig.change(command, hook=[f"{HERE}:drop_odd", f"{HERE}:gone"])
        rig.give(camera, 2)
        rig.change(command, hook=())
        rig.give(camera, 2)
        status = rig.status()
        assert (camera.attempts, status.results, status.dropped) == (1, 8, {})
    assert rig.sink.indices() == list(range(8))
    extras = [result.extra is not None for _, _, result in rig.sink.written if result is not None]
    assert extras == [False, False, True, True, True, True, False, False]


def slowly(frame: HookFrame, result: Result) -> Result:
    seen.append(frame.index)
    threading.Event().wait(0.02)
    return result


def test_a_camera_with_a_slow_hook_drops_frames_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, hook=f"{HERE}:slowly")
        given = 0
        while len(seen) < 51:  # a frame comes at once when the one before has left the decoder
            camera.give(20)
            given += 20
            wait_until(lambda: rig.status().decoded >= given, "the frames to be decoded")  # noqa: B023
        status = rig.status()
        assert status.dropped["backlogged"] > 0
        assert status.hook is not None
        assert status.hook.ms["p50"] >= 20
        wait_until(lambda: "frames are dropped (backlogged)" in caplog.text, "the warning")
    assert caplog.text.count("its hooks take") == 1


def read_size(frame: HookFrame, result: Result) -> Result:
    return replace(result, extra={"height": frame.image.shape[0]})


def test_the_last_events_pass_hooks_that_need_an_image() -> None:
    """The last result of a stream with zones has no image: a hook that reads it is left out, without an error."""
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, track=0.3, zones={"yard": YARD}, hook=[f"{HERE}:read_size", f"{HERE}:note_events"])
        rig.give(camera, 20)
        hook = rig.status().hook
        assert hook is not None
        assert hook.errors == 0
        rig.supervisor.remove("s0")
    *_, (_, _, last) = rig.sink.written
    assert last is not None
    assert [event.kind for event in last.events] == ["leave"]
    assert (last.extra, len(last.detections)) == ({"seen": ["leave"]}, 0)


def note_events(frame: HookFrame, result: Result) -> Result:
    kinds = [event.kind for event in result.events]
    return replace(result, extra={"seen": kinds}) if kinds else result
