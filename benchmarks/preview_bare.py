"""The plain way to send a camera's H.264 to a browser: unmodified packets of PyAV in aiortc, for one viewer.

    python -m benchmarks.preview_bare URL

Reads an SDP offer as a JSON string from one line of standard input, prints the answer in the same form, and sends until standard
input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

import av
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpCapabilities,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from benchmarks.live_bare import OPTIONS


class Packets(MediaStreamTrack):
    """A track with the packets of a camera, read on a thread."""

    kind = "video"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        arguments = (url, asyncio.get_running_loop())
        threading.Thread(target=self._read, args=arguments, name="read", daemon=True).start()

    def _read(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        with av.open(url, options=OPTIONS, timeout=(5, 5)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:
                    loop.call_soon_threadsafe(self._queue.put_nowait, packet)
        loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def recv(self) -> Any:
        """Return the next packet."""
        packet = await self._queue.get()
        if packet is None:
            raise MediaStreamError
        return packet


async def send(url: str) -> None:
    """Answer an offer, and send until standard input ends."""
    offer = json.loads(await asyncio.to_thread(sys.stdin.readline))
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    sender = peer.addTransceiver(Packets(url), direction="sendonly")
    capabilities: RTCRtpCapabilities = RTCRtpSender.getCapabilities("video")
    sender.setCodecPreferences([codec for codec in capabilities.codecs if codec.mimeType == "video/H264"])
    await peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    await peer.setLocalDescription(await peer.createAnswer())
    print(json.dumps(peer.localDescription.sdp), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await peer.close()


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1]))
