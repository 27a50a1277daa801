"""The client plays from a real RTSP server, and its pictures can be decoded."""

from __future__ import annotations

import random
import re
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import av
import pytest

from tests.support.cameras import ClockMount, Codec, Mount, RtspServer
from vision_infer.core.errors import RefusedError
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.live.rtsp_stream import UnsupportedByRtpError
from vision_infer.stream.rtsp.client import RtspClient
from vision_infer.stream.rtsp.client_events import PlayBegun
from vision_infer.stream.rtsp.description import MediaSection, SessionDescription
from vision_infer.stream.rtsp.message import InterleavedPacket
from vision_infer.stream.rtsp.refusal import TransportRefusedError
from vision_infer.stream.rtsp.video_track import RtpVideoTrack, TimedPicture
from vision_infer.stream.source import LiveOptions, SourceSpec

LIMIT_S = 10.0


def first_video(description: SessionDescription) -> Sequence[MediaSection]:
    return [media for media in description.media if media.kind == "video"][:1]


def slices(data: bytes) -> bytes:
    """Return a picture of H.264 without what precedes its first slice: a lost parameter set cuts no picture."""
    found = re.search(rb"\x00\x00\x00\x01[\x01\x21\x41\x61\x25\x45\x65]", data)
    assert found is not None
    return data[found.start() :]


class Player:
    """Plays the video of a URL."""

    def __init__(self, url: str, port: int, udp: Sequence[socket.socket] = (), loss: float = 0.0) -> None:
        ports = [udp[0].getsockname()[1]] if udp else None
        self.client = RtspClient(url, first_video, lambda: secrets.token_hex(8), ports)
        self.track: RtpVideoTrack | None = None
        self.began = False
        self.dropped = 0
        self._loss, self._rng = loss, random.Random(1)
        self._udp = udp
        self._socket = socket.create_connection(("127.0.0.1", port), LIMIT_S)

    def pictures(self) -> Iterator[TimedPicture]:
        """Yield pictures for a limited time."""
        client, began = self.client, time.monotonic()
        client.start(time.monotonic_ns())
        with self._socket:
            while time.monotonic() - began < LIMIT_S:
                self._socket.sendall(client.to_send())
                ready = select.select([self._socket, *self._udp], [], [], 0.05)[0]
                now = time.monotonic_ns()
                for source in ready:
                    data = source.recv(65_536)
                    assert data, "the server closed the connection"
                    events = client.receive(data, now) if source is self._socket else ()
                    for event in events:
                        self.began = self.began or isinstance(event, PlayBegun)
                    packets = [(event.channel, event.data) for event in events if isinstance(event, InterleavedPacket)]
                    if source is not self._socket:
                        packets.append((self._udp.index(source), data))
                    for channel, packet in packets:
                        yield from self._packet(channel, packet, now)
                client.tick(now)
                if self.track is not None:
                    yield from self.track.expire(now)

    def _packet(self, channel: int, packet: bytes, now_ns: int) -> Iterator[TimedPicture]:
        if self.track is None:
            self.track = RtpVideoTrack(self.client.tracks[0].media, 1, udp=bool(self._udp))
        if channel == 1:
            self.track.push_rtcp(packet, now_ns)
            return
        if self._rng.random() < self._loss:
            self.dropped += 1
            return
        yield from self.track.push_rtp(packet, now_ns)
        report = self.track.report(now_ns)
        if report is not None and not self._udp:
            self.client.send_rtcp(0, report)


