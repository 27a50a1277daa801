"""Cameras for tests and benchmarks: a real RTSP server as a process of its own, which can be killed, frozen and restarted.

with RtspServer(ClockMount("/clock"), ReplayMount("/street", street())) as server:
    av.open(server.url("/clock"))
"""

from __future__ import annotations

import json
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal

import av
import pytest
from av.video.frame import PictureType

from tests.support.media import asset, bikes, made

SCRIPT = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"
READY_S = 30.0
"""how long a server may take to listen"""
Codec = Literal["h264", "h265"]
ENCODERS = {"h264": "libx264", "h265": "libx265"}


@dataclass(frozen=True)
class ClockMount:
    """The time-code camera: every frame carries the moment at which it was painted, CLOCK_MONOTONIC, and is encoded live."""

    path: str = "/clock"
    width: int = 640
    """pixels, even"""
    height: int = 360
    """pixels, even"""
    fps: int = 30
    codec: Codec = "h264"
    key_interval: int = 30
    """frames"""
    kbit_s: int = 2000
    b_frames: int = 0
    """between two others, H.264 only; each makes the camera slower by a frame interval"""
    next_size: tuple[int, int] | None = None
    """width and height that it changes to, and back, in mid-stream; None: it does not"""
    frames_per_size: int = 60
    stop_after: int | None = None
    """frames after which nothing more is sent: 0 accepts a client and never answers what the stream is; 1 answers that, and
    sends no picture that can be told from a part of one; None: goes on"""
    user: str = ""
    """empty: anybody may watch"""
    password: str = ""

    def told(self) -> dict[str, object]:
        """As the script wants it."""
        values = asdict(self)
        sizes = [(self.width, self.height), *([self.next_size] if self.next_size else [])]
        return {**values, "kind": "clock", "sizes": sizes}


@dataclass(frozen=True)
class ReplayMount:
    """Video that was encoded before, in real time, over and over, with times that go on; costs next to no CPU."""

    path: str
    video: Encoded
    user: str = ""
    password: str = ""

    def told(self) -> dict[str, object]:
        """As the script wants it."""
        fps, codec = self.video.fps, self.video.codec
        mount = {"path": self.path, "user": self.user, "password": self.password, "codec": codec, "fps": fps}
        return {**mount, "kind": "replay", "file": str(self.video.file())}


@dataclass(frozen=True)
class SoundMount:
    """A microphone: a stream with nothing that a video pipeline can use."""

    path: str = "/sound"
    user: str = ""
    password: str = ""

    def told(self) -> dict[str, object]:
        """As the script wants it."""
        return {**asdict(self), "kind": "sound"}


Mount = ClockMount | ReplayMount | SoundMount


