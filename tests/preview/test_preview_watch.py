"""Real cameras and real viewers: passthrough, encoding, and changes of the stream."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import threading
from collections.abc import Iterator

import pytest

from tests.preview.watching import LIMIT_S, Stream, Watcher, watch, watch_with_gstreamer
from tests.support.cameras import ClockMount, RtspServer
from tests.support.media import Clip, bikes, clip
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.time_code import MIN_WIDTH
from vision_infer.preview.preview import NoPreviewError, Preview, UnknownSessionError
from vision_infer.stream.source import LiveOptions, SourceSpec
from vision_infer.stream.time_code_reader import read

CAMERAS = (
    ClockMount("/plain", fps=25, key_interval=25),
    ClockMount("/h265", codec="h265", fps=15, mtu=1200),
    ClockMount("/vp8", 320, 180, 15, codec="vp8"),
    ClockMount("/vp9", 320, 180, 15, codec="vp9"),
    ClockMount("/b", b_frames=2, fps=15),
    ClockMount("/sizes", next_size=(320, 240), frames_per_size=20, fps=25),
    ClockMount("/long", fps=25, key_interval=100_000),
    ClockMount("/view", width=480, height=270, fps=15, key_interval=10),
)
assert MIN_WIDTH <= 320


@pytest.fixture(scope="module")
def cameras() -> Iterator[RtspServer]:
    with RtspServer(*CAMERAS) as server:
        yield server


async def arrived(preview: Preview, stream: str = "door") -> Watcher:
    """Start watching as soon as the stream has video."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await watch(preview, stream)
            except NoPreviewError:
                await asyncio.sleep(0.05)


async def gone(watcher: Watcher) -> None:
    await watcher.peer.close()
    await watcher.session.end("done")


@pytest.mark.timing
def test_a_cameras_own_packets_reach_all_viewers(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/plain")) as stream:
            first = await arrived(preview)
            await first.has(30)
            second = await watch(preview)
            await second.has(3)
            for watcher in (first, second):
                assert (watcher.session.facts.mode, watcher.session.facts.reason) == ("passthrough", "")
                assert watcher.frames[-1][:2] == (640, 360)
                assert watcher.channels == ["anchor"]
                assert read(watcher.last.to_ndarray(format="rgb24")) is not None
                assert {message["by"] for message in watcher.messages} == {"pts"}
                assert {message["clock_rate"] for message in watcher.messages} == {90_000}
            # The anchors convert RTP times to the presentation times of the result rows.
            sender = first.session.viewer
            assert sender is not None
            message = first.messages[-1]
            decoded = {round((pts or 0) * 1e9) for pts, _ in stream.frames}
            assert min(abs(message["pts_ns"] - pts) for pts in decoded) <= 1
            assert abs(message["captured_ns_utc"] / 1e9 - asyncio.get_running_loop().time()) > 0
            # The second viewer received the current group: more frames than the elapsed time contains.
            assert preview.counts().viewers == {"door": 2}
            assert preview.counts().encoders == 0
            for watcher in (first, second):
                await gone(watcher)
            assert preview.counts().viewers == {"door": 0}

    asyncio.run(run())


RTP = "application/x-rtp,media=video,clock-rate=90000,payload=%d,encoding-name=%s"


@pytest.mark.parametrize(
    ("caps", "codec", "mode"),
    [
        (RTP % (97, "H264") + ",packetization-mode=(string)1,profile-level-id=(string)640028", "H264", "passthrough"),
        (RTP % (127, "H264"), "H264", "passthrough"),
        (RTP % (96, "VP8"), "VP8", "encoded"),
    ],
)
def test_gstreamer_plays_with_its_rsa_certificate(cameras: RtspServer, caps: str, codec: str, mode: str) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/plain")):
            await gone(await arrived(preview))
            session, frames = await watch_with_gstreamer(preview, caps, 30)
            assert (session.facts.codec, session.facts.mode, frames) == (codec, mode, 30)
            await session.end("done")

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["VP8", "VP9"])
def test_gstreamer_plays_the_packets_of_other_cameras(cameras: RtspServer, codec: str) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings(max_encoders=0))
        with Stream(preview, cameras.url(f"/{codec.lower()}")) as stream:
            async with asyncio.timeout(LIMIT_S):
                while not stream.frames:
                    await asyncio.sleep(0.05)
            session, frames = await watch_with_gstreamer(preview, RTP % (96, codec), 30)
            assert (session.facts.codec, session.facts.mode, frames) == (codec, "passthrough", 30)
            await session.end("done")

    asyncio.run(run())


