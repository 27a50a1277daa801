"""The view that finds cameras: logins, images, streams, and what it shows if there are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.service.fakes import OPEN, TOKENS, VIEW, FakeBackend
from vision_infer.core.errors import RefusedError
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.routes import cameras
from vision_infer.service.http.server import WebServer
from vision_infer.stream.discovery.discover import DiscoveredDevice
from vision_infer.stream.onvif.camera import OnvifCamera, OnvifProfile

PASSWORD = "p@ss:w/rd*"
JPEG = cv2.imencode(".jpg", np.full((360, 640, 3), (40, 160, 220), np.uint8))[1].tobytes()


def device(number: int, name: str) -> DiscoveredDevice:
    address = f"10.0.0.{number}"
    return DiscoveredDevice(address, name, "D-1", "hall", (f"http://{address}/onvif/device_service",), f"urn:uuid:{number}")


def camera(url: str, sources: int = 1) -> OnvifCamera:
    """Return the camera behind the URL of an ONVIF service."""
    host = urlsplit(url).hostname
    rtsp = f"rtsp://{host}/{{}}?channel={{}}"
    profiles = [
        OnvifProfile(f"{name}{source}", name, "h264", width, height, rate, 512, rtsp.format(name, source), str(source))
        for source in range(1, sources + 1)
        for name, width, height, rate in (("main", 1920, 1080, 25.0), ("sub", 640, 360, 15.0))
    ]
    return OnvifCamera("ACME", "D-1", "Dome Süd", 3600.0, tuple(profiles), f"http://{host}/snapshot.jpg")


class Network:
    """The devices that are found, and the streams of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices = [device(15, "ACME Dome"), device(16, "ACME Bullet <b>"), device(5, "Other_Cam")]
        self.devices.append(replace(self.devices[0], services=("http://10.0.0.15:8001/",), id="urn:uuid:2nd", name="ACME 2nd"))
        self.logins: list[tuple[str, str, str]] = []
        self.sources = 1
        self.image = JPEG
        monkeypatch.setattr(cameras, "discover", self.discover)
        monkeypatch.setattr(cameras, "camera_streams", self.streams)
        monkeypatch.setattr(cameras, "snapshot", lambda *_: self.image)

    def discover(self, wait_s: float) -> list[DiscoveredDevice]:
        del wait_s
        return self.devices

    def streams(self, url: str, user: str, password: str, networks: tuple[str, ...]) -> OnvifCamera:
        del networks
        self.logins.append((url, user, password))
        if password != PASSWORD:
            raise RefusedError(f"{url}: the camera refused the login", "Check the user name and password.")
        return camera(url, self.sources)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)


class Site:
    """The page of a service with one camera, which is named door."""

    def __init__(self, browser: Browser, tokens: Tokens, **options: Any) -> None:
        self.backend = FakeBackend(port=0)
        self.web = WebServer(self.backend.settings.service, self.backend.hub)
        self._browser, self._tokens, self._options = browser, tokens, options

    def __enter__(self) -> Site:
        self.web.__enter__()
        self.web.start(make_app(self.backend, self._tokens))
        self._page = checked_page(self._browser, self.web.url, **self._options)
        self.checked = self._page.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._page.__exit__(*error)
        self.web.__exit__(*error)


@pytest.fixture
def site(browser: Browser, network: Network) -> Iterator[Site]:
    del network
    with Site(browser, OPEN) as opened:
        yield opened


def card(page: Page, text: str) -> Locator:
    return page.get_by_role("list", name="Found cameras").get_by_role("listitem").filter(has_text=text)


def log_in(shown: Locator, password: str = PASSWORD) -> None:
    shown.get_by_label("User").fill("admin")
    shown.get_by_label("Password").fill(password)
    shown.get_by_role("button", name="Log in").click()