@dataclass(frozen=True)
class Encoded:
    """A recipe for encoded video of real pictures; made when first needed, kept in ``tests/.media``."""

    clip: str = "bikes"
    """``bikes`` or the path of an asset below ``shared/assets``"""
    width: int = 1920
    height: int = 1080
    fps: int = 30
    codec: Codec = "h264"
    kbit_s: int = 4000
    frames: int = 150
    key_interval: int = 30
    """frames; the video begins with a key frame, and so does each round"""

    def file(self) -> Path:
        """Access units in Annex B, each after its length; skips the test where the clip is not here."""
        source = bikes() if self.clip == "bikes" else asset(self.clip)

        def write(path: Path) -> None:
            path.write_bytes(b"".join(self._units(source)))

        return made(f"access units {self!r}", ".units", write)

    def image(self, number: int, frame: av.VideoFrame) -> av.VideoFrame:
        """What is encoded in this place, from 0, of a picture of the clip; ``yuv420p``."""
        return frame.reformat(self.width, self.height, "yuv420p")

    def _units(self, source: Path) -> Iterator[bytes]:
        context = av.CodecContext.create(ENCODERS[self.codec], "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = self.width, self.height, "yuv420p"
        context.framerate, context.time_base = Fraction(self.fps), Fraction(1, self.fps)
        context.bit_rate = self.kbit_s * 1000
        context.gop_size, context.max_b_frames = self.key_interval, 0
        rate = {"preset": "veryfast", "maxrate": f"{self.kbit_s}k", "bufsize": f"{self.kbit_s}k", "forced-idr": "1"}
        own = {"x265-params": f"log-level=none:keyint={self.key_interval}:bframes=0:repeat-headers=1:scenecut=0"}
        context.options = {**rate, **(own if self.codec == "h265" else {"sc_threshold": "0"})}
        for number, frame in enumerate(islice(_again_and_again(source), self.frames)):
            image = self.image(number, frame)
            image.pts, image.time_base = number, context.time_base
            image.pict_type = PictureType.NONE
            for packet in context.encode(image):
                yield struct.pack(">I", packet.size) + bytes(packet)
        for packet in context.encode(None):
            yield struct.pack(">I", packet.size) + bytes(packet)


def _again_and_again(source: Path) -> Iterator[av.VideoFrame]:
    while True:
        with av.open(str(source)) as container:
            yield from container.decode(video=0)


@cache
def missing() -> str:
    """What the cameras need and this machine has not; empty where all is here."""
    python = shutil.which(SYSTEM_PYTHON)
    if python is None:
        return f"{SYSTEM_PYTHON} is not here"
    probe = (
        "import gi; [gi.require_version(n, '1.0') for n in ('Gst', 'GstRtspServer')];"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
        "e = 'x264enc x265enc h264parse h265parse appsrc rtph264pay alawenc'.split();"
        "print(*[n for n in e if Gst.ElementFactory.find(n) is None])"
    )
    ran = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=120, check=False)
    if ran.returncode:
        return "GStreamer's RTSP server is not here"
    return f"GStreamer lacks {ran.stdout.strip()}" if ran.stdout.strip() else ""


class RtspServer:
    """A server with some cameras, on a free port of the loopback; a context manager. Skips the test where GStreamer is missing.

    Args:
        mounts: the cameras; their paths differ.
        auth: how passwords are asked for.
    """

    def __init__(self, *mounts: Mount, auth: Literal["basic", "digest"] = "basic") -> None:
        self._mounts = mounts
        self._auth = auth
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        """0 until it was started"""

    def __enter__(self) -> RtspServer:
        if missing():
            pytest.skip(f"{missing()}: make cameras")
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def url(self, path: str, user: str = "", password: str = "") -> str:
        """The address of a mount, with a user and a password where they are given."""
        credentials = f"{user}:{password}@" if user else ""
        return f"rtsp://{credentials}127.0.0.1:{self.port}{path}"

    @property
    def pid(self) -> int:
        """Of the server's process, for those who measure it."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it at once (SIGKILL), as a power cut does; nothing happens where it has ended."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def freeze(self) -> None:
        """Stop it (SIGSTOP): connections stay, and nothing comes."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again on the same port, after :meth:`kill` or in place of what runs."""
        self.kill()
        self._start()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server does not run"
        self._process.send_signal(number)

    def _start(self) -> None:
        told = {"port": self.port, "auth": self._auth, "mounts": [mount.told() for mount in self._mounts]}
        deadline = time.monotonic() + READY_S
        while True:
            with tempfile.TemporaryFile("w+") as errors:
                self._process = subprocess.Popen(
                    [SYSTEM_PYTHON, str(SCRIPT), json.dumps(told)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
                assert self._process.stdout is not None
                readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
                answer = self._process.stdout.readline().split() if readable else []
                if answer[:1] == ["ready"]:
                    self.port = int(answer[1])
                    return
                self.kill()
                errors.seek(0)
                said = errors.read()[-500:]
            if not self.port or time.monotonic() >= deadline:  # one that starts again may have to wait for its port
                raise RuntimeError(f"the RTSP server did not get ready: {said}")
            time.sleep(0.1)
