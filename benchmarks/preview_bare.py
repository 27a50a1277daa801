"""The plain way to send a camera's H.264 to a browser: unmodified packets of PyAV in aiortc, for one viewer.

    python -m benchmarks.preview_bare URL [--at-once]

Reads an SDP offer as a JSON string from one line of standard input, prints the answer in the same form, and sends until standard
input ends. With ``--at-once``, each packet asks the player to show its frame without delay (playout-delay), as the service does.
"""

from __future__ import annotations

import asyncio
import json
import re
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
    rtp,
)
from aiortc.mediastreams import MediaStreamError

from benchmarks.live_bare import OPTIONS
from vision_infer.preview.offer import PLAYOUT_DELAY_URI


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


def ask_for_no_delay(offer: str) -> str:
    """Add the playout-delay extension to all packets; return its line of the answer."""
    found = re.search(rf"a=extmap:(\d+) {PLAYOUT_DELAY_URI}", offer)
    assert found is not None
    number, pack = int(found[1]), rtp.pack_header_extensions
    rtp.pack_header_extensions = lambda extensions: pack([*extensions, (number, b"\0\0\0")])
    return f"{found[0]}\r\n"


async def send(url: str, at_once: bool) -> None:
    """Answer an offer, and send until standard input ends."""
    offer = json.loads(await asyncio.to_thread(sys.stdin.readline))
    extension = ask_for_no_delay(offer) if at_once else ""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    sender = peer.addTransceiver(Packets(url), direction="sendonly")
    capabilities: RTCRtpCapabilities = RTCRtpSender.getCapabilities("video")
    sender.setCodecPreferences([codec for codec in capabilities.codecs if codec.mimeType == "video/H264"])
    await peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    await peer.setLocalDescription(await peer.createAnswer())
    print(json.dumps(peer.localDescription.sdp.replace("a=mid:0\r\n", f"a=mid:0\r\n{extension}", 1)), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await peer.close()


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], "--at-once" in sys.argv[2:]))
