"""A server that sends without end is disconnected, and no other stream of the same server is."""

from __future__ import annotations

import io
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import cv2
import numpy as np
import pytest

from tests.support.waiting import wait_until
from vision_infer.core.errors import StreamError
from vision_infer.stream.find import open_source
from vision_infer.stream.live.connection_guard import LOOK_S, MAX_BYTES, ConnectionGuard
from vision_infer.stream.source import LiveOptions, SourceSpec

JPEG_BYTES, FPS = 1_000_000, 20
SEGMENTS, SEGMENT_BYTES, SEGMENT_S = 5, 12_000_000, 0.8
TOO_MUCH = MAX_BYTES + 4_000_000
MESSAGE = "the server sent more than 32 MB without a complete frame"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as kept:
        yield kept


@contextmanager
def guarding(url: str) -> Iterator[ConnectionGuard]:
    guard = ConnectionGuard(url, threading.Event(), 600)
    try:
        yield guard
    finally:
        guard.close()


class Recorder:
    """A server with connections that send what a test wants."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return a connection of a client, and the end of the server."""
        client = self._stack.enter_context(socket.create_connection(self._listener.getsockname()))
        client.settimeout(20)
        server, _ = self._listener.accept()
        return client, self._stack.enter_context(server)


def receive(client: socket.socket, server: socket.socket, size: int) -> int:
    """Send bytes to a client, which reads them; return the number that it read."""

    def send() -> None:
        with suppress(OSError):
            server.sendall(bytes(size))

    thread = threading.Thread(target=send)
    thread.start()
    left = size
    while left and (data := client.recv(1 << 20)):
        left -= len(data)
    if left:
        server.close()
    thread.join()
    return size - left


