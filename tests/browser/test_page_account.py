"""The timeline of frame outcomes and the costs of streams, on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import NARROW, CheckedPage, checked_page
from tests.pipeline.fakes import FakeImage
from tests.service.fakes import OPEN, FakeBackend
from vision_infer.config.service.cost import CostSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.status import Flight, StreamEvent, StreamState, Usage
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer
from vision_infer.service.streams.cost import MachineUsage
from vision_infer.telemetry.flight_recorder import FlightRecorder

SECOND = 1_000_000_000
LOST_S = range(20, 40)
"""The ages in seconds of the frames that were lost."""


def recorded_minute() -> Flight:
    """Return one minute of ten frames/s: a third is skipped by the rate limit, and for 20 s the engine is too slow."""
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
    backend.flight_record = recorded_minute()
    backend.machine = MachineUsage(cores=4.0, used=1.0, others=0.2)
    for name, fps, cores in (("door", 10.0, 0.4), ("yard", 5.0, 0.2)):
        backend.put(name, f"rtsp://10.0.0.5/{name}", result_fps=fps, usage=Usage(cores / 2, cores / 4, cores / 4))
    return backend


@pytest.fixture(scope="module")
def address(backend: FakeBackend) -> Iterator[str]:
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        yield web.url


def click_at(checked: CheckedPage, ago_s: float) -> None:
    """Select a moment in the last two minutes."""
    strip = checked.page.locator(".strip")
    box = strip.bounding_box()
    assert box is not None
    strip.click(position={"x": box["width"] * (1 - ago_s / 120), "y": box["height"] / 2})


def test_the_page_explains_a_selected_moment_without_results(browser: Browser, address: str, backend: FakeBackend) -> None:
    backend.flight_record = recorded_minute()
    with checked_page(browser, address) as checked:
        page = checked.open("stream/door")
        explanation = page.locator(".timeline .explanation")
        expect(explanation).to_contain_text("Now: ")
        expect(page.locator(".outcomes")).to_contain_text("with a result 267")
        expect(page.locator(".outcomes")).to_contain_text("paced 200")
        expect(page.locator(".outcomes")).to_contain_text("superseded 133")
        click_at(checked, 32)
        expect(explanation).to_contain_text("none with a result: newer frames replaced them while they waited for the engine")
        expect(page.locator(".timeline")).to_contain_text("The engine is busy. Check its utilization")
        checked.shot("timeline")
        strip = page.get_by_role("slider", name="Selected moment")
        strip.focus()
        page.keyboard.press("End")
        expect(explanation).to_contain_text("Now: ")
        for _ in range(3):  # ten seconds each
            page.keyboard.press("PageDown")
        expect(explanation).to_contain_text("newer frames replaced them")
        page.get_by_label("Time range").select_option("24 hours")
        checked.wait("document.querySelectorAll('.outcomes li').length === 3")
        assert checked.overflow() <= 0
        checked.expect_quiet("whep", "snapshot", "503")


def test_a_paused_stream_has_no_timeline_and_no_requests(browser: Browser, address: str, backend: FakeBackend) -> None:
    view = backend.put("away", "rtsp://10.0.0.5/away")
    backend.kept["away"] = replace(view, status=None)
    backend.flight_record = None
    try:
        with checked_page(browser, address) as checked:
            page = checked.open("stream/away")
            expect(page.locator(".state", has_text="paused")).to_be_visible()
            expect(page.get_by_role("heading", name="Timeline")).to_be_hidden()
            checked.expect_quiet()
    finally:
        del backend.kept["away"]
        backend.flight_record = recorded_minute()


def test_the_cost_page_shows_the_share_of_each_stream(browser: Browser, address: str, backend: FakeBackend) -> None:
    for name, options in _SCREENS.items():
        with checked_page(browser, address, **options) as checked:
            page = checked.open("cost")
            expect(page.locator(".explanation")).to_have_text(backend.cost().summary)
            expect(page.get_by_text("Set cost.machine_per_hour")).to_be_visible()
            door, yard = (page.locator("tbody tr", has_text=stream) for stream in ("door", "yard"))
            expect(door).to_contain_text("%")
            before = [door.locator("td").all_inner_texts(), yard.locator("td").all_inner_texts()]
            assert [cells[0] for cells in before] == ["10", "5.0"]
            page.get_by_label("Estimate for a rate").fill("20")
            expect(page.get_by_role("columnheader", name="Share at 20/s")).to_be_visible()
            assert share(door.locator("td").last.inner_text()) > share(before[0][-1])
            page.get_by_label("Estimate for a rate").fill("")
            expect(page.get_by_role("columnheader", name="Share at 20/s")).to_have_count(0)
            assert checked.overflow() <= 0
            checked.shot(f"cost-{name}")
            checked.expect_quiet()


_SCREENS: dict[str, dict[str, Any]] = {"wide": {}, "narrow": {"viewport": NARROW, "color_scheme": "dark"}}


def share(text: str) -> float:
    """Return the number before the percent sign."""
    return float(text.removesuffix(" %"))


def test_the_cost_page_shows_prices_if_the_machine_has_a_price(browser: Browser, address: str, backend: FakeBackend) -> None:
    free = backend.settings
    backend.settings = free.model_copy(update={"cost": CostSettings(machine_per_hour=0.5, currency="EUR")})
    try:
        with checked_page(browser, address) as checked:
            page = checked.open("cost")
            expect(page.get_by_text("The configured price of the machine is 0.5 EUR per hour")).to_be_visible()
            page.get_by_label("Estimate for a rate").fill("1")
            expect(page.get_by_role("columnheader", name="EUR per month at 1/s")).to_be_visible()
            now, at_rate = (float(page.locator("tbody tr").first.locator("td").nth(at).inner_text()) for at in (3, 5))
            assert 0 < at_rate < now < 0.5 * 730
            checked.shot("cost-priced")
            checked.expect_quiet()
    finally:
        backend.settings = free
