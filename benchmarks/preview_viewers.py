"""Many viewers of a stream in a separate process: they connect like browsers and count packets.

    python -m benchmarks.preview_viewers SERVICE STREAM… [--count N]

SERVICE is the address of a service; the viewers are distributed over the streams. The program prints ``ready SECONDS`` when all
are connected. For each line of standard input it prints the number of packets so far; when standard input ends, all viewers
disconnect with DELETE. Packets are neither decrypted nor decoded, so that the viewers use little CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import threading
import time
import urllib.request
from typing import Any

from aioice import ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

AT_ONCE = 5
"""The number of viewers that connect at the same time."""
CONNECT_S = 30.0
_HIGH = ("profile-level-id=42e01f", "profile-level-id=640034")
"""aiortc does not support High profile, which cameras send and browsers play."""
_PROFILE = re.compile("profile-level-id=[0-9a-f]{6}")
_counted = 0
_received = ice.StunProtocol.datagram_received


def _count(self: ice.StunProtocol, data: Any, addr: tuple[Any, ...]) -> None:
    global _counted
    if 127 < data[0] < 192:
        _counted += 1
    else:
        _received(self, data, addr)


ice.StunProtocol.datagram_received = _count  # type: ignore[method-assign]


class Viewer:
    """One viewer of a stream."""

    def __init__(self, service: str, stream: str) -> None:
        self._service = service
        self._stream = stream
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._session = ""

    async def connect(self) -> None:
        """Connect to the service.

        Raises:
            OSError: If the service rejects the viewer.
            TimeoutError: If no connection could be established.
        """
        peer = self._peer
        peer.addTransceiver("video", direction="recvonly")
        peer.createDataChannel("viewer")
        await peer.setLocalDescription(await peer.createOffer())
        answer = await asyncio.to_thread(self._offer, peer.localDescription.sdp)
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(CONNECT_S):
            while peer.connectionState != "connected":
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        """End the session and disconnect."""
        await asyncio.to_thread(self._ask, "DELETE", self._session, None)
        await self._peer.close()

    def _offer(self, sdp: str) -> str:
        answer, self._session = self._ask("POST", f"/api/v1/streams/{self._stream}/whep", sdp.replace(*_HIGH).encode())
        return _PROFILE.sub(_HIGH[0], answer)

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[str, str]:
        request = urllib.request.Request(self._service + path, body, {"Content-Type": "application/sdp"}, method=method)
        with urllib.request.urlopen(request, timeout=CONNECT_S) as answer:
            return answer.read().decode(), answer.headers.get("Location", "")


async def watch(service: str, streams: list[str], count: int) -> None:
    """Connect all viewers, and count packets until standard input ends."""
    loop = asyncio.get_running_loop()
    viewers = [Viewer(service, streams[number % len(streams)]) for number in range(count)]
    slots = asyncio.Semaphore(AT_ONCE)

    async def connect(viewer: Viewer) -> None:
        async with slots:
            await viewer.connect()

    began = time.monotonic()
    await asyncio.gather(*map(connect, viewers))
    print("ready", round(time.monotonic() - began, 2), flush=True)
    ended = asyncio.Event()

    def listen() -> None:
        for _ in sys.stdin:
            print(_counted, flush=True)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, name="listen", daemon=True).start()
    await ended.wait()
    await asyncio.gather(*(viewer.end() for viewer in viewers))


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service")
    parser.add_argument("stream", nargs="+")
    parser.add_argument("--count", type=int, default=1)
    args = parser.parse_args()
    asyncio.run(watch(args.service, args.stream, args.count))


if __name__ == "__main__":
    main()
