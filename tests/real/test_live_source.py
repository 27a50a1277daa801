"""Single connections to a real RTSP server with real encoded video and real faults."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.cameras import ClockMount, RtspServer
from tests.support.fault_proxy import FaultProxy
from tests.support.live_reading import Reading, message_of
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import StreamError
from vision_infer.stream.live import live_source as live_module
from vision_infer.stream.source import LiveOptions

MOUNTS = (
    ClockMount("/clock", key_interval=10),
    ClockMount("/h265", codec="h265", key_interval=10),
    ClockMount("/long", key_interval=60),
    ClockMount("/sizes", next_size=(320, 240), frames_per_size=20, key_interval=10),
)
SHORT = LiveOptions(open_timeout_s=2, stall_timeout_s=2)
TYPICAL_MS, MAX_MS = 10, 50
"""The maximum error of capture times: the median, and the 95th percentile."""


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    with RtspServer(*MOUNTS) as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[RtspServer]:
    """A server that a test may kill."""
    with RtspServer(ClockMount("/clock", key_interval=10)) as running:
        yield running


def side_by_side(readings: dict[str, Reading], frames: int) -> dict[str, Reading]:
    """Read several connections concurrently, because the tests mostly wait for frames."""
    with ExitStack() as opened:
        for reading in readings.values():
            opened.enter_context(reading)
        Reading.wait_for_each(readings.values(), frames)
    return readings


# Opening, and ages of frames


@pytest.fixture(scope="module")
def plain(server: RtspServer) -> dict[str, Reading]:
    """Read both codecs for two seconds with FFmpeg."""
    arrival = LiveOptions(clock="arrival", ingest="ffmpeg")
    return side_by_side({path: Reading(server.url(path), arrival) for path in ("/clock", "/h265")}, 60)


@pytest.mark.parametrize("path", ["/clock", "/h265"])
def test_the_first_frame_is_young_and_its_capture_time_is_right(plain: dict[str, Reading], path: str) -> None:
    reading = plain[path]
    assert reading.opened_s < 5, "expected: 0.05 s"
    first = reading.got[0]
    assert first.frame.index == 0
    assert first.true_age_ms < 400, "expected: a frame interval, or two if the age has to be measured first"
    wrong = sorted(abs(got.captured_wrong_ms) for got in reading.got)
    assert wrong[len(wrong) // 2] <= TYPICAL_MS
    assert wrong[len(wrong) * 19 // 20] <= MAX_MS
    assert {got.frame.trace.clock for got in reading.got} == {"arrival"}
    info = reading.info
    assert (info.codec, info.size and (info.size.width, info.size.height)) == ("h264" if path == "/clock" else "hevc", (640, 360))
    assert info.frame_rate == 30
    assert info.ingest == "ffmpeg"


def test_the_times_of_a_trace_are_in_order(plain: dict[str, Reading]) -> None:
    reading = plain["/clock"]
    for got in reading.got:
        trace = got.frame.trace
        assert 0 < trace.captured_ns <= trace.decode_start_ns <= trace.decode_end_ns <= got.at_ns
    assert [got.frame.index for got in reading.got] == list(range(len(reading.got)))


def test_a_healthy_stream_loses_no_frames(server: RtspServer) -> None:
    """From the first key frame on, all 30 frames per second arrive."""
    with Reading(server.url("/clock")) as reading:
        reading.wait_for_frames(90)
    assert [got.frame.index for got in reading.got] == list(range(len(reading.got)))
    times = [got.frame.pts_s for got in reading.got[1:]]
    lasted = (times[-1] or 0) - (times[0] or 0)
    assert lasted == pytest.approx((len(times) - 1) / 30, rel=0.1)
    assert set(reading.report.dropped) <= {DropReason.TO_KEYFRAME}
    assert reading.report.gaps == 0


def test_decoding_begins_at_a_key_frame(server: RtspServer) -> None:
    """A client that connects within a group of pictures waits for the next one."""
    with Reading(server.url("/long")) as warm:  # the encoder starts here
        warm.wait_for_frames(5)
        with Reading(server.url("/long")) as reading:
            reading.wait_for_frames(3)
            assert reading.dropped(DropReason.TO_KEYFRAME) > 0
            assert not reading.got[0].frame.damaged
            assert reading.report.gaps == 0


def test_frame_threading_is_disabled(server: RtspServer) -> None:
    """Each thread would delay by one frame; ages with 4 threads and with 1 must be equal."""
    with (
        Reading(server.url("/clock"), decode_threads=1) as one,
        Reading(server.url("/clock"), decode_threads=4) as four,
    ):
        Reading.wait_for_each((one, four), 60)
        for reading in (one, four):
            assert reading._source is not None
            context = reading._source._packets.opened.stream.codec_context
            assert "FRAME" not in str(context.thread_type)
    for reading in (one, four):
        assert reading.median_age_ms(40) < 80, "expected: 36 ms; with frame threads: above 100"


def test_the_cameras_clock_is_used_once_it_is_known(server: RtspServer) -> None:
    """RTCP sender reports arrive seconds after opening."""
    with Reading(server.url("/clock")) as reading:
        reading.wait(lambda: bool(reading.got) and reading.got[-1].frame.trace.clock == "camera", "the camera's clock")
        reading.wait_for_frames(30)
        assert reading.report.clock_offset_ms is not None
        assert abs(reading.report.clock_offset_ms) < MAX_MS
    by_camera = [got for got in reading.got if got.frame.trace.clock == "camera"]
    wrong = sorted(abs(got.captured_wrong_ms) for got in by_camera)
    assert wrong[len(wrong) // 2] <= TYPICAL_MS
    assert {got.frame.trace.clock for got in reading.got[:10]} == {"arrival"}


@pytest.fixture(scope="module")
def over_rtp(server: RtspServer) -> dict[str, Reading]:
    own = LiveOptions(ingest="rtp", clock="arrival")
    return side_by_side({path: Reading(server.url(path), own) for path in ("/clock", "/h265")}, 120)


@pytest.mark.parametrize("path", ["/clock", "/h265"])
def test_reading_over_rtp_saves_one_frame_interval(over_rtp: dict[str, Reading], path: str) -> None:
    reading = over_rtp[path]
    assert reading.info.ingest == "rtp"
    assert reading.report.gaps == 0
    size = reading.info.size
    assert size is not None
    assert (size.width, size.height) == (640, 360)
    assert all(got.moment is not None and not got.frame.damaged for got in reading.got), "no frame is truncated"
    assert reading.median_age_ms(60) < 60, "expected: 4 ms; with libavformat's parser 36"
    wrong = sorted(abs(got.captured_wrong_ms) for got in reading.got)
    assert wrong[len(wrong) // 2] <= TYPICAL_MS
    indexes = [got.frame.index for got in reading.got]
    assert indexes == list(range(indexes[0], indexes[0] + len(indexes)))
    assert indexes[0] <= 3


def test_udp(server: RtspServer) -> None:
    with Reading(server.url("/clock"), LiveOptions(transport="udp")) as reading:
        reading.wait_for_frames(40)
    assert reading.median_age_ms(30) < 250


def test_a_changed_frame_size_is_handled(server: RtspServer) -> None:
    with Reading(server.url("/sizes")) as reading:
        reading.wait(lambda: len({got.size for got in reading.got}) == 2, "both sizes")
        reading.wait_for_frames(60)
        size = reading.info.size
        assert size is not None
        assert (size.width, size.height) in {(640, 360), (320, 240)}
    assert {got.size for got in reading.got} == {(640, 360), (320, 240)}
    assert all(got.moment is not None for got in reading.got)
    assert reading.report.gaps == 0


@pytest.mark.timing
def test_key_frames_only(server: RtspServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_RARE_KEYS_NS", 500_000_000)
    only = LiveOptions(keyframes_only=True)
    with Reading(server.url("/clock"), only) as reading, Reading(server.url("/long"), only) as rare:
        Reading.wait_for_each((reading, rare), 2)
        reading.wait_for_frames(5)
        assert reading.dropped(DropReason.UNDECODED) >= 30
        assert reading.dropped(DropReason.NO_KEYFRAME) < 30, "except before the first key frame"
        assert rare.dropped(DropReason.NO_KEYFRAME) >= 30, "if they are further apart"
    times = [got.frame.pts_s or 0.0 for got in reading.got[1:]]
    apart = [(later - earlier) * 3 for earlier, later in itertools.pairwise(times)]
    assert all(round(thirds) >= 1 and abs(thirds - round(thirds)) < 0.3 for thirds in apart), "one may have arrived too late"


def test_unneeded_frames_are_skipped() -> None:
    """With two B-frames between other frames, one of them is not referenced and is skipped."""
    with RtspServer(ClockMount("/b", key_interval=10, b_frames=2)) as server:
        with Reading(server.url("/b"), LiveOptions(skip_nonref=True)) as reading:
            reading.wait_for_frames(30)
            assert reading.dropped(DropReason.UNDECODED) > 10
        assert all(got.moment is not None and not got.frame.damaged for got in reading.got)
        wrong = sorted(abs(got.captured_wrong_ms) for got in reading.got[5:])
        assert wrong[len(wrong) // 2] <= MAX_MS


# Faults


def test_a_killed_server_ends_the_source(own_server: RtspServer) -> None:
    with Reading(own_server.url("/clock")) as reading:
        reading.wait_for_frames(10)
        own_server.kill()
        assert reading.wait_for_end() is None, "the end of a live stream is not an error"


@pytest.mark.parametrize("how", ["server", "network"])
def test_a_frozen_camera_is_detected_and_delivers_no_stale_frame(own_server: RtspServer, how: str) -> None:
    with FaultProxy(own_server.port) as network, Reading(network.url("/clock"), SHORT) as reading:
        reading.wait_for_frames(10)
        frozen = time.monotonic_ns()
        own_server.freeze() if how == "server" else network.freeze()
        error = reading.wait_for_end()
        own_server.thaw()
    assert error is not None
    assert "no data for 2 s" in message_of(error)
    assert (reading.ended_at_ns - frozen) / 1e9 < 2 * 2 - 0.2, "at the first timeout, not at the second"
    assert all(got.true_age_ms < 1000 for got in reading.got)


@pytest.mark.slow  # 5 s; test_live_ages.py has a stall too
def test_a_burst_after_a_stall_is_not_inferred(server: RtspServer) -> None:
    """Two seconds of video arrive at once and are decoded without waiting for a key frame, with FFmpeg and over RTP."""
    with (
        FaultProxy(server.port) as network,
        Reading(network.url("/long"), LiveOptions(ingest="ffmpeg")) as plain,
        Reading(network.url("/long"), LiveOptions(ingest="rtp")) as over_rtp,
    ):
        both = (plain, over_rtp)
        Reading.wait_for_each(both, 10)
        network.stall(2)
        for reading in both:
            reading.wait(lambda reading=reading: reading.dropped(DropReason.STALE) > 20, "stale frames")  # type: ignore[misc]
        Reading.wait_for_each(both, 30)
        for reading in both:
            assert reading.median_age_ms(20) < 200
    for reading in both:
        assert all(got.true_age_ms < 500 + 100 for got in reading.got), "max_age_s plus decoding and noise"
        assert reading.report.gaps == 0


def test_late_frames_are_distinguished_from_a_burst(server: RtspServer) -> None:
    """With a limit of one microsecond, every frame is too old; at first this looks like a burst after a stall."""
    with Reading(server.url("/clock"), LiveOptions(max_age_s=0.000_001, stall_timeout_s=1)) as reading:
        error = reading.wait_for_end()
        assert isinstance(error, StreamError)
        assert "frames keep arriving" in message_of(error)
        assert not reading.got
        assert reading.dropped(DropReason.STALE) > 5
        assert reading.dropped(DropReason.LATE) > 5


def test_packets_without_a_frame_are_detected(server: RtspServer) -> None:
    """The server sends only noise: the watchdog watches frames, not the socket."""
    with FaultProxy(server.port) as network, Reading(network.url("/clock"), SHORT) as reading:
        reading.wait_for_frames(10)
        network.garbage()
        began = time.monotonic()
        error = reading.wait_for_end()
        assert time.monotonic() - began < 2 * SHORT.stall_timeout_s + 5, "expected: at most the stall timeout"
    words = ("no frame could be decoded", "no data for", "not RTSP")
    assert error is None or any(word in message_of(error) for word in words)


def test_damage_is_survived_and_counted(server: RtspServer) -> None:
    with (
        FaultProxy(server.port) as network,
        FaultProxy(server.port) as other,
        Reading(network.url("/clock"), LiveOptions(ingest="ffmpeg")) as plain,
        Reading(other.url("/clock"), LiveOptions(ingest="rtp")) as over_rtp,
    ):
        both = (plain, over_rtp)
        Reading.wait_for_each(both, 10)
        network.flip_bits(0.2)
        other.flip_bits(0.2)
        plain.wait(lambda: network.flips > 30, "flipped bits")
        network.heal()
        over_rtp.wait(lambda: other.flips > 30, "flipped bits")
        other.heal()
        Reading.wait_for_each(both, 40)
        for reading in both:
            assert reading.report.damaged + reading.report.gaps > 0
            assert reading.report.damaged >= sum(got.frame.damaged for got in reading.got) > 0
    for reading in both:
        assert not any(got.frame.damaged for got in reading.got[-15:])
        assert all(got.moment is not None for got in reading.got[-15:])


@pytest.mark.timing
@pytest.mark.parametrize(
    "by_s",
    [
        -3600.0,
        pytest.param(-1.0, marks=pytest.mark.slow),
        pytest.param(2.0, marks=pytest.mark.slow),
        pytest.param(3600.0, marks=pytest.mark.slow),
    ],
)
def test_timestamp_jumps_do_not_make_frames_old(server: RtspServer, by_s: float) -> None:
    with FaultProxy(server.port) as network, Reading(network.url("/clock"), LiveOptions(clock="arrival")) as reading:
        reading.wait_for_frames(30)
        network.shift_times(by_s)
        reading.wait_for_frames(40)
        network.heal()
        reading.wait_for_frames(40)
        assert reading.dropped(DropReason.STALE) <= 4
    wrong = sorted(abs(got.captured_wrong_ms) for got in reading.got if got.moment is not None)
    assert wrong[len(wrong) * 9 // 10] <= MAX_MS


@pytest.mark.slow
def test_a_connection_that_is_too_slow_is_closed(server: RtspServer) -> None:
    """Every frame arrives later than the previous one: only a new connection gets the newest."""
    with FaultProxy(server.port) as network, Reading(network.url("/clock"), SHORT) as reading:
        reading.wait_for_frames(30)
        network.drip(6_000)
        error = reading.wait_for_end(60)
    assert error is not None
    assert "late" in message_of(error) or "no data" in message_of(error)
    assert all(got.true_age_ms < 700 for got in reading.got)


# Overload


@pytest.mark.slow  # 16 s; tests/stream/test_live_backlog.py covers the choice of frames
def test_no_backlog_builds_up_when_decoding_is_too_slow(server: RtspServer) -> None:
    """Decoding takes twice the frame interval: ages stay bounded and frames continue, with short and long key frame intervals."""
    with Reading(server.url("/clock"), slow_s=2 / 30) as often, Reading(server.url("/long"), slow_s=2 / 30) as seldom:
        both = (often, seldom)
        Reading.wait_for_each(both, 1)
        began = time.monotonic()
        often.wait(lambda: time.monotonic() - began > 6, "six seconds")
        for reading in both:
            late = reading.got[len(reading.got) // 2 :]
            assert len(late) > 7, "expected: above 18"
            assert reading.dropped(DropReason.TO_KEYFRAME) > 10
    for reading in both:
        assert all(got.true_age_ms < 800 for got in reading.got), "max_age_s plus one frame"
        assert reading.report.gaps == 0
        assert not any(got.frame.damaged for got in reading.got)
