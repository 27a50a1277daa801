"""Cameras for tests and benchmarks: a real RTSP server in a separate process, which can be killed, frozen and restarted.

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
"""The time limit until a server listens, seconds."""
Codec = Literal["h264", "h265", "jpeg", "vp8", "vp9"]
Sound = Literal["", "pcmu", "pcma", "opus", "aac"]
"""The codec of a second track with a tone; empty for none."""
ENCODERS = {"h264": "libx264", "h265": "libx265"}


@dataclass(frozen=True)
class ClockMount:
    """A camera whose frames contain the time at which they were drawn (CLOCK_MONOTONIC) as a time code; they are encoded live."""

    path: str = "/clock"
    width: int = 640
    """Pixels, even."""
    height: int = 360
    """Pixels, even."""
    fps: int = 30
    codec: Codec = "h264"
    key_interval: int = 30
    """The key-frame interval in frames."""
    kbit_s: int = 2000
    turn_every: int | None = None
    """The number of frames after which the square changes its direction; None: at the edges of the frame."""
    b_frames: int = 0
    """The number of B-frames between other frames, H.264 only; each adds a frame interval of delay."""
    next_size: tuple[int, int] | None = None
    """The width and height that it switches to and back from during the stream; None if it does not change."""
    udp_only: bool = False
    """Whether it refuses RTSP over TCP (status 461)."""
    frames_per_size: int = 60
    mtu: int = 1400
    """The maximum size of an RTP packet of H.264 and H.265, bytes."""
    stop_after: int | None = None
    """The number of frames after which nothing more is sent. 0 accepts clients but never describes the stream; 1 describes it
    and sends no frame that can be recognized as complete. None for no limit."""
    user: str = ""
    """The user name; empty if no password is required."""
    password: str = ""
    sound: Sound = ""
    tone_hz: float = 1000.0

    def to_json(self) -> dict[str, object]:
        """Return the mount in the format of the script."""
        values = asdict(self)
        sizes = [(self.width, self.height), *([self.next_size] if self.next_size else [])]
        return {**values, "kind": "clock", "sizes": sizes}


@dataclass(frozen=True)
class ReplayMount:
    """Previously encoded video, played in a loop in real time with continuous timestamps; it uses almost no CPU."""

    path: str
    video: Encoded
    user: str = ""
    password: str = ""
    sound: Sound = ""
    tone_hz: float = 1000.0

    def to_json(self) -> dict[str, object]:
        """Return the mount in the format of the script."""
        fps, codec = self.video.fps, self.video.codec
        mount = {"path": self.path, "user": self.user, "password": self.password, "codec": codec, "fps": fps}
        mount |= {"sound": self.sound, "tone_hz": self.tone_hz}
        return {**mount, "kind": "replay", "file": str(self.video.file())}


@dataclass(frozen=True)
class SoundMount:
    """A microphone: a stream without video."""

    path: str = "/sound"
    user: str = ""
    password: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the mount in the format of the script."""
        return {**asdict(self), "kind": "sound"}


Mount = ClockMount | ReplayMount | SoundMount


@dataclass(frozen=True)
class Encoded:
    """A recipe for video encoded from a real clip; created when first needed, and kept in ``tests/.media``."""

    clip: str = "bikes"
    """``bikes``, or the path of an asset below ``shared/assets``."""
    width: int = 1920
    height: int = 1080
    fps: int = 30
    codec: Codec = "h264"
    kbit_s: int = 4000
    frames: int = 150
    key_interval: int = 30
    """The number of frames; the video, and so each repetition, starts with a key frame."""

    def file(self) -> Path:
        """Return the file of Annex B access units, each preceded by its length; skip the test if the clip is missing."""
        source = bikes() if self.clip == "bikes" else asset(self.clip)

        def write(path: Path) -> None:
            path.write_bytes(b"".join(self._units(source)))

        return made(f"access units {self!r}", ".units", write)

    def image(self, number: int, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the frame to encode at this position, from 0, for a frame of the clip; ``yuv420p``."""
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
    """Return the requirements of the cameras that this machine lacks; empty if it has all of them."""
    python = shutil.which(SYSTEM_PYTHON)
    if python is None:
        return f"{SYSTEM_PYTHON} is not here"
    probe = (
        "import gi; [gi.require_version(n, '1.0') for n in ('Gst', 'GstRtspServer')];"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
        "e = 'x264enc x265enc h264parse h265parse appsrc rtph264pay alawenc mulawenc opusenc voaacenc'.split();"
        "print(*[n for n in e if Gst.ElementFactory.find(n) is None])"
    )
    ran = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=120, check=False)
    if ran.returncode:
        return "GStreamer's RTSP server is not here"
    return f"GStreamer lacks {ran.stdout.strip()}" if ran.stdout.strip() else ""


class RtspServer:
    """A server with several cameras on a free port of the loopback interface; a context manager. Skips the test without
    GStreamer.

    Args:
        mounts: The cameras, with different paths.
        auth: The authentication method.
    """

    def __init__(self, *mounts: Mount, auth: Literal["basic", "digest"] = "basic") -> None:
        self._mounts = mounts
        self._auth = auth
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        """The port; 0 until the server has started."""

    def __enter__(self) -> RtspServer:
        if missing():
            pytest.skip(f"{missing()}: make cameras")
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def url(self, path: str, user: str = "", password: str = "") -> str:
        """Return the URL of a mount, with user name and password if given."""
        credentials = f"{user}:{password}@" if user else ""
        return f"rtsp://{credentials}127.0.0.1:{self.port}{path}"

    @property
    def pid(self) -> int:
        """The process ID of the server, for measurements."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill the server (SIGKILL), as a power cut does; do nothing if it has ended."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def freeze(self) -> None:
        """Stop the server (SIGSTOP): connections stay open, and no data arrives."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the server (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start the server again on the same port, after :meth:`kill` or in place of the running one."""
        self.kill()
        self._start()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server does not run"
        self._process.send_signal(number)

    def _start(self) -> None:
        options = {"port": self.port, "auth": self._auth, "mounts": [mount.to_json() for mount in self._mounts]}
        deadline = time.monotonic() + READY_S
        while True:
            with tempfile.TemporaryFile("w+") as errors:
                self._process = subprocess.Popen(
                    [SYSTEM_PYTHON, str(SCRIPT), json.dumps(options)],
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
            if not self.port or time.monotonic() >= deadline:  # a restarted server may have to wait for its port
                raise RuntimeError(f"the RTSP server did not get ready: {said}")
            time.sleep(0.1)
