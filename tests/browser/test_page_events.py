"""Events on the page of a stream: degradation under overload, and clips of zone and line events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.browser.square_model import write_square_model
from tests.service.fakes import JPEG, OPEN, FakeBackend
from tests.service.site import Engines, engines
from tests.service.test_degradation import SUB, Rig, quick, slow, stream
from tests.support.cameras import ClockMount, RtspServer
from tests.support.serve_process import ServeProcess
from tests.support.waiting import wait_until
from vision_infer.config.clips import ClipSettings
from vision_infer.config.serve import ServiceSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.service.clips.event_log import ClipState, EventRecord
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer
from vision_infer.sink.delivery.carrier import SinkStatus

__all__ = ["engines", "quick"]
SECOND = 1_000_000_000
WALL_NS = 1_764_000_000 * SECOND
WHY = {"missing": "mjpeg is not kept", "removed": "it made room for newer ones"}
STATES: tuple[ClipState, ...] = ("none", "recording", "ready", "missing", "removed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """Start a camera with a square that crosses a line repeatedly; each crossing is recorded as a clip."""
    folder = tmp_path_factory.mktemp("happenings")
    write_square_model(folder / "square.onnx")
    with RtspServer(ClockMount("/yard", 320, 180, 15, key_interval=15)) as cameras:
        line = "lines: {way: {units: relative, from: [0.5, 1], to: [0.5, 0]}}"
        clips = f"clips: {{dir: {folder / 'clips'}, keep_free_mb: 0}}"
        yard = f"{{url: {cameras.url('/yard')}, {line}, clips: {{pre_s: 1, post_s: 1}}}}"
        text = f"processes: 2\nservice: {{port: 0}}\nmodel: {folder / 'square.onnx'}\n{clips}\nstreams:\n  yard: {yard}\n"
        with ServeProcess(folder, text) as serve:
            yield serve


@pytest.mark.slow  # 14 s; tests/real/test_clips.py covers clips, and the next test the list of events
def test_a_clip_is_played_and_downloaded_and_its_deletion_is_reported(
    browser: Browser, site: ServeProcess, tmp_path: Path
) -> None:
    with checked_page(browser, f"http://127.0.0.1:{site.port}") as checked:
        page = checked.open("stream/yard")
        event = page.locator(".events li", has_text="square #").first
        expect(event).to_contain_text("crosses way")
        clip = page.locator(".events a").last  # the oldest: its position does not change
        expect(clip).to_be_visible()
        assert "crosses way" in (clip.get_attribute("aria-label") or "")
        oldest = page.locator(f".events a[href='{clip.get_attribute('href')}']")
        oldest.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Clip")
        expect(dialog).to_contain_text("crosses way")
        checked.wait("document.querySelector('dialog video').currentTime > 0.3")
        assert page.evaluate("document.querySelector('dialog video').videoWidth") == 320
        checked.shot("clip")
        with page.expect_download() as kept:
            dialog.get_by_role("link", name="Download").click()
        assert kept.value.suggested_filename.endswith(".mp4")
        kept.value.save_as(tmp_path / "clip.mp4")
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert len(list(container.decode(video=0))) > 15
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(oldest).to_be_focused()
        checked.expect_quiet()

        checked.wait("document.querySelectorAll('.events a').length >= 2")
        second = page.locator(".events a").nth(-2)
        for file in (site.folder / "clips").glob("*/*"):  # as if newer clips had replaced it
            file.unlink()
        second.click()
        expect(dialog.get_by_role("alert")).to_contain_text("the clip was removed")
        expect(dialog.locator("video")).to_be_hidden()
        expect(dialog.get_by_role("link", name="Download")).to_be_hidden()
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_have_count(0)
        checked.expect_quiet("404")


@pytest.mark.slow
def test_only_events_with_a_clip_link_to_one(browser: Browser, tmp_path: Path) -> None:
    backend = FakeBackend(port=0)
    view = backend.put("yard", "rtsp://10.0.0.5/yard", state=StreamState.STALLED)
    backend.kept["yard"] = replace(view, settings=view.settings.model_copy(update={"clips": ClipSettings()}))
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"not a video")
    records = []
    for number, state in enumerate(STATES):
        event = {"kind": "enter", "place": state, "track_id": number, "class_id": 0, "label": "person"}
        record = EventRecord(f"{number:016x}", "yard", WALL_NS + number * SECOND, event, state)
        record.clip, record.seconds, record.bytes, record.from_wall_ns = file, 10.4, 15, WALL_NS
        record.reason = WHY.get(state, "")
        backend.clips.events.add(record)
        records.append(record)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url, viewport=NARROW) as checked:
            page = checked.open("stream/yard")
            rows = {state: page.locator(".events li", has_text=f"enters {state}") for state in STATES}
            expect(rows["ready"].get_by_role("link")).to_have_text("Clip, 10 s")
            expect(rows["recording"]).to_contain_text("recording clip")
            assert page.locator(".events a").count() == 1
            rows["missing"].get_by_text("no clip").click()
            expect(rows["missing"]).to_contain_text("mjpeg is not kept")
            expect(rows["removed"]).to_contain_text("clip deleted")
            expect(rows["none"].locator(".clip")).to_be_empty()
            texts = page.locator(".events li").all_inner_texts()
            assert ["removed" in texts[0], "none" in texts[-1]] == [True, True], "newest first"
            records[1].state = "ready"
            expect(rows["recording"].get_by_role("link")).to_have_text("Clip, 10 s")
            rows["recording"].get_by_role("link").click()
            expect(page.get_by_role("alert").filter(has_text="This browser cannot play the clip")).to_be_visible()
            expect(page.get_by_role("link", name="Download")).to_be_visible()
            page.get_by_role("button", name="Close").click()
            assert checked.overflow() <= 0
            checked.shot("clips-narrow", full=True)
            checked.expect_quiet("503", "whep", "snapshot")


def test_the_events_of_all_cameras_by_camera_and_type(browser: Browser) -> None:
    backend = FakeBackend(port=0)
    backend.put("yard", "rtsp://10.0.0.5/yard")

    def happens(number: int, stream: str, kind: str) -> None:
        event = {"kind": kind, "place": "gate", "track_id": number, "class_id": 0, "label": "person"}
        backend.clips.events.add(EventRecord(f"{number:016x}", stream, WALL_NS + number * SECOND, event, "none"))

    happens(1, "yard", "enter")
    happens(2, "door", "enter")
    changed = StreamEvent("door", StreamState.REFUSED, SYSTEM_CLOCK.monotonic_ns(), "wrong password", WALL_NS)
    backend.published.append(changed)
    backend.sink_statuses = [SinkStatus("night", "notify", True, None, 0, 0, 0, None, 4, {"quiet_hours": 2}, "enter → json")]
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url) as checked:
            page = checked.open("events")
            rows = page.locator(".events li")
            expect(rows).to_have_count(3)
            expect(rows.filter(has_text="person #2 enters gate").get_by_role("link", name="door")).to_be_visible()
            expect(rows.filter(has_text="refused: wrong password")).to_contain_text("door")
            happens(3, "yard", "dwell")
            expect(rows.first.or_(rows.nth(1)).filter(has_text="person #3")).to_be_visible()
            expect(rows).to_have_count(4)
            expect(page.get_by_role("row", name="night")).to_have_text("nightenter → json4quiet hours: 2")
            checked.shot("all-events")
            page.get_by_label("Camera").select_option("yard")
            expect(rows).to_have_count(2)
            page.get_by_label("Type").select_option("Zone entered")
            expect(rows).to_have_count(1)
            expect(rows).to_contain_text("person #1 enters gate")
            page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
            assert checked.overflow() <= 0
            checked.shot("all-events-narrow")
            rows.get_by_role("link", name="yard").click()
            expect(page.get_by_role("heading", name="yard")).to_be_visible()
            checked.expect_quiet("503", "whep", "snapshot")


def test_a_snapshot_is_downloaded(browser: Browser) -> None:
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url) as checked:
            page = checked.open("stream/door")
            with page.expect_download() as download, page.expect_request("**/snapshot.jpg?annotated=true"):
                page.get_by_role("button", name="Snapshot").click()
            assert download.value.suggested_filename == "door-2023-11-14T22-13-20.000Z.jpg"
            assert download.value.path().read_bytes() == JPEG
            checked.expect_quiet("503", "whep", "404")


@pytest.mark.slow
def test_the_page_shows_degradation_and_recovery(
    browser: Browser, engines: Engines, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real service whose engine becomes slow and then fast again."""
    seconds = {"one": 0.25, "two": 0.01}
    slow(engines, seconds, monkeypatch)
    with (
        Rig(front=stream(degrade_detect=SUB, degrade_model="two")) as rig,
        WebServer(ServiceSettings(port=0), rig.service.hub) as web,
        checked_page(browser, web.url) as checked,
    ):
        web.start(make_app(rig.service, OPEN))
        page = checked.open()
        front = page.locator(".tile")
        expect(front).to_contain_text("degraded: fallback model")
        expect(front.locator(".spoken")).to_contain_text("the fallback model two runs")
        expect(page.get_by_role("status").filter(has_text="1 degraded")).to_be_visible()
        checked.shot("degraded")
        assert sum(value for value, *_ in checked.shifts()) < 0.001, checked.shifts()
        page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
        page.emulate_media(color_scheme="dark")
        wait_until(lambda: checked.overflow() <= 0, "the tiles to follow the width")
        checked.shot("degraded-narrow")
        page.get_by_role("link", name="Open front").click()
        expect(page.locator(".head")).to_contain_text("degraded: fallback model")
        note = page.get_by_role("status").filter(has_text="The machine is overloaded")
        expect(note).to_contain_text("the fallback model two runs (degrade_model). Measured: ")
        expect(page.locator(".events")).to_contain_text("degraded: fallback stream, previously lower rate")
        assert checked.overflow() <= 0
        checked.shot("degraded-stream", full=True)
        seconds["one"] = 0.0
        expect(page.locator(".events")).to_contain_text("no longer degraded, previously lower rate")
        expect(note).to_have_count(0)
        checked.expect_quiet("503", "whep")  # between two frames there is no snapshot
