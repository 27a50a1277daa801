"""Results of a running service are never stale: bursts, slow decoders, B-frames, various codecs."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Iterator

import pytest
from av.packet import Packet
from av.video.stream import VideoStream

from tests.support.cameras import ClockMount, RtspServer
from tests.support.fault_proxy import FaultProxy
from tests.support.live_service import Running, Seen, camera, gaps
from vision_infer.core.frame import Frame
from vision_infer.pipeline.status import StreamState
from vision_infer.stream.live.capture_clock import PacketTimes
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.source import SourceSpec

MAX_AGE_MS = 500.0
NOISE_MS = 250.0
"""The additional delay on a busy machine."""
WIDTH, HEIGHT = 320, 180
MOUNTS = (
    ClockMount("/clock", WIDTH, HEIGHT, 30, key_interval=60),
    ClockMount("/slow", WIDTH, HEIGHT, 30, key_interval=30, b_frames=2),
    ClockMount("/h264", WIDTH, HEIGHT, 20, key_interval=10),
    ClockMount("/h265", WIDTH, HEIGHT, 20, key_interval=10, codec="h265"),
    ClockMount("/b", WIDTH, HEIGHT, 20, key_interval=10, b_frames=2),
)

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    with RtspServer(*MOUNTS) as running:
        yield running


def none_is_stale(seen: list[Seen]) -> None:
    """Check by the time code that no frame was too old when decoded, and that the reported ages are right."""
    for one in seen:
        age = one.true_age_ms
        assert age is not None
        assert age - one.after_decoding_ms < MAX_AGE_MS + NOISE_MS, age
        assert one.age_ms - one.after_decoding_ms < MAX_AGE_MS + NOISE_MS
    assert statistics.median(abs((one.true_age_ms or 0) - one.age_ms) for one in seen) < 50


def test_a_burst_after_a_stall_is_not_inferred(server: RtspServer) -> None:
    """Two seconds of video arrive at once: only the newest frame has a result."""
    with FaultProxy(server.port) as network, Running({"cam": camera(network.url("/clock"), stall_timeout_s=10)}) as running:
        running.wait_for_results("cam", 30)
        began = time.monotonic_ns()
        network.stall(2)
        running.wait(lambda: running.status("cam").dropped.get("stale", 0) > 20, "stale frames")
        running.wait_for_results("cam", 60)
        seen = running.seen("cam")
        status = running.status("cam")
        none_is_stale(seen)
        assert status.reconnects == 0
        assert running.states("cam", began) == [StreamState.STALLED, StreamState.LIVE]
        assert gaps(seen) <= sum(status.dropped.values())
        after = running.seen("cam", began + 3_000_000_000)
        assert statistics.median(one.true_age_ms or 0 for one in after) < 200, "no backlog is left"


class SlowDecoder(LiveSource):
    """Decoding a frame takes twice the frame interval."""

    def _decoded(self, packet: Packet[VideoStream], times: PacketTimes) -> Iterator[Frame]:
        self._stopping.wait(2 / 30)
        yield from super()._decoded(packet, times)


def _open_slow(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> LiveSource:
    return SlowDecoder(spec, decode_threads, stopping)


SLOW_S = 10.0
"""More than five key frame intervals of the slow camera."""


@pytest.mark.slow
def test_a_slow_decoder_builds_up_no_backlog(server: RtspServer) -> None:
    """Half of all frames must be skipped. The results at the end are as young as at the beginning."""
    with Running({"cam": camera(server.url("/slow"), stall_timeout_s=10)}, open_stream=_open_slow) as running:
        running.wait_for_results("cam", 10)
        began = time.monotonic_ns()
        running.wait(lambda: time.monotonic_ns() - began > SLOW_S * 1e9, "the stream to run for a while")
        seen, status = running.seen("cam"), running.status("cam")
    none_is_stale(seen)
    dropped = status.dropped
    assert dropped.get("not_referenced", 0) + dropped.get("to_keyframe", 0) > 0.25 * 30 * SLOW_S, dropped
    assert dropped.get("not_referenced", 0) > 0, "first unreferenced frames"
    assert dropped.get("to_keyframe", 0) > 0, "then all frames up to the next key frame"
    assert status.reconnects == 0
    third = (seen[-1].at_ns - began) // 3
    early = [one.age_ms for one in seen if began <= one.at_ns < began + third]
    late = [one.age_ms for one in seen if one.at_ns >= began + 2 * third]
    assert len(late) > 3
    assert len(late) > 0.4 * len(early), "the ages do not change"
    assert statistics.mean(late) < statistics.mean(early) + 150


@pytest.fixture(scope="module")
def many(server: RtspServer) -> Iterator[Running]:
    """Read three kinds of camera concurrently, each in three ways."""
    ways = {"all": {}, "keys": {"keyframes_only": True}, "referenced": {"skip_nonref": True}}
    streams = {
        f"{kind}-{name}": camera(server.url(f"/{kind}"), stall_timeout_s=10, **way)
        for kind in ("h264", "h265", "b")
        for name, way in ways.items()
    }
    with Running(streams) as running:
        for name in streams:
            running.wait(lambda name=name: len(running.seen(name)) >= 3, f"{name} gives results")  # type: ignore[misc]
        yield running


@pytest.mark.parametrize("kind", ["h264", "h265", "b"])
def test_results_of_every_kind_of_camera_are_young(many: Running, kind: str) -> None:
    name = f"{kind}-all"
    seen = many.wait_for_results(name, 20)
    none_is_stale(seen)
    assert many.status(name).codec == ("hevc" if kind == "h265" else "h264")
    lost = gaps(seen)
    assert lost <= sum(many.status(name).dropped.values())
    pts = [one.result.pts_s for one in seen if one.result.pts_s is not None]
    assert pts == sorted(pts), "in display order"


@pytest.mark.parametrize("kind", ["h264", "h265", "b"])
def test_key_frames_only(many: Running, kind: str) -> None:
    """This includes a camera with B-frames, whose decoder must not wait for the next key frames."""
    name = f"{kind}-keys"
    seen = many.wait_for_results(name, 4)
    none_is_stale(seen)
    times = [one.result.pts_s or 0.0 for one in many.seen(name)[1:]]
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert statistics.median(steps) == pytest.approx(0.5, abs=0.1), "every tenth frame of 20 fps is a key frame"
    status = many.status(name)
    assert status.dropped["undecoded"] >= 8 * (status.decoded - 1)


@pytest.mark.parametrize("kind", ["h264", "h265", "b"])
def test_unreferenced_frames_are_skipped(many: Running, kind: str) -> None:
    name = f"{kind}-referenced"
    seen = many.wait_for_results(name, 20)
    none_is_stale(seen)
    status = many.status(name)
    if kind == "b":
        assert 0.2 < status.dropped["undecoded"] / (status.decoded + status.dropped["undecoded"]) < 0.8
    else:
        assert status.dropped.get("undecoded", 0) == 0, "these cameras have no such frames"