def is_ended(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def looked() -> None:
    """Wait until the watch has looked at all connections several times."""
    until = time.monotonic() + 4 * LOOK_S
    wait_until(lambda: time.monotonic() > until)


def test_a_connection_that_sends_too_much_is_ended(stack: ExitStack) -> None:
    recorder = Recorder(stack)
    guard = stack.enter_context(guarding(recorder.url))
    client, server = recorder.connect()
    receive(client, server, TOO_MUCH)
    wait_until(lambda: guard.problem)
    assert guard.problem == MESSAGE
    assert guard.hint == "Check the stream's format and bit rate."
    wait_until(lambda: is_ended(client))


def test_an_open_connection_may_send_too_much_only_in_total(stack: ExitStack) -> None:
    recorder = Recorder(stack)
    guard = stack.enter_context(guarding(recorder.url))
    client, server = recorder.connect()
    guard.opened("mpjpeg")
    for _ in range(3):
        guard.allow(600)
        receive(client, server, MAX_BYTES // 2)
        looked()
        guard.allow(math.inf)
    assert not guard.problem
    guard.allow(600)
    looked()
    receive(client, server, TOO_MUCH)
    wait_until(lambda: guard.problem)
    wait_until(lambda: is_ended(client))


@pytest.mark.parametrize("first_is_open", [True, False])
def test_a_later_connection_to_the_same_address_is_never_ended_for_the_first(stack: ExitStack, first_is_open: bool) -> None:
    recorder = Recorder(stack)
    slow = stack.enter_context(guarding(recorder.url))
    waiting, _ = recorder.connect()
    if first_is_open:
        slow.opened("mpjpeg")
        slow.allow(600)
    big = stack.enter_context(guarding(recorder.url))
    client, server = recorder.connect()
    big.opened("mpjpeg")
    for _ in range(2):  # too much for the first one, but two packets of this one
        receive(client, server, TOO_MUCH // 2)
        big.allow(600)
    slow.allow(0)
    wait_until(lambda: slow.problem)
    assert slow.problem == "the server sent no frame in time"
    wait_until(lambda: is_ended(waiting))
    assert not is_ended(client)
    assert not big.problem


def test_connections_that_are_opened_at_the_same_time_are_not_ended(stack: ExitStack) -> None:
    recorder = Recorder(stack)
    guards = [stack.enter_context(guarding(recorder.url)) for _ in range(2)]
    connections = [recorder.connect() for _ in range(2)]
    for guard in guards:
        guard.allow(0)
    looked()
    guards[0].opened("mpjpeg")
    guards[0].allow(0)
    looked()
    assert not any(guard.problem for guard in guards)
    assert not any(is_ended(client) for client, _ in connections)


def test_other_connections_to_the_address_make_the_stream_uncertain(stack: ExitStack) -> None:
    """A connection of another part of the process leads to the same address."""
    recorder = Recorder(stack)
    guard = stack.enter_context(guarding(recorder.url))
    clients = [recorder.connect()[0] for _ in range(2)]
    guard.allow(0)
    looked()
    assert not guard.problem
    assert not any(is_ended(client) for client in clients)


def test_a_later_socket_with_the_same_descriptor_is_not_ended(stack: ExitStack) -> None:
    recorder = Recorder(stack)
    guard = stack.enter_context(guarding(recorder.url))
    client, _ = recorder.connect()
    guard.opened("mpjpeg")
    descriptor = client.fileno()
    client.close()
    other, _ = recorder.connect()
    assert other.fileno() == descriptor
    guard.allow(0)
    looked()
    assert not guard.problem
    assert not is_ended(other)


def _jpeg() -> bytes:
    """Return a small image with comments that make the file large."""
    data = cv2.imencode(".jpg", np.full((90, 160, 3), 99, np.uint8))[1].tobytes()
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFF - 2)
    return data[:2] + comment * (JPEG_BYTES // len(comment)) + data[2:]


def _segments() -> list[bytes]:
    """Return the segments of an HLS stream, filled up with null packets."""
    segments = []
    for number in range(SEGMENTS):
        out = io.BytesIO()
        with av.open(out, "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", 25, width=320, height=180, pix_fmt="yuv420p")
            for index in range(25):
                frame = av.VideoFrame.from_ndarray(np.full((180, 320, 3), 9 * index, np.uint8), "rgb24")
                frame.pts = 25 * number + index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        null = b"\x47\x1f\xff\x10" + b"\xff" * 184
        segments.append(out.getvalue() + null * (SEGMENT_BYTES // len(null)))
    return segments


@pytest.fixture
def server() -> Iterator[str]:
    """A server with a camera that answers late, one with a high bit rate, and an HLS stream that keeps its connection."""
    jpeg, segments, stopping = _jpeg(), _segments(), threading.Event()
    playlist = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:VOD\n"
    playlist += "".join(f"#EXTINF:1.0,\n/{number}.ts\n" for number in range(SEGMENTS)) + "#EXT-X-ENDLIST\n"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            try:
                self._answer(self.path)
            except OSError:
                self.close_connection = True

        def _answer(self, path: str) -> None:
            if path == "/slow":
                stopping.wait(30)
                self.close_connection = True
            elif path == "/big":
                self.close_connection = True
                self._head("multipart/x-mixed-replace; boundary=frame")
                while not stopping.wait(1 / FPS):
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
            elif path.endswith(".m3u8"):
                self._head("application/vnd.apple.mpegurl", len(playlist))
                self.wfile.write(playlist.encode())
            else:
                stopping.wait(SEGMENT_S)
                data = segments[int(path[1:].partition(".")[0])]
                self._head("video/mp2t", len(data))
                self.wfile.write(data)

        def _head(self, kind: str, size: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            if size is not None:
                self.send_header("Content-Length", str(size))
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads, running.block_on_close = True, False
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        stopping.set()
        running.shutdown()


class Reading:
    """A thread that reads a stream."""

    def __init__(self, url: str) -> None:
        self.frames, self.error = 0, ""
        self.stopping = threading.Event()
        self.spec = SourceSpec("camera", "live", (url,), live=LiveOptions(open_timeout_s=20, stall_timeout_s=20))
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            with open_source(self.spec, 1, self.stopping) as source:
                for _ in source.frames():
                    self.frames += 1
        except StreamError as error:
            self.error = str(error)


@pytest.mark.slow  # 7 s
def test_a_slow_camera_does_not_disconnect_another_one_of_the_same_recorder(server: str) -> None:
    slow = Reading(f"{server}/slow")
    until = time.monotonic() + 2 * LOOK_S
    wait_until(lambda: time.monotonic() > until)
    big = Reading(f"{server}/big")
    wait_until(lambda: big.frames * JPEG_BYTES > 3 * MAX_BYTES or big.error)
    assert (slow.error, big.error) == ("", "")
    slow.stopping.set()
    slow.thread.join(10)
    assert "the stream was removed" in slow.error
    assert not big.error
    big.stopping.set()
    big.thread.join(10)


@pytest.mark.slow
def test_an_hls_stream_may_send_more_than_the_limit_in_total(server: str) -> None:
    assert SEGMENTS * SEGMENT_BYTES > MAX_BYTES
    reading = Reading(f"{server}/live.m3u8")
    reading.thread.join(60)
    assert (reading.error, reading.thread.is_alive()) == ("", False)
    assert reading.frames > 25 * (SEGMENTS - 1)
