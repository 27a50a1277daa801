"""Samples of live streams: a limited number per day, a limited size, and counts of what became of frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.service.fakes import WALL_NS, FakeBackend, frame, result
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.config.actions.sample import SampleSettings, SampleStoreSettings
from vision_infer.config.serve import ServeSettings
from vision_infer.config.service.result_files import ResultsSettings
from vision_infer.config.sinks import SinksSettings
from vision_infer.core.frame import Frame
from vision_infer.core.result import LiveAccount, Result
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.samples import Samples
from vision_infer.service.results.sinks import SinkSet
from vision_infer.stream.files.images import read_image
from vision_infer.stream.image import ArrayImage

DAY_S = 86_400


class Site:
    """Samples with settings and a clock that the test moves."""

    def __init__(self, folder: Path, max_bytes: int = 10**9, keep_free_bytes: int = 0, **settings: object) -> None:
        self.clock = HandClock()
        self.seconds = 0.0
        self.folder = folder
        wanted = {"door": SampleSettings.model_validate(settings)}
        self.samples = Samples(folder, max_bytes, keep_free_bytes, lambda: dict(wanted), self.clock)
        shown, nothing = self.one({})
        self.samples.write(shown, replace(nothing, gated=True))  # starts the thread, which reads the settings
        wait_until(lambda: bool(self.samples._wanted), lambda: "no settings")

    def one(self, found: dict[str, float], brightness: int = 0) -> tuple[Frame, Result]:
        live = LiveAccount(WALL_NS + round(self.seconds * 1e9), 0, "arrival", {})
        image = ArrayImage(np.full((48, 64, 3), brightness, np.uint8))
        return replace(frame(), image=image), replace(result("door", 0, found), live=live, pts_s=self.seconds)

    def give(self, score: float = 0.9, after_s: float = 1.0, brightness: int = 0) -> None:
        """Pass on a frame with one detection, and wait until it was looked at."""
        self.seconds += after_s
        self.clock.move(after_s)
        self.samples.write(*self.one({"person": score}, brightness))
        wait_until(lambda: not self.samples._queue, lambda: "the thread is busy")

    def images(self) -> list[Path]:
        return sorted(self.folder.rglob("*.jpg"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**settings: Any) -> Site:
        made.append(Site(tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.samples.close(True)


def brightness_of(path: Path) -> int:
    return round(float(read_image(str(path)).mean()))


def test_the_least_certain_frames_of_each_day_are_kept(site: Callable[..., Site]) -> None:
    one = site(per_day=2)
    for number, score in enumerate((0.9, 0.8, 0.5, 0.95, 0.55)):
        one.give(score, brightness=50 * number)
    assert [brightness_of(path) for path in one.images()] == [100, 200]
    assert [path.parent.name for path in one.images()] == ["door", "door"]
    one.give(0.99, DAY_S, brightness=30)
    assert len(one.images()) == 3
    assert (one.samples.written, dict(one.samples.drops)) == (5, {"replaced": 2})


def test_frames_are_compared_once_a_second(site: Callable[..., Site]) -> None:
    one = site(per_day=5)
    for _ in range(8):
        one.give(0.5, after_s=0.25)
    assert len(one.images()) == 2


def test_every_nth_frame_up_to_the_limit(site: Callable[..., Site]) -> None:
    one = site(pick="every:3", per_day=2)
    for number in range(10):
        one.give(after_s=0.1, brightness=20 * number)
    assert [brightness_of(path) for path in one.images()] == [0, 60]


def test_different_frames_are_kept(site: Callable[..., Site]) -> None:
    one = site(pick="diverse", per_day=2)
    for brightness in (10, 12, 14, 240):
        one.give(brightness=brightness)
    assert [brightness_of(path) for path in one.images()][-1] == 240
    assert len(one.images()) == 2


def test_a_restart_respects_the_limit_of_the_day(site: Callable[..., Site]) -> None:
    first = site(per_day=2)
    first.give(0.5)
    first.give(0.6)
    again = site(per_day=2)
    again.seconds = 100
    again.give(0.5)
    assert len(again.images()) == 2


def test_the_oldest_are_deleted_when_the_folder_is_full(site: Callable[..., Site], tmp_path: Path) -> None:
    (tmp_path / "door").mkdir()
    (tmp_path / "door" / "mine.jpg").write_bytes(bytes(5000))
    one = site(per_day=10, max_bytes=2000)
    for number in range(8):
        one.give(0.5, brightness=10 * number)
    own = [path for path in one.images() if path.name != "mine.jpg"]
    assert sum(path.stat().st_size for path in own) <= 2000
    assert brightness_of(own[-1]) == 70
    assert one.samples.drops["removed"] == 8 - len(own) > 0
    assert (tmp_path / "door" / "mine.jpg").exists(), "other files are not touched"


def test_an_image_that_vanishes_while_the_folder_is_read_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "door").mkdir()
    (tmp_path / "door" / "20260101T000000.000Z.jpg").symlink_to("gone")  # listed, but without a size
    assert Samples(tmp_path, 10**9, 0, dict, HandClock())._files == {tmp_path / "door" / "20260101T000000.000Z.jpg": 0}


def test_a_full_disk_is_reported(site: Callable[..., Site]) -> None:
    one = site(keep_free_bytes=10**18)
    one.give(0.5)
    assert one.images() == []
    assert one.samples.drops["failed"] == 1
    assert "too little free space" in (one.samples.error or "")


def test_a_busy_thread_costs_frames_and_the_results_do_not_wait(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = site(pick="every:1")
    held = threading.Event()
    monkeypatch.setattr(one.samples, "_offer", lambda *_: held.wait(20))
    for _ in range(6):
        one.samples.write(*one.one({"person": 0.5}))
    assert one.samples.drops["busy"] == 2
    held.set()


def test_the_status_is_that_of_a_sink(tmp_path: Path) -> None:
    backend = FakeBackend()
    view = backend.put("door", "rtsp://10.0.0.5/door")
    settings = view.settings.model_copy(update={"sample": SampleSettings(pick="every:1")})
    backend.kept["door"] = replace(view, settings=settings)
    sinks = SinkSet(ResultsSettings(), SinksSettings(), tmp_path, samples=SampleStoreSettings(dir=tmp_path / "samples"))
    sinks.connect(backend.streams, ResultHub())
    wait_until(lambda: _written(sinks) > 0, lambda: str(sinks.statuses()))
    (status,) = sinks.statuses()
    sinks.close()
    assert (status.kind, status.connected, status.error) == ("samples", True, None)
    assert list((tmp_path / "samples" / "door").glob("*.jpg"))


def _written(sinks: SinkSet) -> int:
    sinks.write(frame("door"), result("door"))
    return sinks.statuses()[0].sent


def test_a_stream_needs_the_folder() -> None:
    streams = {"door": {"detect": "test://", "sample": {"pick": "diverse"}}}
    with pytest.raises(ValidationError, match=r"samples.dir: is needed"):
        ServeSettings.model_validate({"streams": streams})
    ServeSettings.model_validate({"streams": streams, "samples": {"dir": "/data/samples"}})
    with pytest.raises(ValidationError, match="must be uncertain, diverse, disagree or every:N"):
        ServeSettings.model_validate({"streams": {"door": {"detect": "test://", "sample": {"pick": "all"}}}})


def test_an_error_in_the_settings_does_not_end_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.service.results.samples._REFRESH_S", 0.01)
    calls: list[None] = []

    def present() -> dict[str, SampleSettings | None]:
        calls.append(None)
        if len(calls) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return {"door": SampleSettings.model_validate({"pick": "every:1"})}

    samples = Samples(tmp_path, 10**9, 0, present, HandClock())
    shown = replace(frame(), image=ArrayImage(np.zeros((48, 64, 3), np.uint8)))
    samples.write(shown, replace(result("door", 0, {}), gated=True))
    wait_until(lambda: bool(samples._wanted), lambda: "the thread has ended")
    samples.write(shown, result("door", 0, {}))
    samples.close(True)
    assert samples.written == 1


def test_nothing_is_kept_for_removed_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.service.results.samples._REFRESH_S", 0.01)
    wanted = {"door": SampleSettings.model_validate({"pick": "every:1"})}
    samples = Samples(tmp_path, 10**9, 0, lambda: dict(wanted), HandClock())
    shown = replace(frame(), image=ArrayImage(np.zeros((48, 64, 3), np.uint8)))
    samples.write(shown, replace(result("door", 0, {}), gated=True))
    wait_until(lambda: bool(samples._wanted), lambda: "no settings")
    samples.write(shown, result("door", 0, {}))
    wait_until(lambda: "door" in samples._days, lambda: "no sample")
    wanted.clear()
    wait_until(lambda: not samples._days, lambda: "the day is kept")
    samples.close(True)


def test_the_frames_on_which_the_shadow_model_differs_most_are_kept(site: Callable[..., Site]) -> None:
    one = site(pick="disagree", per_day=2)
    one.give(0.5)  # no other model has seen it
    for brightness, difference in ((10, (0, 0.0)), (60, (1, 0.1)), (110, (3, 0.0)), (160, (0, 0.2)), (210, (2, 0.0))):
        one.seconds += 1
        one.samples.compared(*one.one({"person": 0.9}, brightness), difference)
        wait_until(lambda: not one.samples._queue, lambda: "the thread is busy")
    assert [round(brightness_of(path), -1) for path in one.images()] == [110, 210]
    assert one.samples.drops == {"replaced": 1}
