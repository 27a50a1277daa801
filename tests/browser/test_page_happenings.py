"""What happens at a stream, on its page: how it gives way under overload, and clips of events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.square_network import write_square_network
from tests.browser.watched import NARROW, watched
from tests.service.fakes import OPEN, FakeBackend
from tests.service.site import Engines, engines
from tests.service.test_degrading import SUB, Rig, quick, slow, stream
from tests.support.cameras import ClockMount, RtspServer
from tests.support.serve_process import ServeProcess
from vision_infer.config.clips import ClipSettings
from vision_infer.config.serve import ServiceSettings
from vision_infer.pipeline.status import StreamState
from vision_infer.service.clips.event_log import ClipState, EventRecord
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer

__all__ = ["engines", "quick"]
SECOND = 1_000_000_000
WALL_NS = 1_764_000_000 * SECOND
WHY = {"missing": "mjpeg is not kept", "removed": "it made room for newer ones"}
STATES: tuple[ClipState, ...] = ("none", "recording", "ready", "missing", "removed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A camera with a square that crosses a line again and again; each time is worth a clip."""
    folder = tmp_path_factory.mktemp("happenings")
    write_square_network(folder / "square.onnx")
    with RtspServer(ClockMount("/yard", 320, 180, 15, key_interval=15)) as cameras:
        line = "lines: {way: {units: relative, from: [0.5, 1], to: [0.5, 0]}}"
        clips = f"clips: {{dir: {folder / 'clips'}, keep_free_mb: 0}}"
        yard = f"{{url: {cameras.url('/yard')}, {line}, clips: {{pre_s: 1, post_s: 1}}}}"
        text = f"service: {{port: 0}}\nmodel: {folder / 'square.onnx'}\n{clips}\nstreams:\n  yard: {yard}\n"
        with ServeProcess(folder, text) as serve:
            yield serve


def test_a_clip_is_looked_at_taken_along_and_missed(browser: Browser, site: ServeProcess, tmp_path: Path) -> None:
    with watched(browser, f"http://127.0.0.1:{site.port}") as one:
        page = one.open("stream/yard")
        happened = page.locator(".events li", has_text="square #").first
        expect(happened).to_contain_text("crosses way")
        clip = page.locator(".events a").last  # the oldest: it stays where it is
        expect(clip).to_be_visible()
        assert "crosses way" in (clip.get_attribute("aria-label") or "")
        oldest = page.locator(f".events a[href='{clip.get_attribute('href')}']")
        oldest.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Clip")
        expect(dialog).to_contain_text("crosses way")
        one.wait("document.querySelector('dialog video').currentTime > 0.3")
        assert page.evaluate("document.querySelector('dialog video').videoWidth") == 320
        one.shot("clip")
        with page.expect_download() as kept:
            dialog.get_by_role("link", name="Download").click()
        assert kept.value.suggested_filename.endswith(".mp4")
        kept.value.save_as(tmp_path / "clip.mp4")
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert len(list(container.decode(video=0))) > 15
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(oldest).to_be_focused()
        one.expect_quiet()

        one.wait("document.querySelectorAll('.events a').length >= 2")
        second = page.locator(".events a").nth(-2)
        for file in (site.folder / "clips").iterdir():  # as if others had taken its place
            file.unlink()
        second.click()
        expect(dialog.get_by_role("alert")).to_contain_text("its clip is gone")
        expect(dialog.locator("video")).to_be_hidden()
        expect(dialog.get_by_role("link", name="Download")).to_be_hidden()
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_have_count(0)
        one.expect_quiet("404")


def test_only_what_has_a_clip_links_to_one(browser: Browser, tmp_path: Path) -> None:
    backend = FakeBackend(port=0)
    view = backend.put("yard", "rtsp://10.0.0.5/yard", state=StreamState.STALLED)
    backend.kept["yard"] = replace(view, settings=view.settings.model_copy(update={"clips": ClipSettings()}))
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"no video at all")
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
        with watched(browser, web.url, viewport=NARROW) as one:
            page = one.open("stream/yard")
            rows = {state: page.locator(".events li", has_text=f"enters {state}") for state in STATES}
            expect(rows["ready"].get_by_role("link")).to_have_text("Clip, 10 s")
            expect(rows["recording"]).to_contain_text("being written")
            assert page.locator(".events a").count() == 1
            rows["missing"].get_by_text("no clip").click()
            expect(rows["missing"]).to_contain_text("mjpeg is not kept")
            expect(rows["removed"]).to_contain_text("clip is gone")
            expect(rows["none"].locator(".clip")).to_be_empty()
            told = page.locator(".events li").all_inner_texts()
            assert ["removed" in told[0], "none" in told[-1]] == [True, True], "the newest first"
            records[1].state = "ready"
            expect(rows["recording"].get_by_role("link")).to_have_text("Clip, 10 s")
            rows["recording"].get_by_role("link").click()
            expect(page.get_by_role("alert").filter(has_text="This browser does not play it")).to_be_visible()
            expect(page.get_by_role("link", name="Download")).to_be_visible()
            page.get_by_role("button", name="Close").click()
            assert one.overflow() <= 0
            one.shot("clips-narrow", full=True)
            one.expect_quiet("503", "whep", "snapshot")


def test_how_a_stream_gives_way_and_comes_back(
    browser: Browser, engines: Engines, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real service, whose engine is made slow, and fast again."""
    seconds = {"one": 0.25, "two": 0.01}
    slow(engines, seconds, monkeypatch)
    with (
        Rig(front=stream(degrade_detect=SUB, degrade_model="two")) as rig,
        WebServer(ServiceSettings(port=0), rig.service.hub) as web,
        watched(browser, web.url) as one,
    ):
        web.start(make_app(rig.service, OPEN))
        page = one.open()
        front = page.locator(".tile")
        expect(front).to_contain_text("gives way: cheaper model")
        expect(front.locator(".spoken")).to_contain_text("a cheaper model infers, two")
        expect(page.get_by_role("status").filter(has_text="1 gives way")).to_be_visible()
        one.shot("giving-way")
        assert sum(value for value, *_ in one.shifts()) < 0.001, one.shifts()
        page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
        page.emulate_media(color_scheme="dark")
        assert one.overflow() <= 0
        one.shot("giving-way-narrow")
        page.get_by_role("link", name="Open front").click()
        expect(page.locator(".head")).to_contain_text("gives way: cheaper model")
        said = page.get_by_role("status").filter(has_text="The machine is too small")
        expect(said).to_contain_text("a cheaper model infers, two (degrade_model). Measured then: ")
        expect(page.locator(".events")).to_contain_text("gives way: smaller picture, before: fewer results")
        assert one.overflow() <= 0
        one.shot("giving-way-stream", full=True)
        seconds["one"] = 0.0
        expect(page.locator(".events")).to_contain_text("has what it wants again, before: fewer results")
        expect(said).to_have_count(0)
        one.expect_quiet("503", "whep")  # between two pictures it gives none
