"""A camera is found, logged in to, and added in the browser, and then plays: with real multicast, ONVIF and RTSP."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.stream.test_stream_discover import answer, devices
from tests.support.cameras import ClockMount, RtspServer
from tests.support.onvif_device import PASSWORD, USER, FakeProfile, OnvifDevice, serving
from tests.support.serve_process import ServeProcess
from vision_infer.stream.discovery.discover import PORT

NAME = "Example%20Gate"


def image() -> bytes:
    """Return an image with a diagonal gradient."""
    ramp = np.add.outer(np.arange(360), np.arange(640)) % 256
    return cv2.imencode(".jpg", np.dstack([ramp, ramp[::-1], 255 - ramp]).astype(np.uint8))[1].tobytes()


@pytest.mark.slow
def test_a_camera_is_found_added_and_played(browser: Browser, tmp_path: Path) -> None:
    mounts = [
        ClockMount("/main", 1280, 720, 15, key_interval=15, user=USER, password=PASSWORD),
        ClockMount("/sub", 640, 360, 10, key_interval=10, user=USER, password=PASSWORD),
    ]
    camera = OnvifDevice(media=("media2",), clock_offset_s=-3600, answers={"snapshot": image()})

    def respond(message: str) -> list[bytes]:
        return [answer(message, f"onvif://www.onvif.org/name/{NAME}", camera.service, device="urn:uuid:gate")]

    text = "service: {port: 0, allow_networks: [127.0.0.0/8]}\nmodel: clock\nprocesses: 2\n"
    with (
        RtspServer(*mounts, auth="digest") as server,
        serving(camera),
        devices(respond, group=True, port=PORT),
        ServeProcess(tmp_path, text) as serve,
        checked_page(browser, f"http://127.0.0.1:{serve.port}") as checked,
    ):
        camera.profiles += [
            FakeProfile("main", "H264", 1280, 720, server.url("/main"), 15),
            FakeProfile("sub", "H264", 640, 360, server.url("/sub"), 10),
        ]
        page = checked.open()
        page.get_by_role("link", name="Find cameras").first.click()
        card = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Example Gate"))
        card.get_by_label("User").fill(USER)
        card.get_by_label("Password").fill(PASSWORD)
        card.get_by_label("Password").press("Enter")
        expect(card.get_by_role("img", name="Image of Example Gate")).to_be_visible()
        expect(card.get_by_label("Stream for detection").locator("option:checked")).to_contain_text("640×360, 10 frames/s, h264")
        expect(card.get_by_label("Stream for viewing").locator("option:checked")).to_contain_text("1280×720, 15 frames/s, h264")
        checked.shot("find-live")
        page.keyboard.press("Enter")
        expect(card).to_contain_text("Already added: Front-Door")
        page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
        assert checked.overflow() <= 0
        checked.shot("find-live-narrow")
        page.get_by_role("link", name="Cameras", exact=True).click()
        checked.wait(
            "document.querySelector(\".tile[data-name='Front-Door'] .stage[data-mode=webrtc] video\")?.currentTime > 0.3"
        )
        assert checked.overflow() <= 0
        checked.shot("find-live-wall")
        settings = serve.streams()["Front-Door"]["settings"]
        assert settings["detect"] == server.url("/sub").replace("://", f"://{USER}:***@")
        assert settings["view"] == server.url("/main").replace("://", f"://{USER}:***@")
        for secret in (PASSWORD, quote(PASSWORD, safe="")):
            assert secret not in serve.log + "".join(serve.answers) + page.content()
        assert "camera search by 127.0.0.1: " in serve.log
        checked.expect_quiet()
