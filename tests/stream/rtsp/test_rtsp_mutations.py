"""Whole connections with mutated bytes: they lead to events or to an error that is explained, in bounded time and memory."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count

import pytest

from tests.support.rtp_packets import SSRC, payloads, rtp, slice264
from tests.support.rtp_quirks import PPS, QUIRKS, SPS
from vision_infer.core.errors import StreamError
from vision_infer.stream.live.rtsp_stream import RtspStream, UnsupportedByRtpError
from vision_infer.stream.rtsp.client import RtspClient
from vision_infer.stream.rtsp.description import MediaSection, SessionDescription
from vision_infer.stream.rtsp.message import InterleavedPacket, interleaved_bytes
from vision_infer.stream.rtsp.sound_track import RtpSoundTrack, unsupported_sound
from vision_infer.stream.rtsp.video_track import RtpVideoTrack, unsupported
from vision_infer.stream.source import LiveOptions

SDP = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=a\r\nt=0 0\r\na=control:*\r\n"
    b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    b"a=fmtp:96 packetization-mode=1;sprop-parameter-sets=Z00AH5WoFAFuQA==,aO48gA==\r\na=control:trackID=1\r\n"
    b"m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/16000\r\n"
    b"a=fmtp:97 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408\r\na=control:trackID=2\r\n"
)
REPORT = struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, (1_700_000_000 + 2_208_988_800) << 32, 0, 1, 2)


def answer(number: int, *headers: str, body: bytes = b"") -> bytes:
    lines = ["RTSP/1.0 200 OK", f"CSeq: {number}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def capture() -> list[bytes]:
    """Return what a server sends in a connection: the answers, then the quirks of all cameras, with sound and reports."""
    parts = [
        answer(1, "Public: OPTIONS, DESCRIBE, SETUP, PLAY"),
        answer(2, "Content-Base: rtsp://192.0.2.1/live/", "Content-Type: application/sdp", body=SDP),
        answer(3, "Session: 42;timeout=30", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"),
        answer(4, "Session: 42;timeout=30", "Transport: RTP/AVP/TCP;unicast;interleaved=2-3"),
        answer(5, "RTP-Info: url=rtsp://192.0.2.1/live/trackID=1;seq=1;rtptime=0"),
    ]
    numbers, base = count(1), count(0, 1000)
    for quirk in QUIRKS:
        start = next(base)
        parts += [interleaved_bytes(0, rtp(data, next(numbers), start + at, end)) for at, end, data in quirk.packets]
        parts.append(interleaved_bytes(1, REPORT))
        parts.append(interleaved_bytes(2, rtp(b"\0\x10\0\x18abc", start // 1000, start, True, kind=97)))
    for payload, last in payloads([SPS, PPS, slice264(5, 20_000)], hevc=False):
        parts.append(interleaved_bytes(0, rtp(payload, next(numbers), next(base), last)))
    return parts


PARTS = capture()


def mutated(rng: random.Random) -> bytes:
    """Return the capture with changed, removed, repeated and inserted bytes and messages."""
    parts = list(PARTS)
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(parts))
        parts[at : at + 1] = rng.choice([[], [parts[at]] * 2, [rng.choice(parts)], [parts[at][: rng.randint(0, len(parts[at]))]]])
    data = bytearray(b"".join(parts))
    # Either the answers are changed, which are a small part of the bytes, or the packets.
    answers = rng.random() < 0.5
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(1200) if answers else rng.randrange(1200, len(data))
        change = rng.randrange(4)
        if change == 0:
            data[at] = rng.randrange(256)
        elif change == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 2:
            del data[at : at + rng.randint(1, 40)]
        else:
            data[at:at] = rng.choice([b"\r\n", b"$", b"0" * 20, b"\xff" * 9, b";", b'"', bytes(30)])
    return bytes(data)


def chosen(description: SessionDescription) -> Sequence[MediaSection]:
    videos = [media for media in description.media if not unsupported(media)]
    sounds = [media for media in description.media if not unsupported_sound(media)]
    return [*videos[:1], *sounds[:1]]


def read(data: bytes, rng: random.Random) -> int:
    """Read a connection, in chunks of random sizes; return the number of pictures."""
    client = RtspClient("rtsp://admin:s3cret@192.0.2.1/live", chosen, lambda: "00")
    client.start(0)
    tracks: list[RtpVideoTrack | RtpSoundTrack] = []
    at = pictures = now = 0
    while at < len(data):
        size = rng.choice([1, 50, 1448, 65_536])
        now += 1_000_000
        events = client.receive(data[at : at + size], now)
        at += size
        client.to_send()
        for event in events:
            if not isinstance(event, InterleavedPacket):
                continue
            if not tracks:
                tracks = [
                    RtpSoundTrack(one.media) if unsupported(one.media) else RtpVideoTrack(one.media, 1) for one in client.tracks
                ]
            track = tracks[event.channel // 2]
            if isinstance(track, RtpSoundTrack):
                track.push_rtcp(event.data) if event.channel % 2 else track.push_rtp(event.data, now)
            elif event.channel % 2:
                track.push_rtcp(event.data, now)
            else:
                pictures += len(track.push_rtp(event.data, now))
    return pictures


def run(numbers: range) -> int:
    """Read mutated connections; return the number of those that were read to their end."""
    complete, shown = 0, set()
    for number in numbers:
        rng = random.Random(number)
        data = mutated(rng)
        try:
            read(data, rng)
            complete += 1
        except StreamError as error:
            shown.add(f"{error} {error!r}")
    assert not any("s3cret" in text for text in shown)
    return complete


def test_the_capture_itself_is_read() -> None:
    assert read(b"".join(PARTS), random.Random(0)) >= 50


def test_mutated_connections() -> None:
    began = time.process_time()
    assert 0 < run(range(300)) < 300
    assert time.process_time() - began < 30


def read_over_sockets(numbers: range) -> int:
    """Read mutated connections from a server that awaits no request; return the number of pictures."""
    live, pictures = LiveOptions(open_timeout_s=0.3, stall_timeout_s=0.1, ingest="rtp"), 0
    shown: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"rtsp://admin:s3cret@127.0.0.1:{listener.getsockname()[1]}/live"
        for number in numbers:
            rng = random.Random(number)
            data = mutated(rng)

            def serve(data: bytes = data) -> None:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):
                        pass

            server = threading.Thread(target=serve)
            server.start()
            try:
                with RtspStream(url, live, threading.Event()) as stream:
                    for _ in stream.read():
                        pictures += 1
            except UnsupportedByRtpError as error:
                error.connection.close()
            except StreamError as error:
                shown.append(f"{error} {error!r}")
            server.join(5)
    assert not any("s3cret" in text for text in shown)
    return pictures


def test_mutated_connections_over_sockets() -> None:
    assert read_over_sockets(range(40))


@pytest.mark.slow
def test_many_mutated_connections_over_sockets() -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert read_over_sockets(range(100, 2000))
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_mutated_connections(block: int) -> None:
    assert run(range(1000 + block * 10_000, 1000 + (block + 1) * 10_000))
