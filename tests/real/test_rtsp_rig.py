"""The test cameras work as documented: they are read with PyAV alone, through a good and a bad network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise

import av
import numpy as np
import pytest

from tests.support.cameras import ClockMount, Encoded, ReplayMount, RtspServer, SoundMount
from tests.support.fault_proxy import FaultProxy, video_payload
from vision_infer.core.time_code import MODULUS, since_ms
from vision_infer.stream.time_code_reader import read

QUICK = {"rtsp_transport": "tcp", "probesize": "32", "analyzeduration": "0", "fflags": "nobuffer"}
PATIENT_S = 30.0
STREET = Encoded("bikes", 640, 360, frames=60, kbit_s=1000)
BEACH = Encoded("bikes", 320, 180, 10, "h265", 300, frames=20, key_interval=10)
MOUNTS = (
    ClockMount("/clock", key_interval=10, kbit_s=4000),
    ClockMount("/clock265", 320, 180, 15, "h265", key_interval=5),
    ClockMount("/small", 160, 90, 10, key_interval=5, kbit_s=100),
    ClockMount("/hd", 1920, 1080, key_interval=10, kbit_s=6000),
    ClockMount("/sizes", next_size=(320, 180), frames_per_size=20, key_interval=10),
    ClockMount("/silent", stop_after=0),
    ClockMount("/frozen", stop_after=1),
    ClockMount("/locked", 320, 180, key_interval=10, user="ann", password="s3cret"),
    ReplayMount("/street", STREET),
    ReplayMount("/beach", BEACH),
    SoundMount("/sound"),
)


@dataclass(frozen=True)
class Seen:
    """A decoded frame."""

    age_ms: int | None
    """The time of its time code; None if it cannot be read."""
    moment: int | None
    pts_s: float | None
    size: tuple[int, int]


def decoded(packet: av.Packet[av.VideoStream]) -> Sequence[av.VideoFrame]:
    try:
        return packet.decode()
    except av.error.InvalidDataError:
        return ()  # a cut connection ends with a part of a picture


@contextmanager
def opened(url: str, timeout_s: float = PATIENT_S) -> Iterator[Iterator[Seen]]:
    """Yield the frames of a camera as they arrive."""
    with av.open(url, "r", options=QUICK, timeout=(timeout_s, timeout_s)) as container:
        container.streams.video[0].thread_type = "NONE"

        def frames() -> Iterator[Seen]:
            for frame in (frame for packet in container.demux(video=0) for frame in decoded(packet)):
                moment = read(np.asarray(frame.to_ndarray(format="gray"), np.uint8))
                age_ms = None if moment is None else since_ms(moment, time.monotonic_ns())
                yield Seen(age_ms, moment, frame.time if frame.pts is not None else None, (frame.width, frame.height))

        yield frames()


def take(url: str, count: int) -> list[Seen]:
    with opened(url) as frames:
        return [frame for frame, _ in zip(frames, range(count), strict=False)]


def until(frames: Iterator[Seen], found: Callable[[Seen], bool], what: str) -> Seen:
    """Return the first frame that meets a condition."""
    deadline = time.monotonic() + PATIENT_S
    for frame in frames:
        if found(frame):
            return frame
        assert time.monotonic() < deadline, what
    raise AssertionError(f"the stream ended before {what}")


def rises(moments: list[int | None]) -> bool:
    return all(a is not None and b is not None and 0 < (b - a) % MODULUS < MODULUS // 2 for a, b in pairwise(moments))


def fresh(frame: Seen) -> bool:
    return frame.age_ms is not None and 0 <= frame.age_ms < 1000


@pytest.fixture(scope="module")
def cameras() -> Iterator[RtspServer]:
    with RtspServer(*MOUNTS) as server:
        yield server


@pytest.fixture
def network(cameras: RtspServer) -> Iterator[FaultProxy]:
    with FaultProxy(cameras.port) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("/clock", (640, 360)),
        ("/clock265", (320, 180)),
        pytest.param("/small", (160, 90), marks=pytest.mark.slow),
        pytest.param("/hd", (1920, 1080), marks=pytest.mark.slow),
    ],
)
def test_a_clock_camera_shows_when_each_frame_was_drawn(cameras: RtspServer, path: str, size: tuple[int, int]) -> None:
    seen = take(cameras.url(path), 20)
    assert {frame.size for frame in seen} == {size}
    assert rises([frame.moment for frame in seen])
    assert fresh(seen[-1])
    by_code = (seen[-1].moment or 0) - (seen[5].moment or 0)
    by_pts = 1000 * ((seen[-1].pts_s or 0) - (seen[5].pts_s or 0))
    assert by_code % MODULUS == pytest.approx(by_pts, abs=100), "timestamps and images have the same time"


def test_clients_of_one_camera_share_its_frames(cameras: RtspServer) -> None:
    with opened(cameras.url("/clock")) as first, opened(cameras.url("/clock")) as second:
        seen = [(next(first).moment, next(second).moment) for _ in range(40)]
    assert {moment for moment, _ in seen} & {moment for _, moment in seen} - {None}


def test_a_camera_changes_its_frame_size_during_the_stream(cameras: RtspServer) -> None:
    with opened(cameras.url("/sizes")) as frames:
        for size in ((640, 360), (320, 180), (640, 360)):
            assert fresh(until(frames, lambda frame, size=size: frame.size == size and fresh(frame), f"it had {size}"))  # type: ignore[misc]


@pytest.mark.parametrize(("path", "video"), [("/street", STREET), pytest.param("/beach", BEACH, marks=pytest.mark.slow)])
def test_replayed_video_loops_in_real_time_with_continuous_timestamps(cameras: RtspServer, path: str, video: Encoded) -> None:
    begin = time.monotonic()
    seen = take(cameras.url(path), video.frames + 10)
    assert time.monotonic() - begin > 0.7 * video.frames / video.fps, "not faster than it is"
    assert {frame.size for frame in seen} == {(video.width, video.height)}
    times = [frame.pts_s for frame in seen if frame.pts_s is not None]
    steps = [after - before for before, after in pairwise(times)]
    assert steps == pytest.approx([1 / video.fps] * len(steps), abs=0.002)


@pytest.mark.parametrize("auth", [pytest.param("basic", marks=pytest.mark.slow), "digest"])
def test_a_locked_camera_requires_its_password(auth: str) -> None:
    ann, bob = (
        ClockMount(f"/{user}", 320, 180, key_interval=10, user=user, password=f"of {user}"[3:]) for user in ("ann", "bob")
    )
    free = ClockMount("/free", 320, 180, key_interval=10)
    with RtspServer(ann, bob, free, auth="basic" if auth == "basic" else "digest") as server:
        assert fresh(take(server.url("/free"), 5)[-1])
        assert fresh(take(server.url("/ann", "ann", "ann"), 5)[-1])
        assert fresh(take(server.url("/bob", "bob", "bob"), 5)[-1])
        for user, password in (("", ""), ("ann", "bob"), ("eve", "eve")):
            with pytest.raises(av.error.HTTPUnauthorizedError):
                take(server.url("/ann", user, password), 1)


@pytest.mark.slow  # 5 s
def test_other_mounts_fail_in_different_ways(cameras: RtspServer) -> None:
    with pytest.raises(av.error.HTTPNotFoundError):
        take(cameras.url("/nowhere"), 1)
    with pytest.raises(av.error.InvalidDataError), opened(cameras.url("/silent"), 2):
        pass
    with opened(cameras.url("/frozen"), 1) as frames, pytest.raises(av.error.ExitError):
        next(frames)
    with av.open(cameras.url("/sound"), "r", options=QUICK, timeout=PATIENT_S) as container:
        assert [stream.type for stream in container.streams] == ["audio"]
    assert fresh(take(cameras.url("/clock"), 5)[-1]), "and the others go on"


@pytest.mark.slow  # 5 s
def test_a_server_can_be_killed_restarted_frozen_and_thawed() -> None:
    with RtspServer(ClockMount(key_interval=10)) as server:
        with opened(server.url("/clock")) as frames:
            assert fresh(next(frames))
            server.kill()
            assert len(list(frames)) < 30, "the stream ends"
        with pytest.raises(ConnectionRefusedError):
            take(server.url("/clock"), 1)
        port = server.port
        server.restart()
        assert server.port == port
        with opened(server.url("/clock")) as frames:
            assert fresh(next(frames))
            server.freeze()
            threading.Timer(1.5, server.thaw).start()
            until(frames, lambda frame: (frame.age_ms or 0) > 1000, "a frame that was held up")
            until(frames, fresh, "it was itself again")


def test_a_good_network_changes_nothing(cameras: RtspServer, network: FaultProxy) -> None:
    seen = take(network.url("/clock"), 20)
    assert rises([frame.moment for frame in seen])
    assert fresh(seen[-1])
    assert fresh(take(network.url("/locked", "ann", "s3cret"), 5)[-1])
    assert network.accepted == 2


def test_a_stall_ends_in_a_burst(network: FaultProxy) -> None:
    with opened(network.url("/clock")) as frames:
        assert fresh(next(frames))
        network.stall(1.5)
        old = until(frames, lambda frame: (frame.age_ms or 0) > 1000, "a frame that was held up")
        assert old.age_ms is not None
        begin = time.monotonic()
        until(frames, lambda frame: frame.age_ms is not None and frame.age_ms < 500, "the burst was over")
        assert time.monotonic() - begin < 1.0, "thirty frames come at once"


def test_a_frozen_network_forwards_nothing_until_it_heals(network: FaultProxy) -> None:
    with opened(network.url("/clock")) as frames:
        assert fresh(next(frames))
        network.freeze()
        threading.Timer(1.5, network.heal).start()
        until(frames, lambda frame: (frame.age_ms or 0) > 1000, "a frame that was held up")
        until(frames, fresh, "it was itself again")
    network.freeze()
    with pytest.raises(av.error.InvalidDataError), opened(network.url("/clock"), 1):
        pass


def test_a_slow_network_falls_behind(network: FaultProxy) -> None:
    with opened(network.url("/clock")) as frames:
        assert fresh(next(frames))
        network.drip(3000)
        until(frames, lambda frame: (frame.age_ms or 0) > 1000, "it was a second behind")


def test_garbage_is_not_decoded(network: FaultProxy) -> None:
    with opened(network.url("/clock"), 1) as frames:
        assert fresh(next(frames))
        network.garbage()
        with suppress(av.error.FFmpegError):
            assert len([frame for frame, _ in zip(frames, range(60), strict=False) if frame.age_ms is not None]) < 30


def test_flipped_bits_damage_some_frames_and_the_stream_continues(network: FaultProxy) -> None:
    network.flip_bits(0.3)
    with av.open(network.url("/clock"), "r", options=QUICK, timeout=PATIENT_S) as container:
        broken = decoded = 0
        deadline = time.monotonic() + PATIENT_S
        for packet in container.demux(video=0):
            try:
                for frame in packet.decode():
                    decoded += 1
                    broken += frame.is_corrupt or read(np.asarray(frame.to_ndarray(format="gray"), np.uint8)) is None
            except av.error.InvalidDataError:
                broken += 1
            if broken and decoded > 30:
                break
            assert time.monotonic() < deadline
    assert network.flips > 0


def test_timestamps_jump_forwards_and_backwards(network: FaultProxy) -> None:
    with opened(network.url("/clock")) as frames:
        start = until(frames, lambda frame: frame.pts_s is not None, "it had times").pts_s or 0.0
        network.shift_times(100.0)
        until(frames, lambda frame: (frame.pts_s or start) > start + 90, "times jumped forth")
        network.shift_times(-50.0)
        until(frames, lambda frame: (frame.pts_s or start) < start - 40, "times jumped back")
        network.heal()
        assert fresh(until(frames, lambda frame: (frame.pts_s or -1) >= start, "all was well"))


def test_connections_are_dropped_refused_and_accepted_again(network: FaultProxy) -> None:
    with opened(network.url("/clock")) as frames:
        assert fresh(next(frames))
        network.refuse()
        assert fresh(next(frames)), "what is open stays"
        assert network.open_connections == 1
        network.drop()
        assert network.open_connections == 0
        assert len(list(frames)) < 30, "the stream ends"
    with pytest.raises(ConnectionRefusedError):
        take(network.url("/clock"), 1)
    network.heal()
    assert fresh(take(network.url("/clock"), 3)[-1])


def test_a_network_leaves_no_thread_behind(cameras: RtspServer) -> None:
    before = set(threading.enumerate())
    with FaultProxy(cameras.port) as network, opened(network.url("/clock")) as frames:
        next(frames)
        assert len(set(threading.enumerate()) - before) >= 3
    assert set(threading.enumerate()) <= before, "a timer of another test may end meanwhile"


def test_only_video_packets_have_a_payload_to_damage() -> None:
    rtp = bytes([0x80, 96, 0, 1]) + bytes(8) + b"payload"
    assert video_payload(b"$\0\0\x13" + rtp) == 16
    assert video_payload(b"$\1\0\x13" + rtp) is None, "a sender report"
    assert video_payload(b"$\0\0\x13" + rtp.replace(b"\x60", b"\x08", 1)) is None, "sound"
    assert video_payload(b"$\0\0\x0c" + rtp[:12]) is None, "nothing to break"
    assert video_payload(b"$\0\0\x17" + bytes([0x81]) + rtp[1:12] + bytes(4) + b"payload") == 20, "a contributing source"
    extended = bytes([0x90]) + rtp[1:12] + b"\xbe\xde\0\1" + bytes(4) + b"payload"
    assert video_payload(b"$\0\0\x1b" + extended) == 24, "an extension of the header"
    assert video_payload(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n") is None
