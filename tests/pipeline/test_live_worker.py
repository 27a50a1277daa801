"""The worker of a live stream: it recovers from failures of its camera, and removing it never waits for the camera."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from tests.pipeline.fakes import LONG_S, EchoEngine, FakeImage, wait_for
from tests.pipeline.live_fakes import SOON, Camera, Rig, dropped
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.config.service.reconnect import Reconnect
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.pipeline.status import StreamState
from vision_infer.pipeline.workers.live_worker import GOOD_NS

S = StreamState


def test_a_stream_reconnects_after_the_server_ends_and_frame_numbers_continue() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, reconnect=Reconnect(min_s=0.3, max_s=0.3))
        rig.give(camera, 3)
        camera.end()
        wait_until(lambda: S.BACKING_OFF in rig.states())
        reason = rig.events[-1].reason if rig.events[-1].state is S.BACKING_OFF else rig.events[-2].reason
        assert reason.startswith("the server ended the stream; next attempt in 0.")
        assert reason.endswith(" s")
        rig.give(camera, 2)
        assert rig.wait_state(S.LIVE).reason == ""
        status = rig.status()
        assert (status.decoded, status.results, status.reconnects) == (5, 5, 1)
        assert dropped(status) == 0
        assert [connection.given for connection in camera.opened] == [3, 2]
        assert rig.sink.indices() == [0, 1, 2, 3, 4]
        assert rig.states() == [S.CONNECTING, S.LIVE, S.BACKING_OFF, S.CONNECTING, S.LIVE]
        assert camera.opened[0].closed.is_set()
    wait_until(lambda: all(connection.closed.is_set() for connection in camera.opened))


def test_every_state_change_has_a_time_and_a_reason() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera)
        rig.give(camera)
        camera.end(StreamError("rtsp://cam/main: no data for 5 s", "is it on?"))
        rig.give(camera)
        (lost,) = [event for event in rig.events if event.state is S.BACKING_OFF]
        assert lost.reason == "rtsp://cam/main: no data for 5 s: is it on?; next attempt in 0.0 s"
        times = [event.at_ns for event in rig.events]
        assert times == sorted(times)
        assert all(event.at_wall_ns > 10**18 for event in rig.events)


def test_failures_of_the_gpu_decoder_add_up_over_connections() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera)
        for number in range(2):
            rig.give(camera)
            camera.call(partial(fail_gpu_decoder, camera))
            camera.end(StreamError("camera: the GPU decoder failed", "The next connection decodes on the CPU."))
            wait_until(lambda count=number: rig.status().gpu_decoder_failures == count + 1)  # type: ignore[misc]
        rig.give(camera)
        assert rig.status().gpu_decoder_failures == 2


def fail_gpu_decoder(camera: Camera) -> None:
    camera.opened[-1].report.gpu_failures += 1


def test_counts_add_up_over_connections() -> None:
    camera = Camera(0)
    clogged, go = threading.Event(), threading.Event()

    def run(batch: list[tuple[int, int]]) -> None:
        if batch == [(0, 0)]:
            clogged.set()
            wait_for(go, "the engine's gate")

    with Rig(engine=EchoEngine(run=run)) as rig:
        rig.add(camera)
        camera.give()
        wait_for(clogged)
        camera.drop(DropReason.STALE, 4)
        camera.drop(DropReason.TO_KEYFRAME, 5)
        camera.give(6)  # the engine is blocked: five frames are superseded
        camera.call(go.set)
        camera.end()
        camera.drop(DropReason.STALE, 2)
        camera.drop(DropReason.NOT_REFERENCED, 3)
        wait_until(lambda: rig.status().results == 2)
        rig.give(camera, 2)
        camera.drop(DropReason.STALE, 1)
        camera.end(StreamError("lost"))
        wait_until(lambda: rig.status().reconnects == 2)
        status = rig.status()
    assert status.dropped == {"superseded": 5, "stale": 7, "to_keyframe": 5, "not_referenced": 3}
    assert (status.decoded, status.results) == (7 + 2 + 7, 4)
    assert status.decoded == status.results + dropped(status)


def test_lost_and_damaged_frames_add_up_over_connections() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera)
        for gaps in (1, 2):
            for _ in range(gaps):
                camera.call(lambda: camera.opened[-1].report.gap(None, None))
            camera.call(partial(lose_packets, camera, gaps))
            rig.give(camera)
            camera.call(partial(lose_packets, camera, 10))  # no frame follows
            camera.end()
        wait_until(lambda: rig.status().reconnects == 2)
        status, flight = rig.status(), rig.supervisor.flight("s0")
    assert (status.gaps, status.damaged) == (3, 6)
    assert status.rtp_packets == {
        **{"received": 2300, "lost": 23, "late": 0, "reordered": 0, "duplicates": 0, "foreign": 0, "damaged": 0}
    }
    assert status.rtp_frames == {"whole": 0, "damaged": 23, "cut": 0, "oversize": 0}
    assert flight is not None
    minutes = flight.frames.minutes(0, time.monotonic_ns())
    assert sum(minute.packets_received for minute in minutes) == 2300
    assert sum(minute.packets_lost for minute in minutes) == 23


def lose_packets(camera: Camera, count: int) -> None:
    report = camera.opened[-1].report
    report.packets.received += 100 * count
    report.packets.lost += count
    report.pictures.damaged += count
    report.damaged += count % 10 * 2


def test_what_reads_a_camera_is_reported_with_the_reason() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera)
        rig.give(camera)
        first = rig.status()
        camera.ingest = "ffmpeg", "the codec vp9 is not supported over RTP"
        camera.end()
        rig.give(camera)
        status, flight = rig.status(), rig.supervisor.flight("s0")
    assert (first.ingest, first.ingest_reason, first.rtp_packets) == (None, "", {})
    assert flight is not None
    for one in (status, flight):
        assert (one.ingest, one.ingest_reason) == ("ffmpeg", "the codec vp9 is not supported over RTP")


def test_a_refusal_waits_long_and_is_reported() -> None:
    camera = Camera(0, refusals=[RefusedError("rtsp://cam/main: authentication failed (401)", "Check the password.")])
    with Rig() as rig:
        rig.add(camera)
        status = rig.wait_state(S.REFUSED)
        assert status.reason == "rtsp://cam/main: authentication failed (401). Check the password. Next attempt in 60.0 s."
        assert camera.attempts == 1
    assert camera.attempts == 1


def test_each_refusal_in_a_row_is_reported() -> None:
    camera = Camera(0, refusals=[RefusedError("no") for _ in range(4)])
    with Rig() as rig:
        rig.add(camera, reconnect=Reconnect(min_s=0.001, max_s=0.001, refused_s=0.002))
        rig.give(camera)
    assert rig.states()[:10] == [S.CONNECTING, S.REFUSED] * 4 + [S.CONNECTING, S.LIVE]
    assert camera.attempts == 5


def test_a_stream_fails_after_its_last_attempt() -> None:
    camera = Camera(0, refusals=[StreamError("connection refused", "is it on?") for _ in range(5)])
    with Rig() as rig:
        rig.add(camera, reconnect=SOON.model_copy(update={"attempts": 3}))
        status = rig.wait_state(S.FAILED)
        assert status.reason == "s0: gave up after 3 failures in a row: connection refused: is it on?"
        assert status.error == status.reason
        assert camera.attempts == 3
        assert rig.supervisor.error is None
        rig.supervisor.remove("s0")
        assert rig.supervisor.statuses() == []


def test_a_file_ends_and_one_that_loops_does_not() -> None:
    file = Camera(0, path="/videos/door.mp4")
    with Rig() as rig:
        rig.add(file)
        rig.give(file, 2)
        file.end()
        assert rig.wait_state(S.ENDED).results == 2
        assert file.attempts == 1
        assert rig.states() == [S.CONNECTING, S.LIVE, S.ENDED]
        looped = Camera(1, path="/videos/door.mp4", loop=True)
        rig.add(looped)
        rig.give(looped, 2)
        looped.end()
        rig.give(looped, 2)
        assert S.BACKING_OFF in rig.states("s1")


def test_a_broken_file_is_tried_again() -> None:
    file = Camera(0, path="/videos/door.mp4")
    with Rig() as rig:
        rig.add(file)
        file.give()
        file.end(StreamError("/videos/door.mp4: cannot be read"))
        file.give()
        file.end()
        rig.wait_state(S.ENDED)
        assert file.attempts == 2


@pytest.mark.parametrize("good", [True, False])
def test_only_a_good_connection_resets_the_failures(good: bool) -> None:
    """Three attempts in a row are allowed. A connection that delivered frames for some seconds restarts the count."""
    clock = HandClock()
    camera = Camera(0, clock=clock)
    frames_for_s = GOOD_NS / 1e9 + 0.1 if good else GOOD_NS / 1e9 - 0.1
    with Rig(clock=clock) as rig:
        rig.add(camera, reconnect=SOON.model_copy(update={"attempts": 3}))
        for number in range(5):
            camera.give()
            camera.call(lambda: clock.move(frames_for_s))
            camera.give()
            camera.end()
            wait_until(lambda number=number: rig.status().state is S.FAILED or camera.attempts == number + 2)  # type: ignore[misc]
        assert (rig.status().state is S.FAILED) is not good
        assert camera.attempts == (6 if good else 3)


def test_a_silent_connection_is_not_a_good_one() -> None:
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera, reconnect=SOON.model_copy(update={"attempts": 2}))
        for _ in range(2):
            camera.give()
            camera.call(lambda: clock.move(60))
            camera.end()
        rig.wait_state(S.FAILED)


@pytest.mark.parametrize("where", ["opening", "reading"])
def test_a_blocked_camera_is_removed_at_once_and_its_name_is_free(where: str) -> None:
    camera = Camera(0)
    camera.hang_when_opened = where == "opening"
    with Rig() as rig:
        rig.add(camera)
        if where == "reading":
            rig.give(camera, 2)
            camera.hang_here()
        wait_for(camera.hangs)
        thread = next(one for one in threading.enumerate() if one.name == "stream-s0")
        before = time.monotonic()
        rig.supervisor.remove("s0")
        assert time.monotonic() - before < LONG_S / 3
        assert rig.supervisor.statuses() == []
        reported = len(rig.events)
        assert rig.events[-1].state is S.STOPPED

        # Another stream with the same name, while the thread of the first is still blocked in its camera.
        again = Camera(0)
        rig.add(again)
        rig.give(again, 3)
        states = rig.states()
        written = list(rig.sink.indices())
        status = rig.status()

        camera.give(5)
        camera.drop(DropReason.STALE, 5)
        camera.release.set()
        thread.join(LONG_S)
        assert not thread.is_alive()
        assert all(connection.closed.is_set() for connection in camera.opened)
        assert rig.sink.indices() == written
        assert rig.states() == states
        assert len(rig.events) == reported + 2
        assert (rig.status().decoded, rig.status().results, rig.status().dropped) == (status.decoded, status.results, {})


@pytest.mark.parametrize("where", ["opening", "reading"])
def test_closing_with_blocked_cameras_is_quick(where: str) -> None:
    cameras = [Camera(number) for number in range(20)]
    rig = Rig()
    for camera in cameras:
        camera.hang_when_opened = where == "opening"
        rig.add(camera)
        if where == "reading":
            rig.give(camera, 2)
            camera.drop(DropReason.STALE, 3)
            camera.hang_here()
    for camera in cameras:
        wait_for(camera.hangs)
    before = time.monotonic()
    rig.supervisor.close()
    assert time.monotonic() - before < LONG_S / 3
    statuses = rig.supervisor.statuses()
    reported = list(rig.events)
    assert {status.state for status in statuses} == {S.STOPPED}
    for camera in cameras:
        camera.give(3)
        camera.release.set()
    for thread in [one for one in threading.enumerate() if one.name.startswith("stream-")]:
        thread.join(LONG_S)
    assert rig.events == reported
    after = rig.supervisor.statuses()
    assert [(one.state, one.decoded, one.results, one.dropped, one.reconnects) for one in after] == [
        (one.state, one.decoded, one.results, one.dropped, one.reconnects) for one in statuses
    ]
    assert all(connection.closed.is_set() for camera in cameras for connection in camera.opened)


def test_stopping_ends_the_wait_for_the_next_attempt() -> None:
    camera = Camera(0, refusals=[RefusedError("no")])
    with Rig() as rig:
        rig.add(camera)
        rig.wait_state(S.REFUSED)
        before = time.monotonic()
        rig.supervisor.remove("s0")
        assert time.monotonic() - before < 12


@pytest.mark.parametrize(
    "error", [ValueError("cannot read rtsp://admin:hunter2@10.0.0.1/main"), MemoryError("no room"), KeyError("oh")]
)
@pytest.mark.parametrize("where", ["opening", "reading"])
def test_an_unexpected_error_is_reported_and_does_not_end_the_thread(error: Exception, where: str) -> None:
    camera = Camera(0, refusals=[error] if where == "opening" else [])
    with Rig() as rig:
        rig.add(camera)
        if where == "reading":
            rig.give(camera)
            camera.end(error)
        rig.give(camera, 2)
        (event,) = [event for event in rig.events if event.state is S.BACKING_OFF]
        assert event.reason.startswith(f"s0: unexpected {type(error).__name__}: ")
        assert "Please report this." in event.reason
        assert "hunter2" not in event.reason
        assert "\n" not in event.reason


def test_an_error_while_closing_the_source_is_reported() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera)
        rig.give(camera)
        camera.opened[0].close_error = OSError("closing failed")
        camera.end()
        rig.give(camera)
        assert "unexpected OSError: closing failed" in next(one for one in rig.events if one.state is S.BACKING_OFF).reason


def test_paced_frames_are_counted_and_the_rate_can_change() -> None:
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        command = rig.add(camera, fps=5.0)

        def second() -> None:
            for _ in range(10):
                decoded = rig.status().decoded
                camera.give()
                wait_until(lambda decoded=decoded: rig.status().decoded == decoded + 1)  # type: ignore[misc]
                wait_until(lambda: rig.status().decoded == rig.status().results + dropped(rig.status()))
                clock.move(0.1)

        second()
        assert (rig.status().results, rig.status().dropped) == (5, {"paced": 5})
        rig.change(command, fps=None)
        second()
        assert (rig.status().results, rig.status().dropped) == (15, {"paced": 5})


def test_a_dropped_frame_keeps_no_memory() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera)
        rig.give(camera, 20)
        wait_until(lambda: len(FakeImage.alive) <= 2, "the images' memory")


def test_an_error_of_a_listener_ends_no_thread() -> None:
    """The listener for state changes may fail: the streams and the watch continue."""
    camera = Camera(0)

    def broken(event: object) -> None:
        raise RuntimeError("the listener is broken")

    with Rig(on_event=broken) as rig:
        rig.add(camera)
        rig.give(camera, 2)
        camera.end()
        rig.give(camera, 2)
        assert rig.status().results == 4
