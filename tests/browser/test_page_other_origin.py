"""A dashboard of another site in a real browser: API, WebSocket, images and the embedded page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import checked_page
from tests.service.fakes import OPEN, TOKENS, VIEW, WALL_NS, FakeBackend
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.server import WebServer
from vision_infer.service.views import Snapshot

USE = """
async ([service, token]) => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const image = `${service}/api/v1/streams/door/snapshot.jpg`;
  const tried = async (work) => work().catch((error) => error.name);
  return {
    list: await tried(async () => (await (await fetch(`${service}/api/v1/streams`, { headers })).json()).length),
    put: await tried(async () => (await fetch(`${service}/api/v1/streams/x`, {
      method: "PUT", headers: { ...headers, "Content-Type": "application/json" },
      body: JSON.stringify({ detect: "rtsp://10.0.0.9/x" }),
    })).status),
    exposed: await tried(async () => (await fetch(image, { headers })).headers.has("X-Captured-At")),
    socket: await new Promise((resolve) => {
      const socket = new WebSocket(`${service.replace("http", "ws")}/api/v1/results`);
      socket.onopen = () => resolve("open");
      socket.onerror = () => resolve("error");
    }),
    image: await new Promise((resolve) => {
      const shown = new Image();
      shown.onload = () => resolve(shown.naturalWidth);
      shown.onerror = () => resolve("error");
      shown.src = image;
    }),
  };
}
"""


@contextmanager
def dashboard() -> Iterator[str]:
    """Serve an empty page; localhost is another site than 127.0.0.1, where the service is."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>dashboard</title>")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Camera(FakeBackend):
    """A backend with a real image."""

    def snapshot(self, name: str, annotated: bool, timeout_s: float) -> Snapshot:
        return Snapshot(cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes(), WALL_NS, 64, 48)


@contextmanager
def service(tokens: Tokens, *origins: str) -> Iterator[str]:
    backend = Camera(port=0, allow_origins=origins)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, tokens))
        yield web.url


def used(browser: Browser, site: str, address: str, token: str = "") -> dict[str, Any]:
    with checked_page(browser, site) as checked:
        checked.page.goto(site)
        found: dict[str, Any] = checked.page.evaluate(USE, [address, token])
        return found


def test_a_dashboard_of_an_allowed_origin(browser: Browser) -> None:
    with ExitStack() as stack:
        allowed, other = stack.enter_context(dashboard()), stack.enter_context(dashboard())
        address = stack.enter_context(service(OPEN, allowed))
        assert used(browser, allowed, address) == {"list": 1, "put": 201, "exposed": True, "socket": "open", "image": 64}
        refused = {"list": "TypeError", "put": "TypeError", "exposed": "TypeError", "socket": "error", "image": "error"}
        assert used(browser, other, address) == refused


def test_a_dashboard_with_a_token(browser: Browser) -> None:
    with dashboard() as site, service(TOKENS, site) as address:
        found = used(browser, site, address, VIEW)
        # A browser's WebSocket and <img> cannot send the token; fetch can.
        assert found == {"list": 1, "put": 403, "exposed": True, "socket": "error", "image": "error"}


EMBED = """
address => {
  const frame = document.createElement("iframe");
  frame.src = address;
  document.body.append(frame);
}
"""


def test_the_page_in_a_frame(browser: Browser) -> None:
    with dashboard() as site, service(OPEN, site) as address, checked_page(browser, site) as checked:
        checked.page.goto(site)
        checked.page.evaluate(EMBED, address)
        expect(checked.page.frame_locator("iframe").get_by_role("link", name="Open door")).to_be_visible()


def test_the_page_in_a_frame_of_another_site(browser: Browser) -> None:
    with dashboard() as site, service(OPEN) as address, checked_page(browser, site) as checked:
        checked.page.goto(site)
        with checked.page.expect_console_message(lambda message: "frame-ancestors" in message.text):
            checked.page.evaluate(EMBED, address)
