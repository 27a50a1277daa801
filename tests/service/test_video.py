"""Live video as MJPEG, read by FFmpeg, and the sharing and limits of its images."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import av
import httpx
import numpy as np
import pytest

from tests.service.fakes import ADMIN, LONG_S, TOKENS, VIEW, Api, FakeBackend, problem, result
from tests.support.hand_clock import HandClock
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.status import StreamState
from vision_infer.service.errors import UnavailableError
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.live_images import LiveImages
from vision_infer.service.results.snapshot import NextImage
from vision_infer.stream.image import ArrayImage

VIDEO = "/api/v1/streams/door/video.mjpeg"


def write(hub: ResultHub, index: int) -> None:
    frame = Frame("door", index, index / 25, ArrayImage(np.full((48, 64, 3), 90, np.uint8)), Trace())
    hub.write(frame, result(index=index))


@contextmanager
def live(hub: ResultHub) -> Iterator[None]:
    """Write a result every 10 ms on a thread, as the pipeline does."""
    ended = threading.Event()

    def run() -> None:
        index = 0
        while not ended.wait(0.01):
            write(hub, index)
            index += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, FakeBackend]]:
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web, live(backend.hub):
        web.start(make_app(backend, TOKENS))
        yield web.url, backend


@pytest.mark.parametrize("annotated", [False, True])
def test_ffmpeg_plays_the_video_with_a_token_as_password(server: tuple[str, FakeBackend], annotated: bool) -> None:
    url = server[0].replace("://", f"://viewer:{VIEW}@")
    with av.open(f"{url}{VIDEO}?annotated={annotated}&fps=15", timeout=LONG_S) as video:
        assert video.format.name == "mpjpeg"
        images = [frame.to_ndarray(format="rgb24") for frame in islice(video.decode(video=0), 5)]
    assert [image.shape for image in images] == [(48, 64, 3)] * 5
    # The boxes of the fake result are drawn on annotated images only; the rest is even.
    assert all((float(image.std()) > 5) is annotated for image in images)


def test_a_client_that_disconnects_is_no_longer_counted(server: tuple[str, FakeBackend]) -> None:
    url, backend = server
    limit = backend.settings.preview.max_viewers_per_stream
    with httpx.Client(headers={"Authorization": f"Bearer {ADMIN}"}, timeout=LONG_S) as client:
        for _ in range(2 * limit):
            with client.stream("GET", url + VIDEO) as answer:
                assert answer.status_code == 200
                assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
                assert next(answer.iter_raw()).startswith(b"--frame\r\nContent-Type: image/jpeg\r\n")


def test_a_stream_without_frames_and_invalid_rates_are_rejected() -> None:
    api = Api()
    problem(api.get("/api/v1/streams/no/video.mjpeg"), 404, "unknown-stream")
    for fps in ("0", "1e-300", "0.05", "16", "nan"):
        problem(api.get(VIDEO, params={"fps": fps}), 422, "invalid")
    api.backend.put("door", "rtsp://10.0.0.7/x", state=StreamState.BACKING_OFF, reason="timed out")
    answer = problem(api.get(VIDEO), 503, "unavailable")
    assert (answer["state"], answer["reason"]) == ("backing_off", "timed out")


def test_viewers_that_wait_together_share_an_image_and_each_has_its_rate() -> None:
    async def test() -> None:
        hub = ResultHub()
        images = LiveImages(hub, PreviewSettings(), HandClock())
        with live(hub), images.watch("door", False, 15) as first, images.watch("door", False, 15) as second:
            began = asyncio.get_running_loop().time()
            for _ in range(4):
                one, two = await asyncio.gather(first.next(), second.next())
                assert one is two
            assert asyncio.get_running_loop().time() - began >= 3 / 15
            with images.watch("door", True, 15) as annotated:
                assert (await annotated.next()).jpeg != one.jpeg

    asyncio.run(test())


def test_the_number_of_viewers_is_limited() -> None:
    hub = ResultHub()
    images = LiveImages(hub, PreviewSettings(max_viewers=3, max_viewers_per_stream=2), HandClock())
    with images.watch("door", False, 5):
        images.watch("door", True, 5)
        with pytest.raises(UnavailableError, match="limit of 2 viewers"):
            images.watch("door", False, 5)
        images.watch("yard", False, 5)
        with pytest.raises(UnavailableError, match="limit of 3 viewers"):
            images.watch("gate", False, 5)
    images.watch("gate", False, 5)
    with pytest.raises(UnavailableError, match="disabled"):
        LiveImages(hub, PreviewSettings(enabled=False), HandClock()).watch("door", False, 5)


def test_viewers_are_released_when_no_frame_arrives_or_the_service_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        hub = ResultHub()
        images = LiveImages(hub, PreviewSettings(), HandClock())
        with images.watch("door", False, 5) as watcher:
            monkeypatch.setattr("vision_infer.service.results.live_images.SILENT_S", 0.01)
            with pytest.raises(UnavailableError, match="no frame within"):
                await watcher.next()
            monkeypatch.undo()
            waiting = asyncio.ensure_future(watcher.next())
            await asyncio.sleep(0.01)
            hub.close(True)
            with pytest.raises(UnavailableError):
                await waiting

    asyncio.run(test())


def test_a_sink_gets_the_next_image_without_waiting() -> None:
    hub = ResultHub()
    image = NextImage(hub, "door", HandClock())
    assert image.jpeg() is None
    write(hub, 0)
    data = image.jpeg()
    assert data is not None
    assert data.startswith(b"\xff\xd8")
    stopped = NextImage(hub, "door", HandClock())
    hub.close(True)
    assert stopped.jpeg() is None
