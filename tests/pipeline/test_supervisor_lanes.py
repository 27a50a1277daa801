"""Lanes: several at once, adding and removing, batches of several streams, and failing engines."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from tests.pipeline.fakes import CARD, EchoEngine, wait_for
from tests.pipeline.live_fakes import SOON, Camera, Rig, dropped, lane_of, running
from tests.support.waiting import wait_until
from vision_infer.analyze.select import Selector
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.status import StreamState


def test_two_lanes_at_once_and_removing_one() -> None:
    first, second = EchoEngine(2), EchoEngine(2)
    cameras = [Camera(number) for number in range(4)]
    with Rig(engine=first, in_flight=2) as rig:
        rig.supervisor.add_lane(lane_of("second", second))
        with pytest.raises(ValueError, match="second"):
            rig.supervisor.add_lane(lane_of("second", second))
        for camera in cameras:
            rig.cameras[camera.name] = camera
            lane = "main" if camera.number % 2 == 0 else "second"
            rig.supervisor.add(AddStream(camera.spec, lane, reconnect=SOON))
        with running(rig, cameras, 40):
            pass
        for engine, odd in ((first, 0), (second, 1)):
            assert {stream % 2 for batch in engine.batches for stream, _ in batch} == {odd}
        statuses = {status.name: status for status in rig.supervisor.lane_statuses()}
        assert {name: status.frames for name, status in statuses.items()} == {"main": 80, "second": 80}
        with pytest.raises(ValueError, match="in use"):
            rig.supervisor.remove_lane("second")
        rig.supervisor.remove("s1")
        rig.supervisor.remove("s3")
        rig.supervisor.remove_lane("second")
        assert [status.name for status in rig.supervisor.lane_statuses()] == ["main"]
        rig.give(cameras[0], 3)
        with pytest.raises(ValueError, match="lane 'second' does not exist"):
            rig.supervisor.add(AddStream(cameras[1].spec, "second"))
        rig.supervisor.add_lane(lane_of("second", second))
        assert rig.supervisor.lane_statuses()[1].frames == 0


def test_lanes_can_change_while_statuses_are_read() -> None:
    stop = threading.Event()
    failed: list[BaseException] = []
    with Rig() as rig:

        def look() -> None:
            try:
                while not stop.wait(0.001):  # without a pause, the readers would keep the interpreter busy
                    rig.supervisor.lane_statuses()
                    rig.supervisor.statuses()
            except BaseException as error:  # noqa: BLE001
                failed.append(error)

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        engine, camera = EchoEngine(), Camera(0)
        try:
            for _ in range(60):
                rig.supervisor.add_lane(lane_of("second", engine))
                rig.cameras["s0"] = camera
                rig.supervisor.add(AddStream(camera.spec, "second", reconnect=SOON))
                rig.give(camera)
                rig.supervisor.remove("s0")
                rig.supervisor.remove_lane("second")
        finally:
            stop.set()
        for thread in threads:
            thread.join()
        assert not failed, failed


@pytest.mark.parametrize("batch", [2, 4])
def test_each_stream_of_a_batch_has_its_own_selector(batch: int) -> None:
    """One box with a score of 0.9 in every image: too low for the streams with odd numbers."""
    gate, taken = threading.Event(), threading.Event()

    def run(places: list[tuple[int, int]]) -> None:
        if not taken.is_set():
            taken.set()
            wait_for(gate)

    engine = EchoEngine(1, (1, 2, 4)[: batch // 2 + 1], run=run)
    cameras = [Camera(number) for number in range(batch)]
    first = Camera(100)
    with Rig(engine=engine) as rig:
        rig.add(first)
        first.give()
        wait_for(taken)
        for camera in cameras:
            rig.add(camera, selector=Selector(confidence=0.95 if camera.number % 2 else 0.2, iou=None))
            camera.give()
        wait_until(lambda: rig.supervisor.lane_statuses()[0].waiting == batch)
        gate.set()
        wait_until(lambda: len(rig.sink.written) == batch + 1)
        assert len(engine.batches[1]) == batch
        for name, _, result in rig.sink.written[1:]:
            assert result is not None
            assert len(result.detections) == (0 if int(name[1:]) % 2 else 1)
            assert result.stream == name


def test_weights_share_the_engines_time() -> None:
    """Both mailboxes are never empty: the engine infers twice as many frames of one stream as of the other."""
    served: Counter[int] = Counter()
    heavy, light = Camera(0), Camera(1)
    cameras = {0: heavy, 1: light}
    ready = threading.Event()

    def run(places: list[tuple[int, int]]) -> None:
        """Time advances by whole frames: the next frame of each stream waits before this one is done."""
        if not ready.is_set():
            return
        ((number, _),) = places
        served[number] += 1
        camera = cameras[number]
        before = 2 + served.total() - 1
        wait_until(lambda: len(rig.sink.written) >= before)  # otherwise the streams' windows fill up on a busy machine
        decoded = rig.status(camera.name).decoded
        camera.give()
        wait_until(lambda: rig.status(camera.name).decoded > decoded)

    rig = Rig(engine=EchoEngine(run=run))
    with rig:
        rig.add(heavy, weight=2.0)
        rig.add(light, weight=1.0)
        rig.give(heavy)
        rig.give(light)
        ready.set()
        heavy.give()
        light.give()
        wait_until(lambda: served.total() >= 300)
        ready.clear()
        wait_until(lambda: len(rig.sink.written) == sum(camera.opened[0].given for camera in cameras.values()))
        share = served[0] / served.total()
        assert share == pytest.approx(2 / 3, rel=0.05)
        ratio = rig.status("s0").engine_ns / rig.status("s1").engine_ns
        assert ratio == pytest.approx(2, rel=0.1)


def test_only_the_batch_on_which_the_engine_fails_is_lost() -> None:
    def run(places: list[tuple[int, int]]) -> None:
        if any(index in (3, 4, 8) for stream, index in places if stream == 0):
            raise RuntimeError("out of memory")

    engine = EchoEngine(run=run)
    camera, other = Camera(0), Camera(1)
    with Rig(engine=engine) as rig:
        rig.add(camera)
        rig.add(other)
        for index in range(10):
            camera.give()
            wait_until(lambda index=index: rig.status().results + dropped(rig.status()) == index + 1)  # type: ignore[misc]
            rig.give(other)
        status = rig.status()
        assert (status.decoded, status.results, status.dropped) == (10, 7, {"failed": 3})
        assert status.state is StreamState.LIVE
        assert rig.sink.results("s0") == [0, 1, 2, 5, 6, 7, 9]
        assert rig.sink.results("s1") == list(range(10))
        (lane,) = rig.supervisor.lane_statuses()
        assert lane.failures == 3
        assert lane.error is not None
        assert "out of memory" in lane.error
        assert rig.supervisor.error is None


def test_an_engine_that_always_fails_costs_no_credit() -> None:
    def run(places: list[tuple[int, int]]) -> None:
        raise RuntimeError("gone")

    camera = Camera(0)
    with Rig(engine=EchoEngine(run=run)) as rig:
        rig.add(camera)
        for count in range(1, 60):
            camera.give()
            wait_until(lambda count=count: dropped(rig.status()) == count)  # type: ignore[misc]
        assert rig.status().dropped == {"failed": 59}
        rig.supervisor.remove("s0")
        assert rig.supervisor.statuses() == []


def test_a_lane_counts_its_work() -> None:
    camera = Camera(0)
    with Rig(engine=EchoEngine(1, (2,))) as rig:
        rig.add(camera)
        rig.give(camera, 10)
        (lane,) = rig.supervisor.lane_statuses()
        assert (lane.frames, lane.padded, dict(lane.batches)) == (10, 10, {1: 10})
        assert (lane.waiting, lane.flying, lane.failures, lane.error) == (0, 0, 0, None)
        assert lane.model == CARD.name
