"""Inference on single images."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from tests.pipeline.fakes import LONG_S, SIDE, wait_for
from tests.pipeline.live_fakes import Camera
from tests.service.site import Engines, Site, engines, wanted
from tests.support.waiting import wait_until
from vision_infer.config.serve import ServeSettings
from vision_infer.core.errors import UsageError
from vision_infer.core.result import Result
from vision_infer.pipeline.runs.api import Detector
from vision_infer.service.errors import UnavailableError
from vision_infer.service.results import requests
from vision_infer.service.service import Service

__all__ = ["engines"]


def png(value: int = 7, size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    done, data = cv2.imencode(".png", np.full((size[1], size[0], 3), value, np.uint8))
    assert done
    return data.tobytes()


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
