"""Snapshots, and inference on single images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pipeline.fakes import LONG_S, SIDE, wait_for
from tests.pipeline.live_fakes import Camera
from tests.service import fakes
from tests.service.site import Engines, Site, engines, wanted
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.config.serve import ServeSettings
from vision_infer.core.description import ClassScore, Description
from vision_infer.core.errors import StreamError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.core.image import Image
from vision_infer.core.result import Result
from vision_infer.pipeline.runs.api import Detector
from vision_infer.pipeline.status import StreamState
from vision_infer.service.errors import UnavailableError
from vision_infer.service.results import requests
from vision_infer.service.results.snapshot import of_result, scaled
from vision_infer.service.service import Service
from vision_infer.service.views import Snapshot

__all__ = ["engines"]


def png(value: int = 7, size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    done, data = cv2.imencode(".png", np.full((size[1], size[0], 3), value, np.uint8))
    assert done
    return data.tobytes()


def shown(snapshot: Snapshot) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(snapshot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape[:2] == (snapshot.height, snapshot.width)
    return np.asarray(image, np.uint8)


def while_giving(site: Site, camera: Camera, work: Callable[[], Snapshot]) -> Snapshot:
    """Return the result of a call while the camera delivers frames."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        while not future.done():
            site.give(camera)
        return future.result()


def test_a_snapshot_shows_the_frame_of_a_result_and_can_be_annotated(engines: Engines) -> None:
    camera = Camera(0)
    with Site(camera) as site:
        site.service.create("s0", wanted(camera))
        site.give(camera)
        plain = while_giving(site, camera, lambda: site.service.snapshot("s0", False, LONG_S))
        image = shown(plain)
        assert image.shape == (SIDE, SIDE, 3)
        assert int(image.max()) - int(image.min()) < 4
        assert abs(time.time_ns() - plain.captured_wall_ns) < LONG_S * 1e9
        annotated = while_giving(site, camera, lambda: site.service.snapshot("s0", True, LONG_S))
        assert int(shown(annotated).max()) - int(shown(annotated).min()) > 60


def test_the_main_stream_is_opened_for_a_snapshot_and_closed_afterwards(engines: Engines) -> None:
    camera, view = Camera(0), Camera(0, path="rtsp://main-stream/")
    with Site(camera, view) as site:
        site.service.create("s0", wanted(camera, view=view.path))
        site.give(camera, 3)
        assert view.attempts == 0
        view.give()
        snapshot = site.service.snapshot("s0", False, LONG_S)
        assert int(np.median(shown(snapshot))) == 0  # the first frame of the main stream, not the camera's fourth
        assert view.opened[0].closed.is_set()
        view.give()
        annotated = while_giving(site, camera, lambda: site.service.snapshot("s0", True, LONG_S))
        assert int(shown(annotated).max()) > 60
        assert site.status("s0").reconnects == 0
        assert view.attempts == 2


def test_a_main_stream_that_does_not_respond_is_reported_in_time(engines: Engines) -> None:
    refused = StreamError("rtsp://user:***@main-stream/: connection refused", "is it on?")
    camera, view = Camera(0), Camera(0, path="rtsp://main-stream/", refusals=[refused])
    with Site(camera, view) as site:
        site.service.create("s0", wanted(camera, view=view.path))
        site.give(camera)
        with pytest.raises(UnavailableError, match="connection refused"):
            site.service.snapshot("s0", False, LONG_S)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="delivers no frames"):  # connected, and silent
            site.service.snapshot("s0", False, 0.2)
        assert time.monotonic() - began < LONG_S / 3
        assert all(connection.closed.is_set() for connection in view.opened)
        site.give(camera)


def test_the_number_of_open_main_streams_is_limited(engines: Engines) -> None:
    camera, view = Camera(0), Camera(0, path="rtsp://main-stream/")
    with Site(camera, view) as site:
        site.service.create("s0", wanted(camera, view=view.path))
        site.give(camera)
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(site.service.snapshot, "s0", False, LONG_S) for _ in range(4)]
            wait_until(lambda: len(view.opened) == 4)
            with pytest.raises(UnavailableError, match="4 main streams are already open"):
                site.service.snapshot("s0", False, LONG_S)
            view.give(4)
            assert all(len(future.result(LONG_S).jpeg) > 100 for future in waiting)


@pytest.mark.parametrize("state", ["connecting", "backing off", "removed while waiting"])
def test_a_stream_that_is_not_live_has_no_snapshot(engines: Engines, state: str) -> None:
    camera = Camera(0, refusals=[StreamError("rtsp://cam/: lost")] if state == "backing off" else [])
    with Site(camera) as site:
        site.service.create("s0", wanted(camera, reconnect={"min_s": 3600, "max_s": 3600}))
        if state == "backing off":
            status = site.wait_state("s0", StreamState.BACKING_OFF)
            with pytest.raises(UnavailableError) as raised:
                site.service.snapshot("s0", False, LONG_S)
            assert (raised.value.state, raised.value.reason) == ("backing_off", status.reason)
        elif state == "connecting":
            with pytest.raises(UnavailableError) as raised:
                site.service.snapshot("s0", False, LONG_S)
            assert raised.value.state == "connecting"
        else:
            site.give(camera)
            with pytest.raises(UnavailableError, match=r"no frame within 0\.1 s"):
                site.service.snapshot("s0", False, 0.1)


