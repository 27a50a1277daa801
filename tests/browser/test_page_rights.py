"""Access rights on the page; text from the service never becomes markup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.service.fakes import ADMIN, OPEN, TOKENS, VIEW, FakeBackend, frame, result
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.detections import Detections
from vision_infer.core.scene_event import SceneEvent
from vision_infer.pipeline.status import Flight, StreamState
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer
from vision_infer.telemetry.flight_recorder import FlightRecorder

SCRIPT = "<img src=x onerror=\"document.title='gone wrong'\"><script>document.title='gone wrong'</script>"


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    backend = FakeBackend(port=0)
    backend.flight_record = Flight(FlightRecorder(SYSTEM_CLOCK), (), None)
    backend.put("yard", "rtsp://10.0.0.5/yard", origin="api", state=StreamState.REFUSED, reason="wrong user or password")
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, TOKENS))
        yield web.url


def test_the_page_asks_for_a_token(browser: Browser, guarded: str) -> None:
    with checked_page(browser, guarded) as checked:
        page = checked.open("stream/yard")
        page.get_by_label("Token").fill("not the right token")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert").filter(has_text="the token is invalid")).to_be_visible()
        checked.shot("wrong-token")
        page.get_by_label("Token").fill(ADMIN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="yard")).to_be_visible()
        expect(page.get_by_role("button", name="Remove")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="yard")).to_be_visible()  # the cookie is sufficient
        assert page.evaluate("document.cookie") == "", "scripts cannot read the cookie"
        assert ADMIN not in page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        checked.expect_quiet("401 (Unauthorized)")


def test_a_read_only_token_shows_no_controls_for_changes(browser: Browser, guarded: str) -> None:
    with checked_page(browser, guarded) as checked:
        page = checked.open()
        page.get_by_label("Token").fill(VIEW)
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="Open yard")).to_be_visible()
        expect(page.get_by_text("view only")).to_be_visible()
        assert page.get_by_role("link", name="Add a camera").count() == 0
        checked.open("stream/yard")
        expect(page.get_by_text("refused", exact=True)).to_be_visible()
        for name in ("Pause", "Remove", "Zones and lines"):
            assert page.get_by_role("button", name=name).count() == 0
        checked.open("add")
        expect(page.get_by_text("Your role does not allow changes")).to_be_visible()
        checked.open("stream/yard/edit")
        expect(page.get_by_text("Your role does not allow changes")).to_be_visible()
        checked.expect_quiet("401 (Unauthorized)", "503")  # the stream has no video


def test_a_stream_of_the_configuration_file_cannot_be_edited(browser: Browser) -> None:
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url) as checked:
            page = checked.open("stream/door")
            expect(page.get_by_text("defined in configuration file")).to_be_visible()
            assert page.get_by_role("button", name="Remove").count() == 0
            checked.open("stream/nothing")
            expect(page.get_by_text("no camera with this name")).to_be_visible()
            checked.expect_quiet("503", "whep", "snapshot")


def test_a_stream_of_the_command_line_is_edited_and_saved(browser: Browser) -> None:
    backend = FakeBackend(port=0)
    backend.put("yard", "rtsp://user:secret@10.0.0.5/yard", origin="command_line")
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url) as checked:
            page = checked.open()
            with page.expect_download() as download:
                page.get_by_role("link", name="Save as cameras.yaml").click()
            text = download.value.path().read_text()
            assert "rtsp://user:${CAMERA_YARD_PASSWORD}@10.0.0.5/yard" in text
            assert "secret" not in text
            checked.shot("command-line-wall")
            checked.open("stream/yard")
            for name in ("Zones and lines", "Pause"):
                expect(page.get_by_role("button", name=name)).to_be_visible()
            expect(page.get_by_role("link", name="Save as cameras.yaml")).to_be_visible()
            checked.shot("command-line-stream")
            page.get_by_role("button", name="Remove").click()
            expect(page.get_by_text("The command line adds it again at the next start.")).to_be_visible()
            page.get_by_role("dialog").get_by_role("button", name="Remove").click()
            expect(page.get_by_role("link", name="Open door")).to_be_visible()
            assert "yard" not in backend.kept
            checked.open("stream/door")
            expect(page.get_by_text("defined in configuration file")).to_be_visible()
            for fact in ("vision-infer, over RTP", "100 of 10,000 (1.00 %)"):
                expect(page.locator(".facts")).to_contain_text(fact)
            expect(page.get_by_role("link", name="Save as cameras.yaml")).to_be_hidden()
            checked.expect_quiet("503", "whep", "snapshot", "404")


def test_text_from_the_service_is_never_markup(browser: Browser) -> None:
    """Names, labels, reasons and events are never run as scripts."""
    backend = FakeBackend(port=0)
    name = f"door {SCRIPT}"
    lost = {"reason": SCRIPT, "state": StreamState.STALLED, "dropped": {SCRIPT: 3}, "occupancy": {SCRIPT: 1}}
    lost |= {"ingest": "ffmpeg", "ingest_reason": SCRIPT}
    backend.put(name, "rtsp://10.0.0.5/" + SCRIPT.replace(" ", "%20"), origin="api", model=SCRIPT, engine=SCRIPT, **lost)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url) as checked:
            page = checked.open()
            expect(page.get_by_text(name).first).to_be_visible()
            expect(page.get_by_text(SCRIPT).first).to_be_visible()
            page.get_by_role("link", name=f"Open {name}").click()
            expect(page.get_by_role("heading", name=name)).to_be_visible()
            checked.wait("document.querySelector('.facts').children.length > 5")
            event = SceneEvent("enter", SCRIPT, 1, 0, SCRIPT)
            hostile = replace(result(name, events=(event,)), detections=Detections.empty((SCRIPT,)))
            for _ in range(100):
                backend.hub.write(frame(name), hostile)
                if page.locator(".events li").count():
                    break
                page.wait_for_timeout(50)
            expect(page.locator(".events")).to_contain_text(f"{SCRIPT} #1 enters {SCRIPT}")
            checked.open("engines")
            expect(page.get_by_role("heading", name="main")).to_be_visible()
            assert "gone wrong" not in page.title()
            assert page.locator("img[src=x]").count() == 0
            checked.expect_quiet("whep", "snapshot", "404", "422", "503")


def test_the_content_security_policy_blocks_other_scripts(browser: Browser, guarded: str) -> None:
    with checked_page(browser, guarded) as checked:
        page = checked.open()
        blocked = page.evaluate(
            """() => new Promise((resolve) => setTimeout(() => {
              const tried = {};
              try { document.body.innerHTML = "<b>x</b>"; tried.markup = true; } catch (error) { tried.markup = error.name; }
              try { (0, eval)("1"); tried.code = true; } catch (error) { tried.code = error.name; }
              resolve(tried);
            }))"""
        )
        assert blocked["markup"] == "TypeError"
        assert blocked["code"] == "EvalError"


def test_files_of_the_page_are_cached_and_revalidated(guarded: str) -> None:
    with urlopen(f"{guarded}/", timeout=30) as answer:
        policy, tag = answer.headers["Content-Security-Policy"], answer.headers["ETag"]
        text = answer.read().decode()
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "<script>" not in text
    request = Request(f"{guarded}/", headers={"If-None-Match": tag})
    with pytest.raises(Exception, match="304"):
        urlopen(request, timeout=30)
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/vendor/LICENSE.uplot", "/page/", "/page/main.py"):
        with pytest.raises(Exception, match="404"):
            urlopen(guarded + path, timeout=30)


def test_the_page_recovers_after_the_service_was_down(browser: Browser) -> None:
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        port = web.address[1]
        with checked_page(browser, web.url, viewport=NARROW) as checked:
            page = checked.open()
            expect(page.get_by_role("link", name="Open door")).to_be_visible()
            web.stop()
            expect(page.get_by_role("alert").filter(has_text="The service does not respond, since")).to_be_visible()
            expect(page.get_by_role("link", name="Open door")).to_be_visible()  # the content remains visible
            checked.shot("service-gone")
            backend = FakeBackend(port=port)
            backend.put("new", "rtsp://10.0.0.5/new", origin="api", state=StreamState.CONNECTING)
            with WebServer(backend.settings.service, backend.hub) as again:
                again.start(make_app(backend, OPEN))
                expect(page.get_by_role("link", name="Open new")).to_be_visible()
                expect(page.locator(".banner")).to_be_hidden()
            checked.expect_quiet("ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "whep", "snapshot", "WebSocket", "503")
