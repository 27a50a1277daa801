"""Streams and lanes are added, changed and removed without an effect on others."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import replace

import pytest

from tests.pipeline.fakes import EchoEngine, FakeImage, wait_for
from tests.pipeline.live_fakes import SOON, Camera, Rig, running
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.analyze.select import Selector
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.core.card import parse_card
from vision_infer.core.errors import UsageError
from vision_infer.core.result import Result
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.status import StreamState

YARD = ZoneSettings(polygon=((0, 0), (256, 0), (256, 256), (0, 256)), min_s=0)
CORNER = ZoneSettings(polygon=((200, 200), (250, 200), (250, 250)), min_s=0)
GATE = LineSettings(from_=(58, 250), to=(58, 0))


def test_adding_changing_and_removing_streams_costs_the_others_no_frame() -> None:
    steady = [Camera(0), Camera(1)]
    with Rig(engine=EchoEngine(2, (1, 2, 4))) as rig:
        for camera in steady:
            rig.add(camera)
        with running(rig, steady, 150):
            for number in range(2, 22):
                other = Camera(number)
                command = rig.add(other)
                rig.give(other, 2)
                command = rig.change(command, weight=2.0, fps=100.0)
                other.path = "rtsp://elsewhere/main"
                command = rig.change(command, source=other.spec)
                rig.give(other)
                rig.supervisor.remove(other.name)
        for camera in steady:
            status = rig.status(camera.name)
            assert rig.sink.results(camera.name) == list(range(150))
            assert (status.decoded, status.results, status.dropped, status.reconnects) == (150, 150, {}, 0)
            assert camera.attempts == 1
            assert rig.states(camera.name) == [StreamState.CONNECTING, StreamState.LIVE]


def test_a_blocked_or_refused_camera_costs_the_others_no_frame() -> None:
    steady, hung, broken = Camera(0), Camera(1), Camera(2)
    with Rig() as rig:
        for camera in (steady, hung, broken):
            rig.add(camera)
        hung.hang_here()
        for _ in range(50):
            broken.end(RuntimeError("broken"))
        with running(rig, [steady], 100):
            wait_for(hung.hangs)
            rig.supervisor.remove("s1")
        assert rig.status("s0").dropped == {}
        wait_until(lambda: broken.attempts >= 50)


@pytest.mark.parametrize(
    "changes",
    [
        {"fps": 1000.0},
        {"weight": 3.0},
        {"selector": Selector(confidence=0.5, iou=None)},
        {"track": 0.4},
        {"track": 0.4, "zones": {"yard": YARD}},
        {"min_size": 3.0},
        {"hook": "operator:add"},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_changes_keep_the_connection_and_the_counts(changes: dict[str, object]) -> None:
    camera = Camera(0)
    with Rig() as rig:
        command = rig.add(camera)
        rig.give(camera, 5)
        reported = len(rig.events)
        rig.change(command, **changes)
        rig.give(camera, 5)
        status = rig.status()
        assert (camera.attempts, status.reconnects, status.decoded) == (1, 0, 10)
        assert rig.sink.indices() == list(range(10))
        assert len(rig.events) == reported
        assert status.weight == changes.get("weight", 1.0)
        assert status.wanted_fps == changes.get("fps")


@pytest.mark.parametrize("what", ["url", "reconnect"])
def test_other_changes_reconnect(what: str) -> None:
    camera = Camera(0)
    with Rig() as rig:
        command = rig.add(camera)
        rig.give(camera, 3)
        camera.path = "rtsp://elsewhere/main" if what == "url" else camera.path
        changes: dict[str, dict[str, object]] = {
            "url": {"source": camera.spec},
            "reconnect": {"reconnect": SOON.model_copy(update={"refused_s": 5.0})},
        }
        rig.change(command, **changes[what])
        rig.give(camera, 2)
        assert [connection.given for connection in camera.opened] == [3, 2]
        assert camera.opened[0].closed.is_set()
        assert rig.status().decoded == 2


def result_of(rig: Rig, place: int) -> Result:
    result = rig.sink.written[place][2]
    assert result is not None
    return result


def tracks_of(rig: Rig) -> set[int]:
    ids = result_of(rig, -1).detections.track_ids
    return set() if ids is None else set(ids.tolist())


def test_tracks_and_counts_survive_unrelated_changes() -> None:
    """The object moves a pixel to the right with each frame."""
    camera = Camera(0)
    with Rig() as rig:
        command = rig.add(camera, track=0.3, zones={"yard": YARD}, lines={"gate": GATE})
        rig.give(camera, 60)
        track = tracks_of(rig)
        assert len(track) == 1
        counts = rig.status().counts
        assert (rig.status().occupancy, counts) == ({"yard": 1}, {"gate": (1, 0)})
        changes: list[dict[str, object]] = [
            {"weight": 2.0},
            {"fps": 900.0},
            {"min_size": 2.0},
            {"track": 0.6},
            {"track_per_class": {0: 0.7}},
            {"selector": Selector(confidence=0.05, iou=None)},
        ]
        for change in changes:
            command = rig.change(command, **change)
            rig.give(camera)
            assert tracks_of(rig) == track, change
            assert (rig.status().occupancy, rig.status().counts) == ({"yard": 1}, counts), change
        rig.change(command, zones={"corner": CORNER})
        rig.give(camera)
        assert tracks_of(rig) == track
        assert rig.status().occupancy == {"corner": 0}


def test_a_higher_track_threshold_applies_from_the_next_frame() -> None:
    camera = Camera(0)
    with Rig() as rig:
        command = rig.add(camera, track=0.3)
        rig.change(command, track=0.95)
        rig.give(camera, 3)
        assert len(result_of(rig, -1).detections) == 0
        rig.change(command, track=None)
        rig.give(camera)
        assert len(result_of(rig, -1).detections) == 1
        assert not tracks_of(rig)


@pytest.mark.parametrize(
    "changes",
    [
        {"track": 0.3, "zones": {"yard": YARD.model_copy(update={"classes": ("unicorn",)})}},
        {"hook": "no_such_module_at_all:hook", "weight": 5.0, "track": 0.9},
    ],
    ids=["zone", "hook"],
)
@pytest.mark.parametrize("url", [False, True])
def test_a_refused_change_leaves_the_stream_unchanged(changes: dict[str, object], url: bool) -> None:
    clock = HandClock()  # tracks depend on the times of the frames
    camera = Camera(0, clock=clock)
    engine = EchoEngine()
    engine.card = parse_card(
        {"name": "echo", "input": {"width": 256, "height": 256}, "fit": "stretch", "iou": None, "labels": ["person"]}, "echo"
    )
    with Rig(engine=engine, clock=clock) as rig:

        def give_three() -> None:
            for _ in range(3):
                clock.move(0.04)
                rig.give(camera)

        command = rig.add(camera, track=0.3, zones={"yard": YARD})
        give_three()
        track, reported = tracks_of(rig), len(rig.events)
        if url:
            changes = {**changes, "source": replace(camera.spec, paths=("rtsp://elsewhere/",))}
        with pytest.raises(UsageError):
            rig.change(command, **changes)
        give_three()
        assert tracks_of(rig) == track == {1}
        assert rig.status().occupancy == {"yard": 1}
        assert (rig.status().weight, camera.attempts, len(rig.events)) == (1.0, 1, reported)
        assert rig.sink.indices() == list(range(6))


def test_a_refused_new_stream_leaves_nothing_behind() -> None:
    camera = Camera(0)
    with Rig() as rig:
        with pytest.raises(UsageError):
            rig.add(camera, hook="no_such_module_at_all:hook")
        assert rig.supervisor.statuses() == []
        rig.add(camera)
        rig.give(camera)


def test_an_unknown_stream_cannot_be_changed() -> None:
    file = Camera(0, path="/videos/door.mp4")
    with Rig() as rig:
        with pytest.raises(KeyError):
            rig.supervisor.change(AddStream(Camera(7).spec, "main"))
        command = rig.add(file)
        file.end()
        rig.wait_state(StreamState.ENDED)
        with pytest.raises(KeyError):
            rig.supervisor.change(command)
        rig.supervisor.remove("s0")
        rig.supervisor.remove("s0")
        rig.supervisor.remove("never there")


# Nothing is left


def counts_of(rig: Rig) -> dict[str, int]:
    supervisor = rig.supervisor
    return {
        "threads": threading.active_count(),
        "records": len(supervisor.records()),
        "active": len(supervisor._active),
        "forgotten": len(supervisor._forgotten),
        "stage": len(supervisor._stage._streams),
        "dispatch": len(supervisor._dispatch._batcher.streams),
        "accounts": len(supervisor._dispatch._batcher.shares._accounts),
        "waiting": supervisor._dispatch._batcher.waiting,
    }


def test_hundreds_of_removed_streams_leave_nothing_behind() -> None:
    steady = Camera(0)
    with Rig(engine=EchoEngine(2, (1, 2))) as rig:
        rig.add(steady)
        rig.give(steady)
        before = counts_of(rig)
        with running(rig, [steady], 100):
            for number in range(300):
                camera = Camera(1 + number % 3)
                if number % 7 == 0:
                    camera.refusals = [RuntimeError("no") for _ in range(3)]
                rig.add(camera)
                if number % 2:
                    camera.give(3)
                if number % 5 == 0:
                    rig.give(camera)
                rig.supervisor.remove(camera.name)
        wait_until(lambda: threading.active_count() <= before["threads"])
        assert counts_of(rig) == before
        assert rig.sink.results("s0") == list(range(101))
        gc.collect()
        wait_until(lambda: len(FakeImage.alive) <= 1)


def test_many_blocked_cameras_are_removed_without_waiting() -> None:
    cameras = [Camera(number) for number in range(50)]
    with Rig() as rig:
        for camera in cameras:
            camera.hang_when_opened = True
            rig.add(camera)
        for camera in cameras:
            wait_for(camera.hangs)
        began = time.monotonic()
        for camera in cameras:
            rig.supervisor.remove(camera.name)
        assert time.monotonic() - began < 10
        assert rig.supervisor.statuses() == []
        for camera in cameras:
            camera.release.set()
        wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("stream-")])