def test_a_camera_is_added_and_its_login_is_offered_for_others_of_its_maker(site: Site, network: Network) -> None:
    page = site.checked.open("find")
    expect(page.get_by_role("status").filter(has_text="4 cameras found")).to_be_visible()
    dome = card(page, "ACME Dome")
    expect(dome).to_contain_text("D-1 · 10.0.0.15 · hall")
    expect(card(page, "Other_Cam")).to_contain_text("Already added: door")
    log_in(dome, "wrong")
    expect(dome.get_by_role("alert")).to_contain_text("the camera refused the login. Check the user name and password.")
    expect(dome.get_by_label("Password")).to_be_focused()
    log_in(dome)
    expect(dome.get_by_role("img", name="Image of ACME Dome")).to_be_visible()
    site.checked.wait("document.querySelector('.device canvas').getContext('2d').getImageData(9, 9, 1, 1).data[0] > 150")
    expect(dome.get_by_label("Stream for detection").locator("option:checked")).to_have_text(
        "640×360, 15 frames/s, h264, 512 kbit/s · sub"
    )
    expect(dome.get_by_label("Stream for viewing").locator("option:checked")).to_contain_text("1920×1080, 25 frames/s")
    expect(dome).to_contain_text("The clock of the camera is 60 min fast.")
    bullet = card(page, "ACME Bullet <b>")
    expect(bullet.get_by_label("Password")).to_have_value(PASSWORD)
    expect(card(page, "Other_Cam").get_by_label("Password")).to_have_value("")
    site.checked.shot("find", full=True)
    page.emulate_media(color_scheme="dark")
    site.checked.shot("find-dark", full=True)
    expect(dome.get_by_role("button", name="Add")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dome).to_contain_text("Already added: Dome-Sud")
    expect(dome.get_by_role("button", name="Add")).to_be_hidden()
    settings = site.backend.stream("Dome-Sud").settings
    secret = "p%40ss%3Aw%2Frd%2A"
    assert settings.detect == f"rtsp://admin:{secret}@10.0.0.15/sub?channel=1"
    assert settings.view == f"rtsp://admin:{secret}@10.0.0.15/main?channel=1"
    bullet.get_by_role("button", name="Log in").click()
    expect(bullet.get_by_label("Name")).to_have_value("Dome-Sud-2")
    assert [password for *_, password in network.logins] == ["wrong", PASSWORD, PASSWORD]
    assert PASSWORD not in page.content()
    page.get_by_role("link", name="added by its URL").click()
    page.get_by_role("heading", name="Add a camera").wait_for()
    page.go_back()
    expect(card(page, "ACME Bullet <b>").get_by_label("Password")).to_have_value("")
    site.checked.expect_quiet("422")


@pytest.mark.slow
def test_the_channels_of_a_recorder_are_added_one_after_the_other(site: Site, network: Network) -> None:
    network.sources = 2
    page = site.checked.open("find")
    recorder = card(page, "ACME Dome")
    log_in(recorder)
    add = recorder.get_by_role("button", name="Add")
    add.click()
    expect(recorder).to_contain_text("Already added: Dome-Sud-1")
    expect(recorder.get_by_label("Channel").locator("option:checked")).to_have_text("Channel 2")
    expect(add).to_be_focused()
    expect(recorder.get_by_role("img")).to_be_hidden()
    name = recorder.get_by_label("Name")
    expect(name).to_have_value("Dome-Sud-2")
    name.fill("back door")
    add.click()
    assert "and no spaces, such as back-door" in name.evaluate("(input) => input.validationMessage")
    name.fill("Dome-Sud-2")
    add.click()
    expect(recorder).to_contain_text("Already added: Dome-Sud-1 Dome-Sud-2")
    assert site.backend.stream("Dome-Sud-2").settings.detect.endswith("/sub?channel=2")
    site.checked.expect_quiet()


def test_an_address_is_entered_by_hand_if_no_camera_answers(browser: Browser, network: Network) -> None:
    network.devices = []
    with Site(browser, OPEN, viewport=NARROW, has_touch=True) as site:
        page = site.checked.open("find")
        for text in ("No camera answered", "multicast", "host networking", "enter the address of the camera below"):
            expect(page.get_by_text(text)).to_be_visible()
        site.checked.shot("find-none", full=True)
        address = page.get_by_label("Address of a camera")
        address.fill("127.0.0.1:8000")
        address.press("Enter")
        refused = card(page, "127.0.0.1")
        expect(refused.get_by_label("User")).to_be_focused()
        log_in(refused)
        expect(refused.get_by_role("alert")).to_contain_text("is outside the allowed networks. Allowed are 10.0.0.0/8")
        network.image = b"\xff\xd8\xff no image"
        address.fill("10.0.0.7")
        address.press("Enter")
        shown = card(page, "10.0.0.7")
        log_in(shown)
        expect(shown).to_contain_text("This browser cannot show the image of the camera.")
        network.image = JPEG
        address.fill("http://10.0.0.8:8000/onvif/device_service")
        address.press("Enter")
        log_in(card(page, "10.0.0.8"))
        expect(card(page, "10.0.0.8").get_by_role("img")).to_be_visible()
        site.checked.shot("find-narrow", full=True)
        assert site.checked.overflow() <= 0
        assert network.logins[-1][0] == "http://10.0.0.8:8000/onvif/device_service"
        site.checked.expect_quiet("422")


@pytest.mark.slow
def test_a_viewer_cannot_search(browser: Browser, network: Network) -> None:
    del network
    with Site(browser, TOKENS) as site:
        page = site.checked.open("find")
        page.get_by_label("Token").fill(VIEW)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("Your role does not allow this search.")).to_be_visible()
        site.checked.expect_quiet("401")
