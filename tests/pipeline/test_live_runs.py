"""Live streams of a run: the first connection must succeed, each stream has its outputs, and the end is regular."""

from __future__ import annotations

import pytest

from tests.pipeline.conftest import Sinks
from tests.pipeline.fakes import FakeSink
from tests.pipeline.live_fakes import Camera, Rig
from tests.support.waiting import wait_until
from vision_infer.core.errors import OutputError, RefusedError, StreamError
from vision_infer.pipeline.status import StreamState
from vision_infer.sink.sink import OutputSpec

S = StreamState


@pytest.mark.parametrize("error", [StreamError("cam: connection refused"), RefusedError("cam: wrong password (401)")])
def test_a_camera_that_must_connect_fails_at_once(error: StreamError) -> None:
    camera = Camera(0, refusals=[error])
    with Rig() as rig:
        rig.add(camera, must_connect=True)
        rig.wait_state(S.FAILED)
        assert rig.supervisor.wait(0)
    assert camera.attempts == 1
    assert rig.supervisor.records()[0].error is error


def test_a_camera_that_has_connected_once_is_connected_again() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, must_connect=True)
        rig.give(camera)
        camera.refusals += [StreamError("cam: connection refused"), StreamError("cam: connection refused")]
        camera.end()
        rig.give(camera)
        assert rig.status().reconnects == 1


def test_a_regular_end_completes_the_outputs(sinks: Sinks) -> None:
    own = sinks["own.mp4"] = FakeSink(needs_images=True)
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, outputs=(OutputSpec("video", "own.mp4"),))
        rig.give(camera, 2)
        camera.end()  # the output stays open between connections
        rig.give(camera, 1)
        rig.supervisor.end_live()
        wait_until(lambda: rig.supervisor.wait(0))
        assert rig.status().state is S.ENDED
    assert own.indices() == [0, 1, 2]
    assert (own.closes, rig.sink.closes) == ([True], [True])


def test_a_blocked_camera_ends_too() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera)
        rig.give(camera)
        camera.hang_here()
        assert camera.hangs.wait(10)
        rig.supervisor.end_live()
        assert rig.supervisor.wait(10)


def test_stopping_leaves_the_outputs_incomplete(sinks: Sinks) -> None:
    own = sinks["own.mp4"] = FakeSink()
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, outputs=(OutputSpec("video", "own.mp4"),))
        rig.give(camera)
    assert (own.closes, rig.sink.closes) == ([False], [False])
    assert rig.supervisor.records()[0].state is S.STOPPED


def test_an_output_that_cannot_be_opened_is_an_error_and_closes_the_others(sinks: Sinks) -> None:
    first = sinks["first.mp4"] = FakeSink()
    sinks["second.mp4"] = OutputError("second.mp4: no space")
    with Rig() as rig:
        with pytest.raises(OutputError, match="no space"):
            rig.add(Camera(0), outputs=(OutputSpec("video", "first.mp4"), OutputSpec("video", "second.mp4")))
        assert first.closes == [False]
        assert rig.supervisor.statuses() == []