# Single images


def test_an_image_is_inferred_together_with_the_streams(engines: Engines) -> None:
    camera = Camera(0)
    with Site(camera) as site:
        site.service.create("s0", wanted(camera))
        site.give(camera)
        result = site.service.infer(png(), None, None, None)
        assert (result.stream, result.model, result.size.width, result.live) == ("image", "one", SIDE, None)
        assert len(result.detections) == 1
        site.give(camera)
        assert set(site.sink.indices("s0")) == {0, 1}
        assert {name for name, _, _ in site.sink.written} == {"s0"}
        assert {view.name for view in site.service.streams()} == {"s0"}
        assert {event.stream for event in site.events} == {"s0"}


def test_the_time_between_two_images_does_not_count_as_latency(engines: Engines) -> None:
    with Site() as site:
        site.service.infer(png(), None, None, None)
        idle = time.monotonic_ns()
        wait_until(lambda: time.monotonic_ns() - idle > 3e8, "some time to pass")
        start_ns = time.monotonic_ns()
        latency = site.service.infer(png(), None, None, None).latency
        assert 0 < latency.decode_ns < latency.total_ns <= time.monotonic_ns() - start_ns


def test_confidence_and_classes_filter_the_result(engines: Engines) -> None:
    """The engine detects a person with a confidence of 0.9."""
    with Site() as site:
        assert len(site.service.infer(png(), None, 0.85, ("person",)).detections) == 1
        assert len(site.service.infer(png(), None, 0.95, None).detections) == 0
        assert len(site.service.infer(png(), None, None, ("car",)).detections) == 0


def test_an_invalid_image_or_model_is_a_usage_error(engines: Engines) -> None:
    with Site() as site:
        for data in (
            b"",
            b"no picture",
            png()[:40],
            b"\xff\xd8\xff" + bytes(1000),
            b"%PDF-1.4",
            cv2.imencode(".bmp", np.zeros((8, 8, 3), np.uint8))[1].tobytes(),
        ):
            with pytest.raises(UsageError, match=r"image (cannot be decoded|format is not supported)"):
                site.service.infer(data, None, None, None)
        with pytest.raises(UsageError, match=r"The image cannot be decoded\. It is damaged or incomplete\. Send a JPEG"):
            site.service.infer(png()[:40], None, None, None)
        with pytest.raises(UsageError, match="unknown model"):
            site.service.infer(png(), "nonsense", None, None)
        with pytest.raises(UnavailableError, match="nanodet-416 is not loaded"):
            site.service.infer(png(), "nanodet-416", None, None)
        with pytest.raises(UsageError, match="unicorn"):
            site.service.infer(png(), None, None, ("unicorn",))
        assert len(site.service.infer(png(), None, None, None).detections) == 1


def test_the_number_of_waiting_images_is_limited(engines: Engines) -> None:
    clogged, go = threading.Event(), threading.Event()

    def run(model: str, batch: object) -> None:
        clogged.set()
        wait_for(go)

    engines.run = run
    with Site() as site, ThreadPoolExecutor(64) as pool:
        answers = [pool.submit(site.service.infer, png(), None, None, None) for _ in range(64)]
        wait_for(clogged)
        wait_until(lambda: len(next(iter(site.service._lanes._sources.values()))._futures) == 64)
        with pytest.raises(UnavailableError, match="64 images are already waiting"):
            site.service.infer(png(), None, None, None)
        go.set()
        assert all(len(answer.result(LONG_S).detections) == 1 for answer in answers)
        assert len(site.service.infer(png(), None, None, None).detections) == 1


def test_an_engine_failure_is_reported_soon_and_frees_the_slot(engines: Engines) -> None:
    failing = threading.Event()

    def run(model: str, batch: object) -> None:
        if failing.is_set():
            raise RuntimeError("out of memory")

    engines.run = run
    with Site() as site:
        site.service.infer(png(), None, None, None)
        failing.set()
        began = time.monotonic()
        for _ in range(70):
            with pytest.raises(UnavailableError, match="has no result"):
                site.service.infer(png(), None, None, None)
        assert time.monotonic() - began < LONG_S / 3
        failing.clear()
        assert len(site.service.infer(png(), None, None, None).detections) == 1
        assert site.service.ready() == (True, "")