def decoded(pictures: Sequence[TimedPicture], media: MediaSection) -> int:
    """Return the number of frames that a decoder makes of pictures, without an error."""
    decoder = av.CodecContext.create({"h264": "h264", "h265": "hevc"}[media.codec], "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = media.parameter_sets() or None
    decoder.thread_type = "NONE"
    frames = [frame for picture in pictures for frame in decoder.decode(av.Packet(picture.picture.data))]
    assert not any(frame.is_corrupt for frame in frames)
    return len(frames)


def play(
    mount: Mount, count: int = 20, user: str = "", password: str = "", auth: str = "basic"
) -> tuple[Player, list[TimedPicture]]:
    with RtspServer(mount, auth="digest" if auth == "digest" else "basic") as server:
        player = Player(server.url(mount.path, user, password), server.port)
        return player, list(islice(player.pictures(), count))


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_each_picture_of_a_server_can_be_decoded(codec: Codec) -> None:
    player, pictures = play(ClockMount("/clock", codec=codec, fps=30, key_interval=10, sound="pcma"), 25)
    assert player.began
    assert player.track is not None
    assert len(pictures) == 25
    assert not any(timed.picture.damaged or timed.picture.lost for timed in pictures)
    at = next(place for place, timed in enumerate(pictures) if timed.picture.key)
    assert decoded(pictures[at:], player.client.tracks[0].media) == len(pictures) - at
    gaps_ms = sorted((later.pts_ns - timed.pts_ns) / 1e6 for timed, later in pairwise(pictures))
    assert gaps_ms[0] > 0
    assert 15 < gaps_ms[len(gaps_ms) // 2] < 70  # a frame interval, on a busy machine
    assert player.track.assembler.marked


@pytest.mark.parametrize("auth", ["basic", "digest"])
def test_a_password_is_accepted_and_a_wrong_one_is_refused(auth: str) -> None:
    mount = ClockMount("/clock", user="admin", password="pa:ss@word")
    _, pictures = play(mount, 2, "admin", "pa:ss%40word", auth)
    assert len(pictures) == 2
    with pytest.raises(RefusedError, match=r"authentication failed \(401\)"):
        play(mount, 1, "admin", "wrong", auth)


def test_a_missing_path_and_a_transport_that_is_not_offered_are_refused() -> None:
    with RtspServer(ClockMount("/refusing", udp_only=True), ClockMount("/udp", udp_only=True)) as server:
        with pytest.raises(RefusedError, match="404"):
            list(Player(server.url("/missing"), server.port).pictures())
        with pytest.raises(TransportRefusedError, match="461"):
            list(Player(server.url("/refusing"), server.port).pictures())
        with Pair() as udp:
            player = Player(server.url("/udp"), server.port, udp)
            pictures = list(islice(player.pictures(), 10))
    assert player.client.tracks[0].server_ports is not None
    assert len(pictures) == 10


def test_each_packet_that_is_lost_over_udp_is_counted_and_no_cut_picture_is_whole() -> None:
    mount = ClockMount("/udp", udp_only=True, kbit_s=8000, key_interval=10)
    with RtspServer(mount) as server, Pair() as udp, Pair() as other:
        complete = Player(server.url("/udp"), server.port, other)
        sent: dict[int, bytes] = {}

        def collect() -> None:
            sent.update((timed.picture.timestamp, timed.picture.data) for timed in islice(complete.pictures(), 70))

        collector = threading.Thread(target=collect)
        collector.start()
        lossy = Player(server.url("/udp"), server.port, udp, loss=0.03)
        pictures = [timed.picture for timed in islice(lossy.pictures(), 50)]
        collector.join(2 * LIMIT_S)
    assert lossy.track is not None
    assert lossy.dropped > 0
    assert 0 <= lossy.dropped - lossy.track.order.counts.lost <= 2, "the last ones may still be waited for"
    damaged = sum(picture.damaged for picture in pictures)
    assert 0 < damaged <= lossy.dropped
    whole = [picture for picture in pictures if not picture.damaged and picture.timestamp in sent]
    assert len(whole) > 10
    assert all(slices(sent[picture.timestamp]) == slices(picture.data) for picture in whole)


@pytest.mark.slow
def test_a_camera_that_ffmpeg_has_to_read_is_remembered_and_reported() -> None:
    with RtspServer(ClockMount("/vp9", 320, 180, 15, codec="vp9", key_interval=5, user="admin", password="secret")) as server:
        url = server.url("/vp9", "admin", "secret")
        for _ in range(2):
            with LiveSource(SourceSpec("door", "live", (url,)), 1, threading.Event()) as source:
                assert next(source.frames()).image.size.width == 320
            (warning,) = source.report.warnings
            assert warning == ("is read by FFmpeg: the codec vp9 is not supported over RTP")
        with pytest.raises(UnsupportedByRtpError, match="vp9"):
            LiveSource(SourceSpec("door", "live", (url,), live=LiveOptions(ingest="rtp")), 1, threading.Event())


class Pair:
    """Two UDP sockets on consecutive ports."""

    def __enter__(self) -> list[socket.socket]:
        for _ in range(50):
            self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
            self.sockets[0].bind(("127.0.0.1", 0))
            try:
                self.sockets[1].bind(("127.0.0.1", self.sockets[0].getsockname()[1] + 1))
            except (OSError, OverflowError):
                self.__exit__()
                continue
            return self.sockets
        raise AssertionError("no two consecutive ports are free")

    def __exit__(self, *_: object) -> None:
        for one in self.sockets:
            one.close()
