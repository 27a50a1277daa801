"""The watch over live streams: stalls and rates. The test controls its clock."""

from __future__ import annotations

import pytest

from tests.pipeline.live_fakes import Camera, Rig, dropped
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import RefusedError
from vision_infer.pipeline.status import StreamState
from vision_infer.pipeline.workers.live_watch import LiveWatch
from vision_infer.pipeline.workers.live_worker import LiveWorker

S = StreamState


class _Watched:
    """A rig whose watch is called by the test."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def look(self) -> None:
        watch: LiveWatch = self.rig.supervisor._watch
        watch.look()


def steady(rig: Rig, clock: HandClock, camera: Camera, count: int, interval_s: float) -> None:
    for _ in range(count):
        clock.move(interval_s)
        rig.give(camera)


@pytest.mark.parametrize(("interval_s", "stalls_after_s"), [(0.04, 1.0), (0.2, 1.0), (1.0, 5.0), (4.0, 20.0)])
def test_a_stream_stalls_after_five_intervals_and_at_least_a_second(interval_s: float, stalls_after_s: float) -> None:
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera)
        steady(rig, clock, camera, 10, interval_s)
        clock.move(stalls_after_s * 0.99)
        _Watched(rig).look()
        assert rig.status().state is S.LIVE
        clock.move(stalls_after_s * 0.02)
        _Watched(rig).look()
        stalled = rig.status()
        assert stalled.state is S.STALLED
        assert stalled.reason == f"no frame for {stalls_after_s * 1.01:.1f} s"
        rig.give(camera)
        assert rig.wait_state(S.LIVE).reason == ""
        _Watched(rig).look()
        assert rig.status().state is S.LIVE
        assert rig.states()[1:] == [S.LIVE, S.STALLED, S.LIVE]


def test_the_reason_of_a_stall_counts_dropped_frames() -> None:
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera)
        steady(rig, clock, camera, 3, 0.04)
        camera.drop(DropReason.STALE, 2)
        camera.drop(DropReason.LATE, 7)
        wait_until(lambda: rig.status().dropped.get("late") == 7, "the drops")
        clock.move(3)
        _Watched(rig).look()
        assert rig.status().reason == "no frame for 3.0 s; 9 frames arrived and were dropped, most of them late"
        rig.give(camera)
        clock.move(2)
        _Watched(rig).look()
        assert rig.status().reason == "no frame for 2.0 s"


def test_a_stream_that_does_not_run_does_not_stall() -> None:
    clock = HandClock()
    refused, silent = Camera(0, refusals=[RefusedError("no")], clock=clock), Camera(1, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(refused)
        rig.add(silent)
        rig.wait_state(S.REFUSED)
        clock.move(3600)
        _Watched(rig).look()
        assert rig.status("s0").state is S.REFUSED
        assert rig.status("s1").state is S.CONNECTING


def test_a_stopping_stream_does_not_stall() -> None:
    """Frames in the pipeline are finished, which may take a while; no new frames are expected."""
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera)
        steady(rig, clock, camera, 3, 0.04)
        camera.hang_here()
        wait_until(camera.hangs.is_set)
        rig.supervisor.stop()
        clock.move(100)
        _Watched(rig).look()
        assert rig.status().state is S.LIVE
        camera.release.set()
        wait_until(lambda: rig.status().state is S.STOPPED)


def test_a_new_connection_restarts_the_stall_timer() -> None:
    """The last frame of the previous connection is old: the new connection has not stalled."""
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera)
        steady(rig, clock, camera, 5, 0.04)
        camera.end()
        wait_until(lambda: rig.status().state is S.CONNECTING)
        clock.move(100)
        steady(rig, clock, camera, 2, 0.04)
        _Watched(rig).look()
        assert S.STALLED not in rig.states()
        clock.move(1.5)
        _Watched(rig).look()
        assert rig.status().state is S.STALLED


def test_rates_are_measured_over_the_last_seconds() -> None:
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera, fps=5.0)
        for _ in range(120):
            decoded = rig.status().decoded
            camera.give()
            wait_until(lambda decoded=decoded: rig.status().decoded == decoded + 1)  # type: ignore[misc]
            wait_until(lambda: rig.status().decoded == rig.status().results + dropped(rig.status()))
            clock.move(0.1)
            _Watched(rig).look()
        assert rig.status().decoded_fps == pytest.approx(10, abs=0.5)
        assert rig.status().result_fps == pytest.approx(5, abs=0.5)
        for _ in range(12):
            clock.move(1)
            _Watched(rig).look()
        assert (rig.status().decoded_fps, rig.status().result_fps) == (0, 0)


def test_an_ended_stream_has_no_rate() -> None:
    clock = HandClock()
    camera = Camera(0, path="clip.mp4", clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera)
        for number in range(30):
            camera.give()
            wait_until(lambda number=number: rig.status().decoded == number + 1)  # type: ignore[misc]
            clock.move(0.1)
            _Watched(rig).look()
        assert rig.status().decoded_fps > 1
        camera.end()
        rig.wait_state(S.ENDED)
        assert (rig.status().decoded_fps, rig.status().result_fps) == (0, 0)


def test_the_watch_survives_unexpected_errors(caplog: pytest.LogCaptureFixture) -> None:
    """The watch's own thread looks, with the system clock."""
    camera = Camera(0)
    with Rig() as rig:
        watch: LiveWatch = rig.supervisor._watch
        stalled, broken = watch._stalled, [RuntimeError("oh")]

        def once_broken(worker: LiveWorker, reason: str) -> None:
            if broken:
                raise broken.pop()
            stalled(worker, reason)

        watch._stalled = once_broken
        rig.add(camera)
        rig.give(camera, 3)
        rig.wait_state(S.STALLED)
    assert "watching live streams failed" in caplog.text
