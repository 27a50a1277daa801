"""What became of frames and why, and what streams cost: on the page, from what the service tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.watched import NARROW, Watched, watched
from tests.pipeline.fakes import FakeImage
from tests.service.fakes import OPEN, FakeBackend
from vision_infer.config.serve import CostSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.status import Flight, StreamEvent, StreamState, Usage
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer
from vision_infer.service.streams.cost import Machine
from vision_infer.telemetry.flight_recorder import FlightRecorder

SECOND = 1_000_000_000
LOST_S = range(20, 40)
"""how long ago frames were lost"""


def story() -> Flight:
    """A minute of ten frames a second; a third is left out by the rate, and for a while the engine was too slow for the rest."""
    recorder = FlightRecorder(SYSTEM_CLOCK)
    now = SYSTEM_CLOCK.monotonic_ns()
    for number in range(600):
        captured = now - 60 * SECOND + number * SECOND // 10
        trace = Trace(captured_ns=captured, emitted_ns=captured + SECOND // 20, decode_start_ns=captured, batch=1)
        frame = Frame("door", number, number / 10, FakeImage(0, 0), trace)
        if number % 3 == 0:
            recorder.dropped(DropReason.PACED, frame)
        elif (600 - number) // 10 in LOST_S:
            recorder.dropped(DropReason.SUPERSEDED, frame)
        else:
            recorder.emitted(frame, "engine", 1)
    return Flight(recorder, (StreamEvent("door", StreamState.LIVE, now - 90 * SECOND, "", 0),), 10.0)


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    backend = FakeBackend(port=0)
    backend.flown = story()
    backend.machine = Machine(cores=4.0, used=1.0, others=0.2)
    for name, fps, cores in (("door", 10.0, 0.4), ("yard", 5.0, 0.2)):
        backend.put(name, f"rtsp://10.0.0.5/{name}", result_fps=fps, usage=Usage(cores / 2, cores / 4, cores / 4))
    return backend


@pytest.fixture(scope="module")
def address(backend: FakeBackend) -> Iterator[str]:
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        yield web.url


def click_at(one: Watched, ago_s: float) -> None:
    """Choose a moment of the last two minutes."""
    strip = one.page.locator(".strip")
    box = strip.bounding_box()
    assert box is not None
    strip.click(position={"x": box["width"] * (1 - ago_s / 120), "y": box["height"] / 2})


def test_a_moment_without_results_is_clicked_and_explained(browser: Browser, address: str, backend: FakeBackend) -> None:
    backend.flown = story()
    with watched(browser, address) as one:
        page = one.open("stream/door")
        told = page.locator(".timeline .says")
        expect(told).to_contain_text("Now: ")
        expect(page.locator(".outcomes")).to_contain_text("with a result 267")
        expect(page.locator(".outcomes")).to_contain_text("paced 200")
        expect(page.locator(".outcomes")).to_contain_text("superseded 133")
        click_at(one, 32)
        expect(told).to_contain_text("none gave a result: newer frames took their place while they waited for the engine")
        expect(page.locator(".timeline")).to_contain_text("the engine is busy: see its utilisation")
        one.shot("timeline")
        strip = page.get_by_role("slider", name="Moment")
        strip.focus()
        page.keyboard.press("End")
        expect(told).to_contain_text("Now: ")
        for _ in range(3):  # ten seconds each
            page.keyboard.press("PageDown")
        expect(told).to_contain_text("newer frames took their place")
        page.get_by_label("How far back").select_option("24 hours")
        one.wait("document.querySelectorAll('.outcomes li').length === 3")
        assert one.overflow() <= 0
        one.expect_quiet("whep", "snapshot", "503")


def test_nothing_is_asked_about_a_stream_that_does_not_run(browser: Browser, address: str, backend: FakeBackend) -> None:
    view = backend.put("away", "rtsp://10.0.0.5/away")
    backend.kept["away"] = replace(view, status=None)
    backend.flown = None
    try:
        with watched(browser, address) as one:
            page = one.open("stream/away")
            expect(page.locator(".state", has_text="paused")).to_be_visible()
            expect(page.get_by_role("heading", name="Timeline")).to_be_hidden()
            one.expect_quiet()
    finally:
        del backend.kept["away"]
        backend.flown = story()


def test_what_streams_take_of_the_machine(browser: Browser, address: str, backend: FakeBackend) -> None:
    for name, options in _SCREENS.items():
        with watched(browser, address, **options) as one:
            page = one.open("cost")
            expect(page.locator(".says")).to_have_text(backend.cost().says)
            expect(page.get_by_text("Set cost.machine_per_hour")).to_be_visible()
            door, yard = (page.locator("tbody tr", has_text=stream) for stream in ("door", "yard"))
            expect(door).to_contain_text("%")
            before = [door.locator("td").all_inner_texts(), yard.locator("td").all_inner_texts()]
            assert [cells[0] for cells in before] == ["10", "5.0"]
            page.get_by_label("At another rate").fill("20")
            expect(page.get_by_role("columnheader", name="At 20 a second")).to_be_visible()
            assert share(door.locator("td").last.inner_text()) > share(before[0][-1])
            page.get_by_label("At another rate").fill("")
            expect(page.get_by_role("columnheader", name="At 20 a second")).to_have_count(0)
            assert one.overflow() <= 0
            one.shot(f"cost-{name}")
            one.expect_quiet()


_SCREENS: dict[str, dict[str, Any]] = {"wide": {}, "narrow": {"viewport": NARROW, "color_scheme": "dark"}}


def share(text: str) -> float:
    """What stands before ``%``."""
    return float(text.removesuffix(" %"))


def test_prices_where_the_machine_has_one(browser: Browser, address: str, backend: FakeBackend) -> None:
    free = backend.settings
    backend.settings = free.model_copy(update={"cost": CostSettings(machine_per_hour=0.5, currency="EUR")})
    try:
        with watched(browser, address) as one:
            page = one.open("cost")
            expect(page.get_by_text("The machine is set to 0.5 EUR an hour")).to_be_visible()
            page.get_by_label("At another rate").fill("1")
            expect(page.get_by_role("columnheader", name="EUR a month then")).to_be_visible()
            now, at_rate = (float(page.locator("tbody tr").first.locator("td").nth(at).inner_text()) for at in (3, 5))
            assert 0 < at_rate < now < 0.5 * 730
            one.shot("cost-priced")
            one.expect_quiet()
    finally:
        backend.settings = free
