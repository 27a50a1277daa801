"""How long a camera is read by FFmpeg after it could not be read over RTP."""

from __future__ import annotations

import threading

import pytest

from tests.support.hand_clock import HandClock
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live import ingest
from vision_infer.stream.rtsp.message import RtspSyntaxError
from vision_infer.stream.source import SourceSpec

URL = "rtsp://127.0.0.1/a-camera-of-this-test"


def test_a_bad_network_does_not_leave_a_camera_to_ffmpeg_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage at the beginning looks like a camera that deviates from the protocol, and FFmpeg may open it a second later."""
    garbage = True

    def by_rtp(*_: object) -> str:
        if garbage:
            raise RtspSyntaxError("the server sent bytes that are not RTSP")
        return "rtp"

    monkeypatch.setattr(ingest, "RtpPackets", by_rtp)
    monkeypatch.setattr(ingest, "LivePackets", lambda *_: "ffmpeg")
    clock, log = HandClock(), SourceLog("door")

    def opened() -> object:
        return ingest.open_packets(SourceSpec("door", "live", (URL,)), threading.Event(), clock, log)

    try:
        assert opened() == "ffmpeg"
        assert ingest.why_ffmpeg(URL) == "the server sent bytes that are not RTSP"
        garbage = False
        clock.move(599)
        assert opened() == "ffmpeg", "most cameras that cannot be read over RTP never can"
        clock.move(2)
        assert opened() == "rtp"
        assert ingest.why_ffmpeg(URL) == ""
    finally:
        log.close()
