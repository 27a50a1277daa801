"""The form of a camera and the view Try: messages for wrong input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import CheckedPage, checked_page
from tests.service.fakes import OPEN, FakeBackend
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer
from vision_infer.stream.discovery.makers import MAKERS


@pytest.fixture
def checked(browser: Browser) -> Iterator[CheckedPage]:
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url) as opened:
            yield opened
            opened.expect_quiet()


def test_a_name_with_a_space_is_explained(checked: CheckedPage) -> None:
    page = checked.open("add")
    name = page.get_by_label("Name")
    name.fill("front door")
    message = name.evaluate("(input) => input.validationMessage")
    assert message == "A name has letters, digits, “.”, “_” and “-”, and no spaces, such as front-door."
    name.fill("front-door")
    assert name.evaluate("(input) => input.validationMessage") == ""


def test_the_maker_and_the_host_fill_in_both_urls(checked: CheckedPage) -> None:
    page = checked.open("add")
    url, main = page.get_by_label("URL", exact=True), page.get_by_label("URL of the main stream")
    expect(page.get_by_label("Maker").locator("option")).to_have_text(["other", *(maker.name for maker in MAKERS)])
    url.fill("rtsp://10.0.0.4/own")
    page.get_by_label("Maker").select_option("Hikvision")
    expect(url).to_have_value("rtsp://10.0.0.4/own")  # without a host there is nothing to propose
    page.get_by_label("Host").fill("10.0.0.5:8554")
    expect(url).to_have_value("rtsp://10.0.0.5:8554/Streaming/Channels/102")
    expect(main).to_have_value("rtsp://10.0.0.5:8554/Streaming/Channels/101")
    page.get_by_label("Channel").fill("12")
    page.get_by_label("Channel").blur()
    expect(url).to_have_value("rtsp://10.0.0.5:8554/Streaming/Channels/1202")
    page.get_by_label("Maker").select_option("Hanwha")
    expect(url).to_have_value("rtsp://10.0.0.5:8554/11/profile2/media.smp")
    expect(main).to_have_value("")


def test_the_urls_of_an_existing_camera_are_not_made_from_its_maker(checked: CheckedPage) -> None:
    page = checked.open("add")
    assert page.request.put(f"{checked.address}/api/v1/streams/gate", data={"detect": "rtsp://10.0.0.5/own"}).status == 201
    page = checked.open("stream/gate/edit")
    expect(page.get_by_label("URL", exact=True)).to_have_value("rtsp://10.0.0.5/own")
    expect(page.get_by_label("Maker")).to_have_count(0)


def test_a_wrong_file_clears_the_previous_result(checked: CheckedPage, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "image.jpg"), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "text.jpg").write_text("not an image")
    page = checked.open("try")
    page.get_by_label("Image").set_input_files(tmp_path / "image.jpg")
    expect(page.get_by_text("2 detections in")).to_be_visible()
    page.get_by_label("Image").set_input_files(tmp_path / "text.jpg")
    expect(page.get_by_text("text.jpg: this browser cannot read the image")).to_be_visible()
    expect(page.get_by_text("2 detections in")).to_be_hidden()
    expect(page.locator(".found li")).to_have_count(0)
    expect(page.locator(".stage")).to_be_hidden()
