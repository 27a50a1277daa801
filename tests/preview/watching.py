"""A stream that is read as the service reads it, and viewers of it: aiortc on the other side, without the web between them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from vision_infer.core.errors import StreamError
from vision_infer.core.packet import Tappable
from vision_infer.preview.preview import Preview
from vision_infer.preview.session import Session
from vision_infer.stream.find import open_source
from vision_infer.stream.source import LiveOptions, SourceSpec

LIMIT_S = 30.0
"""how long anything may take, on a busy machine"""


class Stream:
    """Reads a source on a thread, again and again, and shows it to a preview; a context manager.

    Args:
        preview: shows it.
        url: of the source; a file is played over and over.
        name: of the stream.
    """

    def __init__(self, preview: Preview, url: str, name: str = "door") -> None:
        self.name = name
        self._preview = preview
        self._stopping = threading.Event()
        options = LiveOptions(loop="://" not in url, stall_timeout_s=3.0)
        self._spec = SourceSpec(name, "live", (url,), live=options)
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)
        self.frames: list[tuple[float | None, int]] = []
        """presentation time, and when it was decoded, of the last frames"""

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
    """A viewer: what it was shown, and told."""

    session: Session
    peer: RTCPeerConnection
    pictures: list[tuple[int, int, int]] = field(default_factory=list)
    """width, height, RTP time"""
    told: list[dict[str, Any]] = field(default_factory=list)
    """anchors"""
    channels: list[str] = field(default_factory=list)
    last: Any = None
    """the newest picture, as it was decoded"""

    async def has(self, pictures: int, limit_s: float = LIMIT_S) -> None:
        """Wait until so many more pictures were shown."""
        wanted = len(self.pictures) + pictures
        async with asyncio.timeout(limit_s):
            while len(self.pictures) < wanted:
                await asyncio.sleep(0.02)

    async def until(self, width: int, height: int) -> None:
        """Wait for a picture of this size."""
        async with asyncio.timeout(LIMIT_S):
            while not self.pictures or self.pictures[-1][:2] != (width, height):
                await asyncio.sleep(0.02)


async def watch(preview: Preview, stream: str = "door", data: bool = True, decode: bool = True) -> Watcher:
    """Begin to watch; it is not waited for the first picture."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver("video", direction="recvonly")
    if data:
        peer.createDataChannel("not used")
    await peer.setLocalDescription(await peer.createOffer())
    try:
        session = await preview.offer(stream, peer.localDescription.sdp, "somebody")
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
                    watcher.pictures.append((frame.width, frame.height, frame.pts))
                    watcher.last = frame

        if decode:
            watcher.reading = asyncio.ensure_future(read())  # type: ignore[attr-defined]

    @peer.on("datachannel")
    def channel(channel: Any) -> None:
        watcher.channels.append(channel.label)
        channel.on("message", lambda text: watcher.told.append(json.loads(text)))

    await peer.setRemoteDescription(RTCSessionDescription(session.answer, "answer"))
    return watcher
