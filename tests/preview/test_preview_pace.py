"""A group of frames is sent in parts that fit into the viewer's socket buffer; a single frame is sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.hand_clock import HandClock
from vision_infer.preview.media import MediaImage
from vision_infer.preview.sender import Viewer
from vision_infer.preview.transport.datagrams import BURST, bursts


def image(number: int, packets: int) -> MediaImage:
    return MediaImage(bursts([bytes(100)] * packets), number * 33_000_000, None, number == 0, "pts", 100 * packets)


def rtp_sender(sent: list[int]) -> Any:
    """The part of aiortc's sender that a viewer uses; it counts the packets of the current part."""

    def send(burst: Sequence[bytes]) -> None:
        sent[-1] += len(burst)

    route = SimpleNamespace(waiting=0, send=send)
    ice = SimpleNamespace(_connection=SimpleNamespace(route=route))
    srtp = SimpleNamespace(protect=lambda packet: packet)
    transport = SimpleNamespace(state="connected", transport=ice, _tx_srtp=srtp)
    events = {f"_RTCRtpSender__rtp_{name}": asyncio.Event() for name in ("started", "exited")}
    counts = dict.fromkeys(("_RTCRtpSender__packet_count", "_RTCRtpSender__octet_count"), 0)
    return SimpleNamespace(transport=transport, _ssrc=1, _handle_rtcp_packet=None, **events, **counts)


@pytest.mark.parametrize("packets", [1, 10, 17, 32, 80])
def test_a_group_is_sent_in_parts_and_a_single_frame_at_once(packets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[int]:
        sent = [0]
        sleep = asyncio.sleep

        async def pause(_: float) -> None:
            sent.append(0)
            await sleep(0)

        sender = rtp_sender(sent)
        viewer = Viewer(sender, [], list, lambda _: None, HandClock())
        group = [image(number, packets) for number in range(20)]
        viewer.restart(group)
        monkeypatch.setattr("vision_infer.preview.sender.asyncio.sleep", pause)
        running = asyncio.create_task(sender._run_rtp(SimpleNamespace(payloadType=96)))
        while viewer.packets < 20 * packets:
            await sleep(0)
        for number in range(20, 23):  # each arrives long after the previous one was sent
            sent.append(0)
            await sleep(0)
            viewer.push(image(number, packets))
            while viewer.packets < (number + 1) * packets:
                await sleep(0)
        running.cancel()
        await running
        return sent

    sent = asyncio.run(run())
    assert sum(sent) == 23 * packets
    assert max(sent) <= BURST
    if packets <= BURST:
        assert sent[-3:] == [packets] * 3
