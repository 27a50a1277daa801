"""Live video for a browser on another machine: through firewalls and the published ports of a container, and without UDP."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import CHROMIUM, FIREFOX, CheckedPage, checked_page, opened_browser
from tests.support.cameras import ClockMount, RtspServer
from tests.support.compose import composed
from tests.support.media import ROOT
from tests.support.networks import ROUTER, SERVICE, Networks, inside
from tests.support.serve_process import ServeProcess

PAGE, VIDEO = "8080/tcp", ("8189/udp", "8189/tcp")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
TOKEN = "a token of the tests"
OVER_HTTP = ("401 (Unauthorized)", "Cross-Origin-Opener-Policy header has been ignored")
"""The errors of a page that is not on this machine and has no TLS: the first is that before the log-in."""
_PATH = """
async () => {
  const reports = await window.peers.at(-1).getStats();
  const pair = [...reports.values()].find((one) => one.type === "candidate-pair" && one.nominated && one.bytesReceived > 0);
  const { protocol, address, port } = reports.get(pair.remoteCandidateId);
  return `${protocol} ${address}:${port}`;
}
"""


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    with Networks() as made:
        yield made


@pytest.fixture(scope="module", params=[pytest.param(CHROMIUM, id=pytest.HIDDEN_PARAM)])
def viewer(networks: Networks, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Return a browser on the viewer's machine, with its settings for users: it hides its addresses behind mDNS names."""
    with ExitStack() as stack:
        with inside(networks.viewer):
            browser = stack.enter_context(opened_browser(request.param))
        yield browser


@contextmanager
def served(networks: Networks, folder: Path, preview: str = "{}") -> Iterator[None]:
    """Run the service on its machine."""
    text = f"""service: {{host: 0.0.0.0, token: {TOKEN}}}
model: clock
preview: {preview}
streams: {{cam: {{url: "test://?fps=15", fps: 2}}}}
"""
    service = ServeProcess(folder, text, arguments=(), VISION_INFER_PREVIEW__PORT="")
    service.token = TOKEN
    with ExitStack() as stack:
        with inside(networks.service):
            stack.enter_context(service)
        yield


@contextmanager
def watched(viewer: Browser, host: str, token: str = TOKEN) -> Iterator[CheckedPage]:
    """Open the page, log in, and wait until the camera is live."""
    with checked_page(viewer, f"http://{host}:8080") as checked:
        page = checked.open()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator(".tile .state")).to_have_text("live")
        yield checked


def play(checked: CheckedPage, stream: str = "cam") -> str:
    """Wait until a stream plays; return the protocol and the address that the video comes from."""
    began = time.monotonic()
    page = checked.open(f"stream/{stream}")
    checked.wait("document.querySelector('.stage')?.dataset.mode === 'webrtc'")
    print(f"first frame after {time.monotonic() - began:.2f} s")
    checked.wait("document.querySelector('video').currentTime > 0.3")
    path: Any = page.evaluate(_PATH)
    return str(path)


@pytest.mark.slow
def test_the_two_ports_are_enough_in_a_routed_network(networks: Networks, viewer: Browser, tmp_path: Path) -> None:
    networks.route(PAGE, *VIDEO)
    with served(networks, tmp_path), watched(viewer, SERVICE) as checked:
        assert play(checked) == f"udp {SERVICE}:8189"
        offer: str = checked.page.evaluate("window.peers.at(-1).localDescription.sdp")
        assert ".local " in offer
        assert "10.0.0.2" not in offer, "the browser hides its address"
        checked.expect_quiet(*OVER_HTTP)


@pytest.mark.parametrize("viewer", [CHROMIUM, pytest.param(FIREFOX, marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize(
    ("open_ports", "kind"), [(VIDEO, "udp"), pytest.param(VIDEO[1:], "tcp", marks=pytest.mark.slow)], ids=["all", "no-udp"]
)
def test_the_published_ports_of_a_container_are_enough(
    networks: Networks, viewer: Browser, tmp_path: Path, open_ports: tuple[str, ...], kind: str
) -> None:
    networks.publish(PAGE, *open_ports)
    with served(networks, tmp_path, f"{{addresses: [{ROUTER}]}}"), watched(viewer, ROUTER) as checked:
        assert play(checked) == f"{kind} {ROUTER}:8189"
        checked.expect_quiet(*OVER_HTTP)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "ports", "remedy"),
    [
        (ROUTER, (), "which is the address of this page. Open port 8189 (UDP and TCP) in the firewall"),
        (
            "10.0.0.99",
            VIDEO,
            f"but this page was loaded from {ROUTER}. Set an address that this browser can reach",
        ),
    ],
    ids=["closed-port", "wrong-address"],
)
def test_the_page_shows_mjpeg_and_the_setting_that_is_wrong(
    networks: Networks, viewer: Browser, tmp_path: Path, address: str, ports: tuple[str, ...], remedy: str
) -> None:
    networks.publish(PAGE, *ports)
    with served(networks, tmp_path, f"{{addresses: [{address}]}}"), watched(viewer, ROUTER) as checked:
        page = checked.open("stream/cam")
        expect(page.locator(".via")).to_contain_text(
            "no WebRTC packet of this browser reached the service. It announced " + address
        )
        expect(page.locator(".via")).to_contain_text(remedy)
        expect(page.locator(".stage[data-mode=mjpeg]")).to_be_visible()
        checked.expect_quiet(*OVER_HTTP)


@pytest.mark.slow
def test_the_configuration_of_docker_compose_plays_on_another_machine(
    networks: Networks, viewer: Browser, tmp_path: Path
) -> None:
    """What ``PUBLISH_ADDRESS=10.0.0.1 docker compose --profile camera up`` runs, without the isolation of a container."""
    container = composed("vision-infer", PUBLISH_ADDRESS=ROUTER)
    networks.publish(*(f"{port['target']}/{port['protocol']}" for port in container["ports"]))
    (command,) = set(re.findall(r'^CMD \["serve", "/etc/vision-infer/cameras.yaml", (.*)\]$', DOCKERFILE, re.MULTILINE))
    secrets = tmp_path / "secrets"
    subprocess.run(["sh", str(ROOT / "deploy/make_secrets.sh"), str(secrets)], check=True, capture_output=True)
    token, password = ((secrets / name).read_text() for name in ("admin_token", "camera_read_password"))
    text = (ROOT / "deploy/config/cameras.yaml").read_text(encoding="utf-8").replace("/run/secrets", str(secrets))
    with ExitStack() as stack:
        with inside(networks.service):
            camera = stack.enter_context(RtspServer(ClockMount("/door", 1280, 720, 15, user="reader", password=password)))
            text = text.replace("@mediamtx:8554", f"@127.0.0.1:{camera.port}")
            service = ServeProcess(
                tmp_path, text, arguments=json.loads(f"[{command}]"), VISION_INFER_PREVIEW__PORT="", **container["environment"]
            )
            service.token = token
            stack.enter_context(service)
        checked = stack.enter_context(watched(viewer, ROUTER, token))
        assert play(checked, "door") == f"udp {ROUTER}:8189"
        expect(checked.page.locator(".via")).to_contain_text("passthrough")
        checked.expect_quiet(*OVER_HTTP)
