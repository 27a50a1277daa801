"""Players of a service with worker processes: all use the port of the process in front."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from contextlib import suppress
from pathlib import Path

import av
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from tests.support.ice_peer import TcpBridge
from tests.support.serve_process import ServeProcess

LIMIT_S = 30.0
SIZES = {"s0": (320, 240), "s1": (352, 288), "s2": (480, 270)}


async def frame_size(serve: ServeProcess, stream: str, protocol: str) -> tuple[int, int]:
    """Play a few frames; return the size of the last one."""
    player = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    player.addTransceiver("video", direction="recvonly")
    await player.setLocalDescription(await player.createOffer())
    url = f"http://127.0.0.1:{serve.port}/api/v1/streams/{stream}/whep"
    headers = {"Content-Type": "application/sdp"}
    request = urllib.request.Request(url, player.localDescription.sdp.encode(), headers)
    with await asyncio.to_thread(urllib.request.urlopen, request, timeout=LIMIT_S) as response:
        answer, session = response.read().decode(), response.headers["Location"]
    assert {int(port) for port in re.findall(r"a=candidate:\S+ 1 \S+ \d+ \S+ (\d+) typ", answer)} == {serve.preview_port}
    with TcpBridge() as bridge:
        given = bridge.redirected(answer) if protocol == "tcp" else answer
        await player.setRemoteDescription(RTCSessionDescription(given, "answer"))
        for _ in range(4):
            frame = await asyncio.wait_for(player.getReceivers()[0].track.recv(), LIMIT_S)
            assert isinstance(frame, av.VideoFrame)
            size = frame.width, frame.height
        details = json.loads((await asyncio.to_thread(serve.ask, "GET", session))[1])
        assert (details["transport"], details["dtls"], details["checks"] > 0) == (protocol, "connected", True)
        assert details["remote"].startswith(("127.", "1", "["))
        with suppress(TimeoutError):
            await asyncio.wait_for(player.close(), 5)
    return size


@pytest.mark.slow
@pytest.mark.timing
def test_players_of_all_workers_use_one_port(tmp_path: Path) -> None:
    streams = "".join(f"  {name}: {{url: 'test://?size={size[0]}x{size[1]}&fps=10'}}\n" for name, size in SIZES.items())
    with ServeProcess(tmp_path, f"model: clock\nengine: 'null'\nprocesses: 2\nstreams:\n{streams}") as serve:
        serve.wait(lambda: {one["status"]["state"] for one in serve.streams().values()} == {"live"}, "all streams to be live")
        placed = json.loads((serve.folder / "home" / "serve" / "placement.json").read_text())
        assert set(placed.values()) == {"worker-0", "worker-1"}
        for protocol in ("udp", "tcp"):
            for name, size in SIZES.items():
                assert asyncio.run(frame_size(serve, name, protocol)) == size
        assert f"live video on port {serve.preview_port} (UDP and TCP) of 127.0.0.1" in serve.log
        assert serve.stop()[0] == 0
        assert "Traceback" not in serve.log
