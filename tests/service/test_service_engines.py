"""Events of engines while the service runs: swapped and hanging engines."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.fakes import LONG_S
from tests.pipeline.live_fakes import Camera
from tests.service.site import CountedEngine, Engines, Site, engines, settings, wanted
from tests.support.waiting import wait_until
from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.engine.open import EngineRequest
from vision_infer.pipeline import supervisor
from vision_infer.pipeline.status import StreamState
from vision_infer.service.errors import UnavailableError
from vision_infer.service.events import EngineEvent
from vision_infer.service.streams import lanes

__all__ = ["engines"]


def engine_changes(site: Site) -> list[tuple[str, str, str]]:
    return [(event.lane, event.change, event.engine) for event in site.service.events() if isinstance(event, EngineEvent)]


def better(engines: Engines) -> CountedEngine:
    engine = CountedEngine("one", engines)
    engine.name = "better-cpu-fp32"
    return engine


@pytest.fixture
def requests(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The engines that were opened: the model and the device."""
    noted: list[tuple[str, str]] = []

    def open_it(path: Path, request: EngineRequest, on_message: Any) -> tuple[CountedEngine, None]:
        noted.append((path.name, request.device))
        return engines.open(path, request, on_message), None

    monkeypatch.setattr(lanes, "open_quickly", open_it)
    return noted


def test_each_lane_has_an_engine_on_each_device(engines: Engines, requests: list[tuple[str, str]]) -> None:
    cameras = [Camera(0), Camera(1), Camera(2)]
    streams = {camera.name: wanted(camera, model=model) for camera, model in zip(cameras, ("one", "two", "one"), strict=True)}
    with Site(*cameras, of=settings(streams, device="cuda:0,cuda:1")) as site:
        for camera in cameras:
            site.give(camera)
        devices = [[replica.device for replica in lane.replicas] for lane in site.service.lanes()]
    assert requests == [("one", "cuda:0"), ("one", "cuda:1"), ("two", "cuda:0"), ("two", "cuda:1")]
    assert devices == [["cuda:0", "cuda:1"]] * 2
    assert sorted(engines.closed) == ["one", "one", "two", "two"]


def test_a_device_that_cannot_be_used_is_reported_and_left_out(
    engines: Engines, requests: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    def before_open(model: str) -> None:
        if requests[-1][1] == "cuda:0":
            raise EngineError("cuda:0 has no memory left", "Free some.")

    engines.before_open = before_open
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)}, device="cuda:0,cuda:1")) as site:
        site.give(camera)
        (lane,) = site.service.lanes()
    assert [replica.device for replica in lane.replicas] == ["cuda:1"]
    assert "cuda:0 is not used: cuda:0 has no memory left. Free some." in caplog.text


def test_a_device_that_is_lost_while_serving_is_an_event_and_the_streams_go_on(
    engines: Engines, requests: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    first: list[CountedEngine] = []
    plain = engines.open

    def open_it(*given: Any) -> CountedEngine:
        engine = plain(*given)
        first.append(engine)
        return engine

    engines.open = open_it  # type: ignore[method-assign, assignment]
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)}, device="cuda:0,cuda:1")) as site:
        site.give(camera)

        def lost(batch: object) -> None:
            raise DeviceLostError("cuda:0 is gone", "Look at dmesg.")

        first[0]._run = lost
        while not engine_changes(site):
            camera.give()
        before = site.status("s0").results
        camera.give()
        wait_until(lambda: site.status("s0").results > before, "a result of the other device")
        assert site.service.ready()[0]
        (event,) = (one for one in site.service.events() if isinstance(one, EngineEvent))
        (lane,) = site.service.lanes()
    assert (event.lane, event.change, event.engine) == ("one", "removed", first[0].name)
    assert event.reason == "cuda:0 is no longer used: cuda:0 is gone. Look at dmesg."
    assert [replica.removed for replica in lane.replicas] == ["cuda:0 is gone. Look at dmesg.", None]
    assert "on cuda:0 is no longer used, the lane continues on its other devices: cuda:0 is gone" in caplog.text


def test_the_engine_of_one_device_is_swapped(engines: Engines, requests: list[tuple[str, str]]) -> None:
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)}, device="cuda:0,cuda:1")) as site:
        site.give(camera)
        assert site.service._lanes._swap("one", better(engines), replica=1) is not None
        (lane,) = site.service.lanes()
        assert [replica.engine for replica in lane.replicas] == ["echo-cpu-none", "better-cpu-fp32"]


class Held:
    """Engines that hold their batches until released."""

    def __init__(self, engines: Engines) -> None:
        self.release = threading.Event()
        self.inside = threading.Event()
        engines.run = self._run

    def _run(self, model: str, batch: object) -> None:
        self.inside.set()
        assert self.release.wait(LONG_S)


@pytest.fixture
def held(engines: Engines) -> Iterator[Held]:
    made = Held(engines)
    yield made
    made.release.set()


def test_a_swapped_engine_is_an_event(engines: Engines) -> None:
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)})) as site:
        site.give(camera)
        before = site.status("s0").engine
        old = site.service._lanes._swap("one", better(engines))
        assert old is not None
        old.__exit__(None, None, None)
        site.give(camera)
        assert site.status("s0").engine == "better-cpu-fp32"
        assert engine_changes(site) == [("one", "swapped", "better-cpu-fp32")]
        (event,) = (one for one in site.service.events() if isinstance(one, EngineEvent))
        assert event.reason == f"replaces {before}"


def test_an_old_engine_that_hangs_is_reported(
    engines: Engines, held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lanes, "SWAP_TIMEOUT_S", 0.01)
    camera = Camera(0)
    with Site(camera, of=settings({"s0": wanted(camera)})) as site:
        camera.give()
        assert held.inside.wait(LONG_S)
        name = site.status("s0").engine
        assert site.service._lanes._swap("one", better(engines)) is None
        assert engine_changes(site) == [("one", "swapped", "better-cpu-fp32"), ("one", "hanging", name)]
        assert f"one: {name}: no response to a batch for 0 s: the engine is abandoned" in caplog.text
        held.release.set()


def test_a_stream_with_a_hanging_engine_is_removed_and_the_engine_reported(
    engines: Engines, held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "REMOVE_TIMEOUT_S", 0.05)
    caplog.set_level(logging.ERROR)
    camera, other = Camera(0), Camera(1)
    with Site(camera, other, of=settings({"s1": wanted(other, model="two")})) as site:
        site.service.create("s0", wanted(camera))
        camera.give()
        assert held.inside.wait(LONG_S)
        name = site.status("s0").engine
        site.service.delete("s0")
        assert engine_changes(site) == [("one", "hanging", name)]
        assert f"{name}: no response to a batch for 0 s: s0 was removed without its last frames" in caplog.text
        with pytest.raises(UnavailableError, match="s0: an engine still holds frames"):
            site.service.create("s0", wanted(camera))
        held.release.set()
        wait_until(lambda: site.service._supervisor.status("s0") is None, "the last frames to be returned")
        site.service.create("s0", wanted(camera))
        site.give(camera)
        assert site.wait_state("s0", StreamState.LIVE)
