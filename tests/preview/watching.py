"""A stream that is read as by the service, and its aiortc viewers, connected without HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtcpSrPacket

from vision_infer.core.errors import StreamError
from vision_infer.core.packet import Tappable
from vision_infer.preview.preview import Preview
from vision_infer.preview.session import Session
from vision_infer.stream.find import open_source
from vision_infer.stream.source import LiveOptions, SourceSpec

_GSTREAMER_PLAYER = Path(__file__).parents[1] / "support" / "gstreamer_player.py"
LIMIT_S = 30.0
"""The time limit of each wait, on a busy machine, seconds."""


class Stream:
    """Reads a source on a thread, reconnects, and passes it to a preview; a context manager.

    Args:
        preview: The preview.
        url: The URL of the source; a file is played in a loop.
        name: The name of the stream.
    """

    def __init__(self, preview: Preview, url: str, name: str = "door") -> None:
        self.name = name
        self._preview = preview
        self._stopping = threading.Event()
        options = LiveOptions(loop="://" not in url, stall_timeout_s=3.0)
        self._spec = SourceSpec(name, "live", (url,), live=options)
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)
        self.frames: list[tuple[float | None, int]] = []
        """The presentation time and the decoding time of the last frames."""

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(StreamError), open_source(self._spec, 1, self._stopping) as source:
                assert isinstance(source, Tappable)
                source.show(self._preview.relay(self.name))
                for frame in source.frames():
                    self.frames.append((frame.pts_s, time.monotonic_ns()))
                    del self.frames[:-300], frame
                    if self._stopping.is_set():
                        break
            self._stopping.wait(0.1)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join(LIMIT_S)


@dataclass
class Watcher:
    """A viewer: the frames and messages that it received."""

    session: Session
    peer: RTCPeerConnection
    frames: list[tuple[int, int, int]] = field(default_factory=list)
    """The width, height and RTP time of each frame."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The anchors."""
    channels: list[str] = field(default_factory=list)
    channel: Any = None
    """The service's data channel."""
    heard: list[Any] = field(default_factory=list)
    """The decoded frames of sound."""
    payloads: list[bytes] = field(default_factory=list)
    """The payloads of sound as they were received."""
    sound_times: list[int] = field(default_factory=list)
    """The RTP times of these payloads."""
    reports: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The NTP time and the RTP time in the last sender report of video and of sound."""
    last: Any = None
    """The newest decoded frame."""

    async def has(self, frames: int, limit_s: float = LIMIT_S) -> None:
        """Wait for a number of further frames."""
        wanted = len(self.frames) + frames
        async with asyncio.timeout(limit_s):
            while len(self.frames) < wanted:
                await asyncio.sleep(0.02)

    async def until(self, width: int, height: int) -> None:
        """Wait for a frame of this size."""
        async with asyncio.timeout(LIMIT_S):
            while not self.frames or self.frames[-1][:2] != (width, height):
                await asyncio.sleep(0.02)


async def watch_with_gstreamer(
    preview: Preview, caps: str, frames: int, stream: str = "door", answered: Callable[[str], str] = str
) -> tuple[Session, int]:
    """Play with GStreamer's webrtcbin; return the session and the number of decoded frames. Skip the test without webrtcbin.

    Args:
        caps: The codec that the player offers, in GStreamer's form.
        frames: The number of frames to play.
        answered: Changes the answer.
    """
    needed = "import gi; gi.require_version('GstWebRTC', '1.0'); from gi.repository import Gst; Gst.init(None); "
    needed += "raise SystemExit(None in map(Gst.ElementFactory.find, ('webrtcbin', 'nicesrc')))"
    if subprocess.run(["/usr/bin/python3", "-c", needed], capture_output=True, timeout=LIMIT_S).returncode:
        pytest.skip("GStreamer's webrtcbin is not here: make cameras")
    command = ("/usr/bin/python3", str(_GSTREAMER_PLAYER), caps, str(frames))
    player = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert player.stdin is not None
    assert player.stdout is not None
    try:
        session = await preview.offer(stream, json.loads(await player.stdout.readline()), "somebody")
        player.stdin.write(json.dumps(answered(session.answer)).encode() + b"\n")
        return session, json.loads(await player.stdout.readline())
    finally:
        with suppress(ProcessLookupError):
            player.kill()
        await player.wait()


async def watch(
    preview: Preview,
    stream: str = "door",
    data: bool = True,
    decode: bool = True,
    change: Callable[[str], str] = str,
    sound: bool = False,
    answered: Callable[[str], str] = str,
) -> Watcher:
    """Start watching, without waiting for the first frame.

    Args:
        change: Changes the offer.
        sound: Whether to request sound as well.
        answered: Changes the answer.
    """
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver("video", direction="recvonly")
    if sound:
        peer.addTransceiver("audio", direction="recvonly")
    if data:
        peer.createDataChannel("not used")
    await peer.setLocalDescription(await peer.createOffer())
    try:
        session = await preview.offer(stream, change(peer.localDescription.sdp), "somebody")
    except BaseException:
        await peer.close()
        raise
    watcher = Watcher(session, peer)

    @peer.on("track")
    def track(track: Any) -> None:
        async def read() -> None:
            with suppress(MediaStreamError):
                while True:
                    frame = await track.recv()
                    if track.kind == "audio":
                        watcher.heard.append(frame)
                        continue
                    watcher.frames.append((frame.width, frame.height, frame.pts))
                    watcher.last = frame

        if decode or track.kind == "audio":
            watcher.reading = asyncio.ensure_future(read())  # type: ignore[attr-defined]

    @peer.on("datachannel")
    def channel(channel: Any) -> None:
        watcher.channels.append(channel.label)
        watcher.channel = channel
        channel.on("message", lambda text: watcher.messages.append(json.loads(text)))

    for transceiver in peer.getTransceivers():
        _record_reports(transceiver.receiver, watcher.reports, transceiver.kind)
        if transceiver.kind == "audio":
            _record(transceiver.receiver, watcher)
    await peer.setRemoteDescription(RTCSessionDescription(answered(session.answer), "answer"))
    return watcher


def _record(receiver: Any, watcher: Watcher) -> None:
    handle = receiver._handle_rtp_packet

    async def record(packet: Any, arrival_time_ms: int) -> None:
        watcher.payloads.append(bytes(packet.payload))
        watcher.sound_times.append(packet.timestamp)
        await handle(packet, arrival_time_ms=arrival_time_ms)

    receiver._handle_rtp_packet = record


def _record_reports(receiver: Any, reports: dict[str, tuple[int, int]], kind: str) -> None:
    handle = receiver._handle_rtcp_packet

    async def record(packet: Any) -> None:
        if isinstance(packet, RtcpSrPacket) and packet.sender_info.ntp_timestamp:
            reports[kind] = (packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp)
        await handle(packet)

    receiver._handle_rtcp_packet = record
