"""Cameras and servers that send without end, to use up the memory or the time of the service."""

from __future__ import annotations

import itertools
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TRACKS = 5000
_H264 = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track{}\r\n"
_HEAD = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
_HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: "
Send = Callable[[bytes], object]


def _rtsp(handler: socketserver.StreamRequestHandler, tracks: int, playing: Callable[[Send], None]) -> None:
    """Answer as an RTSP server with H.264 tracks."""
    sdp = (_HEAD + "".join(_H264.format(number) for number in range(tracks))).encode()
    while request := handler.rfile.readline():
        headers = {}
        while (line := handler.rfile.readline().strip()) and b":" in line:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        method = request.partition(b" ")[0]
        answer = b"RTSP/1.0 200 OK\r\nCSeq: " + headers.get(b"cseq", b"1") + b"\r\nSession: 1\r\n"
        body = b""
        if method == b"DESCRIBE":
            body = sdp
            answer += b"Content-Type: application/sdp\r\nContent-Length: %d\r\n" % len(body)
        elif method == b"SETUP":
            answer += b"Transport: " + headers[b"transport"] + b"\r\n"
        handler.wfile.write(answer + b"\r\n" + body)
        if method == b"PLAY":
            playing(handler.wfile.write)


def _many_tracks(handler: socketserver.StreamRequestHandler) -> None:
    _rtsp(handler, TRACKS, lambda send: None)


def _endless_fragments(handler: socketserver.StreamRequestHandler) -> None:
    def play(send: Send) -> None:
        for number in itertools.count():
            # FU-A of an IDR picture: the first fragment has the start bit, and no fragment has the end bit.
            payload = bytes([0x7C, 0x85 if number == 0 else 0x05]) + b"x" * 60_000
            packet = struct.pack(">BBHII", 0x80, 96, number & 0xFFFF, 1000, 1) + payload
            send(b"$\0" + struct.pack(">H", len(packet)) + packet)

    _rtsp(handler, 1, play)


def _endless_headers(handler: socketserver.StreamRequestHandler) -> None:
    handler.rfile.readline()
    handler.wfile.write(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n")
    while True:
        handler.wfile.write(b"X-A: b\r\n" * 1000)


def _slow_headers(handler: socketserver.StreamRequestHandler) -> None:
    handler.rfile.readline()
    handler.wfile.write(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n")
    never = threading.Event()
    while not never.wait(0.05):
        handler.wfile.write(b"X-A: b\r\n")


def _endless_playlist(handler: socketserver.StreamRequestHandler) -> None:
    handler.wfile.write(_HTTP + b"application/vnd.apple.mpegurl\r\n\r\n#EXTM3U\n#EXT-X-TARGETDURATION:1\n")
    for number in itertools.count():
        handler.wfile.write(b"".join(b"#EXTINF:1,\nsegment-%d-%d.ts\n" % (number, part) for part in range(1000)))


def _endless_part(handler: socketserver.StreamRequestHandler) -> None:
    handler.wfile.write(_HTTP + b"multipart/x-mixed-replace; boundary=b\r\n\r\n--b\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8")
    while True:
        handler.wfile.write(b"x" * 65_536)


def _endless_description(handler: socketserver.StreamRequestHandler) -> None:
    handler.wfile.write(_HTTP + b"application/sdp\r\n\r\n" + _HEAD.encode())
    while True:
        handler.wfile.write(b"a=x:y\r\n" * 1000)


def _endless_web_headers(handler: socketserver.StreamRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-A: b\r\n" * 1000)


HOSTILE = {
    "rtsp tracks": ("rtsp", "/x", _many_tracks),
    "rtsp fragments": ("rtsp", "/x", _endless_fragments),
    "rtsp headers": ("rtsp", "/x", _endless_headers),
    "rtsp slow headers": ("rtsp", "/x", _slow_headers),
    "http playlist": ("http", "/x.m3u8", _endless_playlist),
    "http part": ("http", "/x.mjpg", _endless_part),
    "http description": ("http", "/x.sdp", _endless_description),
    "http headers": ("http", "/x", _endless_web_headers),
}


@contextmanager
def hostile_camera(name: str) -> Iterator[str]:
    """Run a hostile camera, and return its URL."""
    scheme, path, serve = HOSTILE[name]

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                serve(self)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"{scheme}://127.0.0.1:{server.server_address[1]}{path}"
        finally:
            server.shutdown()
