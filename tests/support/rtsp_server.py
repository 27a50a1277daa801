# mypy: ignore-errors
"""Cameras: an RTSP server based on GStreamer, run by the system's Python, which has its bindings (``make cameras``).

    /usr/bin/python3 tests/support/rtsp_server.py '{"port": 0, "mounts": [{"path": "/clock", "kind": "clock", …}]}'

It prints ``ready PORT`` once it listens, and ends when its standard input does. :mod:`tests.support.cameras` starts it, and
says what mounts there are; nothing else needs to know this file.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

ROOT = Path(__file__).resolve().parents[2]
BLACK, GRAY, WHITE = 16, 70, 235
SIDE_UNITS = 4
"""The height of the moving square, relative to the frame height."""


def _load_time_code():
    """Load the project's module as a file, because the package and NumPy are installed for another Python."""
    spec = importlib.util.spec_from_file_location("time_code", ROOT / "vision_infer" / "core" / "time_code.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


time_code = _load_time_code()


class Feed:
    """Pushes the data of a mount into its appsrc on a thread, while its media is prepared."""

    def __init__(self, mount, media):
        self.mount = mount
        self.pipeline = media.get_element()
        self.source = self.pipeline.get_child_by_name("source")
        self.stopping = threading.Event()
        media.connect("unprepared", lambda _: self.stopping.set())
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def running_ns(self):
        """Return the pipeline's running time (CLOCK_MONOTONIC); None until it plays."""
        base = self.pipeline.get_base_time()
        clock = self.pipeline.get_clock()
        return None if clock is None or not base else clock.get_time() - base

    def wait_until_playing(self):
        while self.running_ns() is None:
            if self.stopping.wait(0.002):
                return False
        return True

    def push(self, data, pts_ns, duration_ns):
        buffer = Gst.Buffer.new_allocate(None, len(data), None)
        buffer.fill(0, data)
        buffer.pts = buffer.dts = max(0, pts_ns)
        buffer.duration = duration_ns
        return self.source.emit("push-buffer", buffer) == Gst.FlowReturn.OK


class ReplayFeed(Feed):
    """Plays encoded frames in a loop in real time, with continuous timestamps."""

    def run(self):
        units = encoded(self.mount["file"])
        interval = round(1e9 / self.mount["fps"])
        if not self.wait_until_playing():
            return
        begin = self.running_ns()
        for number in range(1 << 62):
            due = begin + number * interval
            late = self.running_ns()
            if self.stopping.wait(max(0, due - late) / 1e9):
                return
            if not self.push(units[number % len(units)], due, interval):
                return


class ClockFeed(Feed):
    """Draws frames that contain the time at which they were drawn."""

    def run(self):
        mount, interval = self.mount, round(1e9 / self.mount["fps"])
        canvases = [Canvas(*size) for size in mount["sizes"]]
        if not self.wait_until_playing():
            return
        begin, shown, stop_after = time.monotonic_ns(), None, mount["stop_after"]
        for number in range(1 << 62):
            due = begin + number * interval
            if self.stopping.wait(max(0, due - time.monotonic_ns()) / 1e9):
                return
            if stop_after is not None and number >= stop_after:
                self.stopping.wait()
                return
            canvas = canvases[number // mount["frames_per_size"] % len(canvases)]
            if canvas is not shown:
                self.source.set_property("caps", Gst.Caps.from_string(canvas.caps(mount["fps"])))
                shown = canvas
            now, running = time.monotonic_ns(), self.running_ns()
            if not self.push(canvas.paint(number, now, mount["turn_every"]), running, interval):
                return


class Canvas:
    """A gray I420 frame with the time code and a moving square.

    Args:
        width: The width in pixels, even.
        height: The height in pixels, even.
    """

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.columns, self.rows = time_code.column_edges(width), time_code.row_edges(height)
        chroma = (width // 2) * (height // 2)
        self.empty = bytearray(bytes([GRAY]) * (width * height) + bytes([120]) * chroma + bytes([140]) * chroma)

    def caps(self, fps):
        return f"video/x-raw,format=I420,width={self.width},height={self.height},framerate={fps}/1"

    def paint(self, number, now_ns, turn_every=None):
        image = bytearray(self.empty)
        side = self.height // SIDE_UNITS
        span = self.width - side if turn_every is None else 4 * turn_every
        left = abs((number * 4) % (2 * span) - span)
        bright = bytes([180]) * side
        for line in range(self.height // 2, self.height // 2 + side):
            image[line * self.width + left : line * self.width + left + side] = bright
        cells = time_code.cells_of(time_code.moment_ms(now_ns))
        for row in range(time_code.ROWS):
            pixels = bytearray()
            for column in range(time_code.COLUMNS):
                level = WHITE if cells[row * time_code.COLUMNS + column] else BLACK
                pixels += bytes([level]) * (self.columns[column + 1] - self.columns[column])
            for line in range(self.rows[row], self.rows[row + 1]):
                begin = line * self.width + self.columns[0]
                image[begin : begin + len(pixels)] = pixels
        return bytes(image)


@lru_cache(maxsize=32)
def encoded(path):
    """Return the access units of a file of :mod:`tests.support.cameras`; each is preceded by its length, 4 bytes, big endian."""
    data, position, units = Path(path).read_bytes(), 0, []
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        units.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    return units


APPSRC = "appsrc name=source is-live=true format=time block=false max-buffers=8 leaky-type=downstream"
PAY = {
    "h264": "h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1",
    "h265": "h265parse ! rtph265pay name=pay0 pt=96 config-interval=-1",
    "jpeg": "rtpjpegpay name=pay0 pt=26",
    "vp8": "rtpvp8pay name=pay0 pt=96",
    "vp9": "rtpvp9pay name=pay0 pt=96",
}
SOUND = "( audiotestsrc is-live=true wave=sine ! audio/x-raw,rate=8000,channels=1 ! alawenc ! rtppcmapay name=pay0 pt=8 )"


SOUND_ENCODERS = {
    "pcmu": (8000, "mulawenc ! rtppcmupay name=pay1 pt=0"),
    "pcma": (8000, "alawenc ! rtppcmapay name=pay1 pt=8"),
    "opus": (48000, "opusenc frame-size=20 ! rtpopuspay name=pay1 pt=97"),
    "aac": (44100, "voaacenc ! aacparse ! rtpmp4gpay name=pay1 pt=97"),
}


def sound_line(mount):
    """Return the second track of a mount: a tone in packets of 20 ms; empty without sound."""
    if not mount.get("sound"):
        return ""
    rate, encoder = SOUND_ENCODERS[mount["sound"]]
    source = f"audiotestsrc name=tone is-live=true wave=sine freq={mount['tone_hz']} samplesperbuffer={rate // 50}"
    return f"{source} ! audio/x-raw,rate={rate},channels=1 ! {encoder}"


def launch_line(mount):
    if mount["kind"] == "sound":
        return SOUND
    codec = mount["codec"]
    if mount["kind"] == "replay":
        caps = f'caps="video/x-{codec},stream-format=byte-stream,alignment=au"'
        return f"( {APPSRC} {caps} ! {PAY[codec]} {sound_line(mount)} )"
    common = f"speed-preset=ultrafast key-int-max={mount['key_interval']} bitrate={mount['kbit_s']}"
    quick = f"tune=zerolatency {common}"
    if codec in ("vp8", "vp9"):
        encoder = (
            f"{codec}enc deadline=1 cpu-used=8 keyframe-max-dist={mount['key_interval']} target-bitrate={mount['kbit_s'] * 1000}"
        )
    elif codec == "jpeg":
        encoder = "jpegenc"
    elif codec == "h265":
        encoder = f"x265enc {quick}"
    elif mount["b_frames"]:  # neither the low-latency tuning nor the default profile has B-frames
        own = f"b-adapt=false bframes={mount['b_frames']} rc-lookahead=0 sync-lookahead=0 sliced-threads=true"
        encoder = f"x264enc {common} {own} ! video/x-h264,profile=main"
    else:
        encoder = f"x264enc {quick} b-adapt=false bframes=0"
    packets = f"mtu={mount['mtu']}" if codec in ("h264", "h265") else ""
    return f"( {APPSRC} ! {encoder} ! {PAY[codec]} {packets} {sound_line(mount)} )"


def no_seek(media):
    """Make a tone as little seekable as the video: otherwise the server seeks when a client plays, which the video refuses."""
    tone = media.get_element().get_child_by_name("tone")
    if tone is not None:

        def answer(_, info):
            seeking = info.get_query().type == Gst.QueryType.SEEKING
            return Gst.PadProbeReturn.DROP if seeking else Gst.PadProbeReturn.OK

        tone.get_static_pad("src").add_probe(Gst.PadProbeType.QUERY_UPSTREAM, answer)


FEEDS = {"replay": ReplayFeed, "clock": ClockFeed}


def add_mount(server, mount):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch_line(mount))
    factory.set_shared(True)
    if mount.get("udp_only"):
        factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
    feed = FEEDS.get(mount["kind"])
    if feed is not None:
        factory.connect("media-configure", lambda _, media: (no_seek(media), feed(mount, media)))
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role(mount["user"] or "anonymous", "media.factory.construct", True)
    for role in (
        "anonymous",
        mount["user"],
    ):  # without this permission the answer would be 404, without a request for a password
        permissions.add_permission_for_role(role or "anonymous", "media.factory.access", True)
    factory.set_permissions(permissions)
    server.get_mount_points().add_factory(mount["path"], factory)


def token_for(role):
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", role)
    return token


def set_auth(server, mounts, method):
    auth = GstRtspServer.RTSPAuth()
    auth.set_default_token(token_for("anonymous"))
    for user, password in {(mount["user"], mount["password"]) for mount in mounts if mount["user"]}:
        if method == "basic":
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token_for(user))
        else:
            auth.add_digest(user, password, token_for(user))
    if method == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    server.set_auth(auth)


def main():
    options = json.loads(sys.argv[1])
    Gst.init(None)
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options["port"]))
    pool = GstRtspServer.RTSPThreadPool()
    pool.set_max_threads(-1)  # otherwise, one mount that never becomes ready blocks all others
    server.set_thread_pool(pool)
    for mount in options["mounts"]:
        add_mount(server, mount)
    if any(mount["user"] for mount in options["mounts"]):
        set_auth(server, options["mounts"], options["auth"])
    if not server.attach(None):
        sys.exit(f"cannot listen on port {options['port']}")
    sessions = server.get_session_pool()
    GLib.timeout_add_seconds(2, lambda: sessions.cleanup() >= 0)
    GLib.io_add_watch(sys.stdin.fileno(), GLib.IO_HUP | GLib.IO_IN, lambda *_: loop.quit())
    print("ready", server.get_bound_port(), flush=True)
    loop.run()


if __name__ == "__main__":
    main()
