"""A web server for tests that sends live video: MPEG-TS, FLV, MJPEG, HLS; every frame contains the time of its creation.

Example: ``http://127.0.0.1:PORT/live.ts?frames=100&stall_at=40``; see :class:`Wanted` for the query parameters.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from vision_infer.core.time_code import moment_ms
from vision_infer.stream import time_code_reader

FPS = 25
WIDTH, HEIGHT = 320, 180
_UNKNOWN_SLICE = b"\0\0\0\1\x41\xc2" + b"\xff" * 200
"""An H.264 slice that refers to a picture parameter set that is never sent."""
_SOUND_RATE, _SOUND_FRAME = 48_000, 1024
_FORMATS = {".ts": "mpegts", ".flv": "flv", ".mjpeg": "mpjpeg", ".mkv": "matroska"}


@dataclass
class Wanted:
    """The query parameters of a request."""

    frames: int = 1500
    """The number of frames before the connection is closed."""
    backlog: int = 0
    """The number of frames sent at once at the beginning; the last one is created when the request arrives."""
    stall_at: int = -1
    """The frame before which nothing is sent for two seconds, and then everything at once."""
    no_image_from: int = -1
    """The frame from which only audio is sent; requires MPEG-TS."""
    image_from: int = 0
    """The frame before which only audio is sent; requires MPEG-TS."""
    noise_from: int = -1
    """The frame from which video consists of slices of an unknown stream; requires MPEG-TS."""


class _Outlet(io.RawIOBase):
    """The output of a muxer."""

    def __init__(self, out: io.BufferedIOBase) -> None:
        self.out = out
        self.held: bytearray | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        block = bytes(data)  # type: ignore[call-overload]
        if self.held is not None:
            self.held += block
        else:
            self.out.write(block)
            self.out.flush()
        return len(block)

    def release(self) -> None:
        """Send the buffered data."""
        held, self.held = self.held, None
        if held:
            self.write(held)


def painted(milliseconds: int) -> av.VideoFrame:
    """Return a gray image with a time code."""
    image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    time_code_reader.draw(image, milliseconds)
    return av.VideoFrame.from_ndarray(image, format="rgb24")


def _send(outlet: _Outlet, format_name: str, wanted: Wanted, stopping: threading.Event) -> None:
    muxing = {"flush_packets": "1", "max_delay": "0", "max_interleave_delta": "1"}
    with av.open(outlet, "w", format=format_name, options=muxing) as container:
        codec = "mjpeg" if format_name == "mpjpeg" else "libx264"
        options = {} if codec == "mjpeg" else {"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
        video = container.add_stream(codec, rate=Fraction(FPS), options=options)
        assert isinstance(video, VideoStream)
        video.width, video.height = WIDTH, HEIGHT
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        sound = container.add_stream("mp2", rate=_SOUND_RATE) if wanted.no_image_from >= 0 or wanted.image_from else None
        began, held_since = time.monotonic() - wanted.backlog / FPS, 0.0
        for number in range(wanted.frames):
            if stopping.wait(max(0.0, began + number / FPS - time.monotonic())):
                return
            if number == wanted.stall_at:
                outlet.held, held_since = bytearray(), time.monotonic()
            if outlet.held is not None and time.monotonic() - held_since > 2:
                outlet.release()
            if isinstance(sound, AudioStream):
                _send_sound(container, sound, number)
            if 0 <= wanted.no_image_from <= number or number < wanted.image_from:
                continue
            late = max(0, wanted.backlog - number) / FPS
            image = painted(moment_ms(time.monotonic_ns() - int(late * 1e9)))
            image.pts, image.time_base = number, Fraction(1, FPS)
            for packet in video.encode(image):
                if 0 <= wanted.noise_from <= number:
                    noise = av.Packet(_UNKNOWN_SLICE)
                    noise.pts, noise.dts, noise.time_base, noise.stream = packet.pts, packet.dts, packet.time_base, video
                    packet = noise
                container.mux(packet)


def _send_sound(container: av.container.OutputContainer, sound: AudioStream, number: int) -> None:
    """Return the silence for the duration of a frame."""
    first, last = (round(n * _SOUND_RATE / FPS / _SOUND_FRAME) for n in (number, number + 1))
    for piece in range(first, last):
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * _SOUND_FRAME), np.int16), format="s16", layout="stereo")
        silence.sample_rate, silence.pts, silence.time_base = _SOUND_RATE, piece * _SOUND_FRAME, Fraction(1, _SOUND_RATE)
        container.mux(sound.encode(silence))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def live_web(folder: Path | None = None) -> Iterator[str]:
    """Start the server and yield its address up to the port.

    ``/live.ts``, ``.flv``, ``.mjpeg``, ``.mkv`` are live; ``/files/NAME`` is the current content of a file in the folder;
    ``/moved?to=URL`` redirects; ``/status/403`` responds with that status.
    """
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = dict(parse_qsl(address.query))
            if address.path == "/moved":
                self.send_response(302)
                self.send_header("Location", query["to"])
                self.end_headers()
            elif address.path.startswith("/status/"):
                self.send_error(int(address.path.rpartition("/")[2]))
            elif address.path.startswith("/files/"):
                self._send_file(address.path.rpartition("/")[2])
            elif not address.path.startswith("/live."):
                self.send_error(404)
            else:
                known = {field.name for field in fields(Wanted)}
                wanted = Wanted(**{name: int(value) for name, value in query.items() if name in known})
                self._send_live(_FORMATS[Path(address.path).suffix], wanted)

        def _send_file(self, name: str) -> None:
            if folder is None or not (folder / name).is_file():
                self.send_error(404)
                return
            data = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _send_live(self, format_name: str, wanted: Wanted) -> None:
            self.send_response(200)
            kind = "multipart/x-mixed-replace; boundary=ffmpeg" if format_name == "mpjpeg" else "video/mp2t"
            self.send_header("Content-Type", kind)
            self.end_headers()
            with suppress(OSError, av.error.FFmpegError):
                _send(_Outlet(self.wfile), format_name, wanted, stopping)

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def hls_writer(folder: Path, segment_s: int = 1) -> Iterator[None]:
    """Write a live HLS stream into a folder in real time until the context ends."""
    stopping = threading.Event()

    def write() -> None:
        options = {"hls_time": str(segment_s), "hls_list_size": "5", "hls_flags": "delete_segments+temp_file"}
        with av.open(str(folder / "live.m3u8"), "w", format="hls", options=options) as container:
            video = container.add_stream(
                "libx264", rate=Fraction(FPS), options={"preset": "ultrafast", "tune": "zerolatency", "g": str(FPS * segment_s)}
            )
            assert isinstance(video, VideoStream)
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            began = time.monotonic()
            for number in range(100 * FPS):
                if stopping.wait(max(0.0, began + number / FPS - time.monotonic())):
                    return
                image = painted(moment_ms(time.monotonic_ns()))
                image.pts, image.time_base = number, Fraction(1, FPS)
                container.mux(video.encode(image))

    thread = threading.Thread(target=write, name="hls writer")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