def test_h265_is_passed_through_while_one_encoder_serves_all_other_players(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings(encode_height=180, encode_fps=15))
        with Stream(preview, cameras.url("/h265")):
            without = [await arrived(preview), await watch(preview)]
            caps = RTP % (100, "H265") + ",profile-id=(string)1,level-id=(string)120"
            session, frames = await watch_with_gstreamer(preview, caps, 30)
            assert (session.facts.codec, session.facts.mode, session.facts.profile, frames) == ("H265", "passthrough", "Main", 30)
            assert "a=rtpmap:100 H265/90000" in session.answer
            assert "sprop-vps=" in session.answer
            for watcher in without:
                await watcher.has(5)
                assert watcher.session.facts.mode == "encoded"
                assert watcher.session.facts.reason.startswith("the player does not support H.265 Main level ")
            assert preview.counts().encoders == 1
            await session.end("done")
            for watcher in without:
                await gone(watcher)

    asyncio.run(run())


def test_a_failed_dtls_handshake_is_logged(cameras: RtspServer, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/plain")):
            await gone(await arrived(preview))
            caplog.clear()
            other = ":".join(["00"] * 32)
            watcher = await watch(
                preview, change=lambda offer: re.sub("a=fingerprint:sha-256 .*", f"a=fingerprint:sha-256 {other}", offer)
            )
            async with asyncio.timeout(LIMIT_S):
                while watcher.session.state != "closed":
                    await asyncio.sleep(0.02)
            assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
                "door: the DTLS handshake with a viewer failed, so that it gets no video"
            ]
            await gone(watcher)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("source", "reason", "size"),
    [
        ("/h265", "the player does not support H.265 Main level", (320, 180)),
        ("/b", "", (320, 180)),
        ("test://?size=640x360&fps=20", "the stream is uncompressed (the test pattern)", (320, 180)),
        ("mjpeg", "the stream is MJPEG", (128, 96)),
        ("file", "", (424, 180)),
    ],
)
def test_unsupported_video_is_encoded_once_for_all_viewers(
    cameras: RtspServer, source: str, reason: str, size: tuple[int, int]
) -> None:
    if source == "mjpeg":
        source = str(clip(Clip(suffix=".avi", codec="mjpeg", pix_fmt="yuvj420p", frames=50, options=())))
    elif source == "file":
        source = str(bikes())
    else:
        source = cameras.url(source) if source.startswith("/") else source

    async def run() -> None:
        preview = Preview(PreviewSettings(encode_height=180, encode_fps=15))
        with Stream(preview, source):
            first = await arrived(preview)
            await first.has(8)
            second = await watch(preview)
            await second.has(8)
            assert first.session.facts.mode == "encoded"
            assert reason in first.session.facts.reason
            assert first.session.feed is second.session.feed
            assert preview.counts().encoders == 1
            assert first.frames[-1][:2] == second.frames[-1][:2] == size
            await gone(first)
            assert preview.counts().encoders == 1
            await second.has(3)
            await gone(second)
            assert preview.counts().encoders == 0
            assert not any(thread.name == "preview-door" for thread in await settled("preview-door"))

    asyncio.run(run())


async def settled(name: str) -> list[threading.Thread]:
    """Return all threads once none has this name, or after a timeout."""
    for _ in range(200):
        if not any(thread.name == name for thread in threading.enumerate()):
            break
        await asyncio.sleep(0.02)
    return threading.enumerate()


