"""The nodes of a cluster on the page: with plain values, and once with a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.service.fakes import ADMIN, OPEN, TOKENS, VIEW, FakeBackend, FakeNodes, node
from vision_infer.pipeline.status import StreamState
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer


def log_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")


@pytest.fixture
def backend() -> FakeBackend:
    backend = FakeBackend(port=0)
    for name in ("yard", "gate"):
        backend.put(name, f"rtsp://10.0.0.5/{name}", origin="api")
    backend.put("lobby", "rtsp://10.0.0.5/lobby", state=StreamState.PENDING, reason="no node has the labels site=berlin")
    backend.nodes = FakeNodes(
        node("atlas", "door", "yard", labels={"site": "oslo", "ray.io/node-id": "0123"}, fit=1, half_rate=1, used=1.6),
        node("bora", "gate"),
        node("comet", state="lost", ready=False, reason="no report for 3 s", at_stake=None),
    )
    return backend


@pytest.fixture
def address(backend: FakeBackend) -> Iterator[str]:
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, TOKENS))
        yield web.url


def test_an_admin_sees_cameras_by_node_and_drains_a_node(browser: Browser, address: str) -> None:
    with checked_page(browser, address) as checked:
        page = checked.open("nodes")
        log_in(page, ADMIN)
        expect(page.get_by_role("link", name="Nodes")).to_be_visible()
        atlas, bora, comet = (page.get_by_role("article", name=name) for name in ("atlas", "bora", "comet"))
        expect(atlas).to_contain_text("1.60 of 1.70 cores")
        expect(atlas).to_contain_text("1 of its 2 cameras fit elsewhere, 1 would run at half the rate.")
        expect(atlas).to_contain_text("site=oslo")
        expect(atlas).not_to_contain_text("ray.io")
        expect(atlas.get_by_role("link")).to_have_text(["door", "yard"])
        expect(bora).to_contain_text("Its camera fits elsewhere.")
        expect(comet).to_contain_text("no report for 3 s")
        expect(comet.locator(".state")).to_have_text("lost")
        waiting = page.locator(".card", has=page.get_by_role("heading", name="Waiting for a node"))
        expect(waiting).to_contain_text("lobby no node has the labels site=berlin")
        checked.shot("nodes", full=True)
        bora.get_by_role("button", name="Drain").click()
        expect(page.get_by_text("Drain bora? Its 1 camera move")).to_be_visible()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(bora.locator(".state")).to_have_text("alive")
        bora.get_by_role("button", name="Drain").click()
        page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        expect(bora.locator(".state")).to_have_text("draining")
        bora.get_by_role("button", name="Use again").click()
        expect(bora.locator(".state")).to_have_text("alive")
        bora.get_by_role("link", name="gate").click()
        expect(page.get_by_role("heading", name="gate")).to_be_visible()
        checked.expect_quiet("401 (Unauthorized)", "whep", "snapshot", "503")


def test_a_viewer_sees_nodes_without_buttons_on_a_narrow_window(browser: Browser, address: str) -> None:
    with checked_page(browser, address, viewport=NARROW, color_scheme="dark") as checked:
        page = checked.open("nodes")
        log_in(page, VIEW)
        expect(page.get_by_role("article", name="atlas")).to_be_visible()
        expect(page.get_by_role("button", name="Drain")).to_be_hidden()
        assert checked.overflow() <= 0
        checked.shot("nodes-narrow", full=True)
        checked.expect_quiet("401 (Unauthorized)")


def test_one_machine_shows_no_nodes(browser: Browser) -> None:
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url) as checked:
            page = checked.open("stream/door")
            expect(page.locator(".facts")).to_contain_text("Model")
            expect(page.locator(".facts dt", has_text="Node")).to_have_count(0)
            expect(page.locator("nav a:visible")).to_have_text(["Cameras", "Events", "Engines", "Cost", "Try"])
            checked.expect_quiet("whep", "snapshot", "503")


@pytest.mark.slow
def test_a_real_cluster_shows_its_nodes_and_moves_cameras(browser: Browser, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from tests.support.gateway import TOKEN, Gateway
    from tests.support.ray_cluster import RayCluster

    folders = [tmp_path / name for name in ("ray", "gateway")]
    for folder in folders:
        folder.mkdir()
    cameras = dict.fromkeys(("door", "yard", "gate"), "test://?size=320x180&fps=3")
    with RayCluster(folders[0], "atlas", "bora") as cluster, Gateway(folders[1], cluster, cameras) as gateway:
        gateway.wait_until_live()
        with checked_page(browser, f"http://127.0.0.1:{gateway.port}") as checked:
            page = checked.open("nodes")
            log_in(page, TOKEN)
            atlas, bora = (page.get_by_role("article", name=name) for name in ("atlas", "bora"))
            expect(atlas).to_contain_text("fit")
            names = set(atlas.get_by_role("link").all_inner_texts())
            assert names | set(bora.get_by_role("link").all_inner_texts()) == cameras.keys()
            moved = sorted(names)[0]
            checked.open(f"stream/{moved}")
            expect(page.locator(".facts")).to_contain_text("atlas")
            checked.open("nodes")
            atlas.get_by_role("button", name="Drain").click()
            page.get_by_role("dialog").get_by_role("button", name="Drain").click()
            expect(atlas.get_by_role("link")).to_have_count(0)
            expect(bora.get_by_role("link")).to_have_count(len(cameras))
            checked.open(f"stream/{moved}")
            expect(page.locator(".facts")).to_contain_text("bora")
            expect(page.locator(".events")).to_contain_text("moved from node atlas to node bora; track ids and counts restart")
            checked.shot("nodes-moved", full=True)
