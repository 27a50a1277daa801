"""Single sign-on in a real browser: a person logs in at the provider, sees two cameras, and logs out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.service.fakes import ADMIN, TOKENS, FakeBackend
from tests.support.oidc_provider import CLIENT, SECRET, OidcProvider
from vision_infer.config.access.settings import AccessSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.scene_event import SceneEvent
from vision_infer.service.clips.event_log import EventRecord
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer

SHOWN = ("entrance", "yard")


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as running:
        running.asks = True
        yield running


@pytest.fixture(scope="module")
def site(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("state")
    backend = FakeBackend(port=0)
    backend.kept.clear()
    for number, name in enumerate((*SHOWN, "vault", "office")):
        backend.put(name, f"rtsp://10.0.0.5/{name}", origin="api")
        event = SceneEvent("cross", f"gate of {name}", 1, 0, "person", None, "in", (1, 0), f"{number:016x}").to_dict()
        backend.clips.events.add(EventRecord(f"{number:016x}", name, SYSTEM_CLOCK.wall_ns(), event))
    with WebServer(backend.settings.service, backend.hub) as web:
        oidc = {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET, "page": web.url}
        settings = {"roles": {"viewer": SHOWN}, "oidc": oidc | {"groups": {"security": "viewer"}}}
        access = Access(AccessSettings.model_validate(settings), folder, SYSTEM_CLOCK)
        web.start(make_app(backend, TOKENS, access=access))
        yield web.url, folder


def test_a_person_logs_in_sees_two_cameras_and_logs_out(browser: Browser, site: tuple[str, Path]) -> None:
    address, folder = site
    with checked_page(browser, address) as checked:
        page = checked.open()
        page.get_by_role("link", name="Log in with your account").click()
        page.get_by_role("link", name="Continue as Ada").click()
        for name in SHOWN:
            expect(page.get_by_role("link", name=f"Open {name}")).to_be_visible()
        expect(page.get_by_role("link", name="Open ", exact=False)).to_have_count(len(SHOWN))
        expect(page.get_by_text("ada@example.org · viewer")).to_be_visible()
        checked.shot("team")
        for name in ("Cost", "Nodes", "Add camera"):
            expect(page.get_by_role("link", name=name)).to_have_count(0)
        assert page.url.startswith(address)
        assert "code=" not in page.url
        assert page.evaluate("document.cookie") == ""
        page.goto(f"{address}/#/events")
        expect(page.get_by_text("gate of yard")).to_be_visible()
        assert "vault" not in page.inner_text("body")
        page.goto(f"{address}/#/stream/vault")
        expect(page.get_by_text("There is no camera with this name.")).to_be_visible()
        page.goto(f"{address}/#/stream/yard")
        expect(page.get_by_role("heading", name="yard")).to_be_visible()
        expect(page.get_by_role("button", name="Remove")).to_have_count(0)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("link", name="Log in with your account")).to_be_visible()
        page.reload()
        expect(page.get_by_role("link", name="Log in with your account")).to_be_visible()
        log = (folder / "audit.jsonl").read_text()
        assert [line.split('"event": "')[1].split('"')[0] for line in log.splitlines()] == ["login", "logout"]


def test_a_token_still_opens_everything(browser: Browser, site: tuple[str, Path]) -> None:
    address, _ = site
    with checked_page(browser, address, viewport=NARROW) as checked:
        page = checked.open()
        page.get_by_label("Token").fill(ADMIN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="Open vault")).to_be_visible()
        expect(page.get_by_role("link", name="Cost")).to_be_visible()
        checked.shot("team-admin-narrow")