def test_playback_continues_when_the_frame_size_changes(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/sizes")):
            watcher = await arrived(preview)
            for size in ((640, 360), (320, 240), (640, 360)):
                await watcher.until(*size)
            assert watcher.session.facts.mode == "passthrough"
            assert watcher.session.feed.size is not None
            await gone(watcher)

    asyncio.run(run())


def test_frames_that_become_too_large_are_encoded_for_the_same_viewer(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings(max_height=300, encode_height=200))
        with Stream(preview, cameras.url("/sizes")):
            async with asyncio.timeout(LIMIT_S):
                while True:  # it starts with the large frame
                    watcher = await arrived(preview)
                    if watcher.session.facts.mode == "passthrough":
                        break
                    await gone(watcher)
                    await asyncio.sleep(0.1)
            await watcher.until(320, 240)
            await watcher.until(356, 200)
            assert watcher.session.facts.mode == "encoded"
            assert "360 pixels" in watcher.session.facts.reason
            await gone(watcher)

    asyncio.run(run())


def test_viewers_stay_connected_when_the_camera_reconnects(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with RtspServer(ClockMount("/plain", fps=25, key_interval=10)) as server, Stream(preview, server.url("/plain")):
            watcher = await arrived(preview)
            await watcher.has(10)
            await asyncio.to_thread(server.restart)
            turns = len(watcher.messages)
            await watcher.has(20)
            async with asyncio.timeout(LIMIT_S):
                while len(watcher.messages) == turns:
                    await asyncio.sleep(0.02)
            await gone(watcher)

    asyncio.run(run())


def test_a_viewer_that_lost_packets_gets_the_current_group_at_most_once_per_second(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/plain")):
            watcher = await arrived(preview)
            await watcher.has(5)
            receiver = watcher.peer.getReceivers()[0]
            viewer = watcher.session.viewer
            assert viewer is not None
            ssrc = next(iter(getattr(receiver, "_RTCRtpReceiver__remote_streams")))  # noqa: B009  unknown to the type checker
            for _ in range(5):
                await receiver._send_rtcp_pli(ssrc)
            await watcher.has(5)
            assert viewer.restarts == 1
            async with asyncio.timeout(LIMIT_S):
                while viewer.restarts < 2:
                    await asyncio.sleep(0.02)
            times = [time for _, _, time in watcher.frames]
            assert times == sorted(times)
            await gone(watcher)

    asyncio.run(run())


def test_the_number_of_viewers_is_limited_and_sessions_belong_to_their_owners(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings(max_viewers=3, max_viewers_per_stream=2))
        with Stream(preview, cameras.url("/plain")), Stream(preview, cameras.url("/view"), "gate"):
            watchers = [await arrived(preview), await arrived(preview)]
            with pytest.raises(NoPreviewError, match="max_viewers_per_stream"):
                await watch(preview)
            watchers.append(await arrived(preview, "gate"))
            with pytest.raises(NoPreviewError, match=r"preview\.max_viewers\.$"):
                await watch(preview, "gate")
            assert preview.counts().drops["refused"] >= 2
            name = watchers[0].session.id
            assert preview.session("door", name, "somebody") is watchers[0].session
            for stream, principal in (("gate", "somebody"), ("door", "somebody else")):
                with pytest.raises(UnknownSessionError):
                    preview.session(stream, name, principal)
            preview.leave("somebody")
            async with asyncio.timeout(LIMIT_S):
                while any(preview.counts().viewers.values()):
                    await asyncio.sleep(0.02)
            for watcher in watchers:
                await watcher.peer.close()

    asyncio.run(run())


def test_the_main_url_is_read_while_it_has_viewers(cameras: RtspServer) -> None:
    wanted = [SourceSpec("door", "live", (cameras.url("/view"),), live=LiveOptions())]

    async def run() -> None:
        preview = Preview(PreviewSettings(), lambda _: wanted[0])
        watcher = await watch(preview)
        await watcher.has(5)
        assert watcher.frames[-1][:2] == (480, 270)
        assert {message["by"] for message in watcher.messages} == {"captured"}
        assert any(thread.name == "view-door" for thread in threading.enumerate())
        await gone(watcher)
        assert not any(thread.name == "view-door" for thread in await settled("view-door"))
        # If the URL changes, viewers of the old one are disconnected.
        watcher = await watch(preview)
        wanted[0] = SourceSpec("door", "live", (cameras.url("/plain"),), live=LiveOptions())
        preview.changed("door")
        async with asyncio.timeout(LIMIT_S):
            while preview.counts().viewers["door"]:
                await asyncio.sleep(0.02)
        await watcher.peer.close()

    asyncio.run(run())


def test_a_viewer_that_vanishes_is_detected(cameras: RtspServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.preview.session.SILENT_NS", 3_000_000_000)

    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/plain")):
            watcher = await arrived(preview)
            await watcher.has(3)
            # It sends nothing, and does not close the connection.
            connection = watcher.peer.getReceivers()[0].transport.transport._connection
            for protocol in connection._protocols:
                monkeypatch.setattr(protocol.transport, "sendto", lambda *_: None)
            async with asyncio.timeout(LIMIT_S):
                while preview.counts().viewers["door"]:
                    await asyncio.sleep(0.05)
            await watcher.peer.close()

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.timing
def test_viewers_that_vanish_leave_no_task_no_socket_and_no_encoder(cameras: RtspServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings(encode_height=90, encode_fps=5))
        with Stream(preview, cameras.url("/plain")), Stream(preview, cameras.url("/h265"), "gate"):
            for stream in ("door", "gate"):  # create everything that is created once
                await gone(await arrived(preview, stream))
            files = open_files()
            for _ in range(2):
                watchers = [await watch(preview, stream, decode=False) for stream in ("door", "gate") for _ in range(4)]
                async with asyncio.timeout(LIMIT_S):
                    while any(watcher.session.state != "connected" for watcher in watchers):
                        await asyncio.sleep(0.02)
                assert preview.counts().encoders == 1
                monkeypatch.setattr("vision_infer.preview.session.SILENT_NS", 1_000_000_000)
                for watcher in watchers:
                    connection = watcher.peer.getReceivers()[0].transport.transport._connection
                    for protocol in connection._protocols:
                        monkeypatch.setattr(protocol.transport, "sendto", lambda *_: None)
                async with asyncio.timeout(LIMIT_S):
                    while any(preview.counts().viewers.values()):
                        await asyncio.sleep(0.05)
                    assert preview.counts().encoders == 0
                    for watcher in watchers:
                        await watcher.peer.close()
                    monkeypatch.undo()
                    del watchers, watcher, connection, protocol
                    while len(asyncio.all_tasks()) > 1 or open_files() > files:
                        await asyncio.sleep(0.05)

    asyncio.run(run())


def open_files() -> int:
    """Return the number of open files of this process, after a garbage collection."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