def test_a_timed_out_request_frees_its_slot(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    clogged, go = threading.Event(), threading.Event()

    def run(model: str, batch: object) -> None:
        clogged.set()
        wait_for(go)

    engines.run = run
    monkeypatch.setattr(requests, "TIMEOUT_S", 0.05)
    with Site() as site:
        for _ in range(70):
            with pytest.raises(UnavailableError):
                site.service.infer(png(), None, None, None)
        go.set()
        monkeypatch.setattr(requests, "TIMEOUT_S", LONG_S)
        wait_until(lambda: not next(iter(site.service._lanes._sources.values()))._futures)
        assert len(site.service.infer(png(), None, None, None).detections) == 1


def test_the_service_stops_while_images_wait(engines: Engines) -> None:
    clogged, go = threading.Event(), threading.Event()

    def run(model: str, batch: object) -> None:
        clogged.set()
        wait_for(go)

    engines.run = run
    with Site() as site, ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(site.service.infer, png(), None, None, None) for _ in range(20)]
        wait_for(clogged)
        closing = threading.Thread(target=site.close)
        closing.start()
        wait_until(lambda: not site.service.ready()[0])
        go.set()
        closing.join(LONG_S)
        began = time.monotonic()
        for answer in answers:
            error = answer.exception(LONG_S)
            assert error is None or isinstance(error, UnavailableError)
        assert time.monotonic() - began < LONG_S / 3


def test_images_for_a_model_that_is_closed_and_reopened(engines: Engines) -> None:
    camera = Camera(0)
    with Site(camera) as site:
        for _ in range(3):
            site.service.create("s0", wanted(camera, model="two"))
            assert site.service.infer(png(), "two", None, None).model == "two"
            site.service.delete("s0")
            assert engines.loaded == {"one"}
            with pytest.raises((UnavailableError, UsageError)):
                site.service.infer(png(), "two", None, None)
        assert site.service.infer(png(), "one", None, None).model == "one"


@pytest.mark.slow
def test_requests_while_the_model_closes_get_a_result_or_an_error(engines: Engines) -> None:
    camera = Camera(0)
    failed: list[BaseException] = []
    ended = threading.Event()
    with Site(camera) as site:

        def ask() -> None:
            while not ended.is_set():
                try:
                    site.service.infer(png(), "two", None, None)
                except (UnavailableError, UsageError):
                    pass
                except BaseException as error:  # noqa: BLE001
                    failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        for _ in range(12):
            site.service.create("s0", wanted(camera, model="two"))
            site.service.delete("s0")
        ended.set()
        for thread in threads:
            thread.join(LONG_S)
        assert not failed, failed
        assert time.monotonic() - began < LONG_S
        assert site.service.infer(png(), None, None, None).model == "one"


@pytest.mark.usefixtures("bundled")
def test_a_result_equals_that_of_the_detector() -> None:
    """The bundled model on an image with objects."""
    noise = np.random.default_rng(3).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    image = np.asarray(cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)
    done, data = cv2.imencode(".png", image)
    assert done
    of = ServeSettings(model="nanodet-416", engine="onnxruntime-cpu-fp32")
    with Service(of) as service:
        service.start()
        wait_until(lambda: service.ready()[0])
        by_confidence: dict[float, Result] = {
            confidence: service.infer(data.tobytes(), None, confidence, None) for confidence in (0.05, 0.2, 0.5)
        }
        of_card = service.infer(data.tobytes(), None, None, None)
    rgb = np.ascontiguousarray(image[..., ::-1])
    for confidence, result in by_confidence.items():
        with Detector("nanodet-416", confidence=confidence, engine="onnxruntime-cpu-fp32") as detector:
            expected = detector(rgb)
        found = result.detections
        assert len(found) == len(expected)
        assert found.class_ids.tolist() == expected.class_ids.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)
    with Detector("nanodet-416") as detector:
        assert len(of_card.detections) == len(detector(rgb))
    assert len(by_confidence[0.05].detections) > len(by_confidence[0.2].detections) > 0


def test_image_classes_are_drawn() -> None:
    red = Description(classes=(ClassScore(1, "red", 0.8),))
    result = replace(fakes.result(found={}), description=red)
    drawn, plain = (shown(of_result(fakes.frame(), result, annotated, HandClock())) for annotated in (True, False))
    assert not plain.any()
    assert drawn.any()


def test_huge_snapshots_are_converted_one_at_a_time() -> None:
    """Each copy of a frame of 12 megapixels takes 36 MB."""
    size = Size(4000, 3000)
    now, most = 0, 0
    lock = threading.Lock()

    class Huge:
        def __init__(self) -> None:
            self.size = size

        def to_rgb(self) -> NDArray[np.uint8]:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            rgb = np.zeros((size.height, size.width, 3), np.uint8)
            with lock:
                now -= 1
            return rgb

    frame = replace(fakes.frame(), image=cast(Image, Huge()))
    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(lambda _: of_result(frame, fakes.result(found={}), False, HandClock()), range(12)))
    assert most == 1
    assert {(snapshot.width, snapshot.height) for snapshot in taken} == {(4000, 3000)}


def test_descriptions_are_kept_when_detections_are_scaled() -> None:
    red = Description(classes=(ClassScore(1, "red", 0.8),))
    found = replace(fakes.result().detections, descriptions=(red, None))
    larger = scaled(found, Size(64, 48), Size(128, 96))
    assert larger.descriptions == (red, None)
    assert larger.boxes.tolist() == (2 * found.boxes).tolist()
    assert larger.boxes.dtype == np.float32
