"""Snapshots of streams."""

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

from tests.pipeline.fakes import LONG_S, SIDE
from tests.pipeline.live_fakes import Camera
from tests.service import fakes
from tests.service.site import Engines, Site, engines, wanted
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.core.description import ClassScore, Description
from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size
from vision_infer.core.image import Image
from vision_infer.pipeline.status import StreamState
from vision_infer.service.errors import UnavailableError
from vision_infer.service.results.snapshot import of_result
from vision_infer.service.views import Snapshot

__all__ = ["engines"]


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
    larger = found.scaled(Size(64, 48), Size(128, 96))
    assert larger.descriptions == (red, None)
    assert larger.boxes.tolist() == (2 * found.boxes).tolist()
    assert larger.boxes.dtype == np.float32
