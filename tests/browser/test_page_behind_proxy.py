"""The page and the API under a path of another server with TLS, behind real proxies with the example files."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from playwright.sync_api import Browser, expect
from websockets.sync.client import connect

from tests.browser.checked_page import checked_page
from tests.support.media import ROOT
from tests.support.reverse_proxy import NAME, PATH, ReverseProxy, reverse_proxy
from tests.support.serve_process import ServeProcess

TOKEN = "a token of the tests"
PROXIES = ("nginx", "caddy")
SESSION = re.compile("WebRTC(,| over TCP,) ")
"""What the page shows of a session. On a busy machine, TCP may connect first."""
ROW_S = 6.0
"""The time for two rows of a stream with two rows per second. A proxy that buffers 4 KB delivers the first one later."""
NOWHERE = """
const set = RTCPeerConnection.prototype.setRemoteDescription;
RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
  return set.call(this, { type, sdp: sdp.replace(/(a=candidate:\\S+ \\d+ \\S+ \\d+) \\S+ \\d+/g, '$1 192.0.2.1 9') });
};
"""
"""Replaces the addresses of the service in answers by one that belongs to no network."""
GATHERING = """
const send = window.fetch;
window.fetch = (url, options) => {
  if (options?.method === 'POST' && String(url).endsWith('/whep')) window.gathering = window.peers.at(-1).iceGatheringState;
  return send(url, options);
};
"""
"""Records the state of ICE at the time of an offer."""
OFFER = (ROOT / "tests/preview/chromium_offer.sdp").read_text(encoding="ascii")
FRAGMENT = (
    "a=ice-ufrag:{}\r\na=ice-pwd:x\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
    "a=candidate:1 1 udp 1 192.0.2.9 61764 typ host\r\n"
)


@dataclass
class Site:
    """A service, and the proxies in front of it."""

    service: ServeProcess
    proxies: dict[str, ReverseProxy]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start the service with the settings of docs/how-to/deploy.md."""
    folder = tmp_path_factory.mktemp("proxies")
    service = ServeProcess(
        folder,
        f"""service: {{port: 0, token: {TOKEN}, allow_hosts: [{NAME}], root_path: {PATH}, trusted_proxies: [127.0.0.1/32]}}
preview: {{addresses: [127.0.0.1]}}
model: clock
streams:
  cam: {{url: "test://?fps=10", fps: 5, track: true}}
  slow: {{url: "test://?fps=2", fps: 2}}
""",
    )
    service.token = TOKEN
    with ExitStack() as stack:
        stack.enter_context(service)
        proxies = {}
        for name in PROXIES:
            (folder / name).mkdir()
            proxies[name] = stack.enter_context(reverse_proxy(name, folder / name, service.port))
        yield Site(service, proxies)


@pytest.fixture(params=PROXIES)
def proxy(site: Site, request: pytest.FixtureRequest) -> ReverseProxy:
    """Return one of the proxies."""
    return site.proxies[request.param]


def ask(
    proxy: ReverseProxy, method: str, path: str, body: bytes | str = b"", source: str = "127.0.0.1", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Send a request with the token; return the status, the headers with lower-case names and the text of the response."""
    client = proxy.client(source)
    sent = {"Authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, path, body or None, sent)
    answer = client.getresponse()
    text = answer.read().decode()
    client.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


def test_the_page_plays_behind_a_proxy(browser: Browser, proxy: ReverseProxy) -> None:
    with checked_page(browser, proxy.url, ignore_https_errors=True) as checked:
        checked.page.add_init_script(GATHERING)
        page = checked.open()
        answers: list[tuple[int, str]] = []
        methods: list[str] = []
        page.on("response", lambda answer: answers.append((answer.status, answer.url)))
        page.on("request", lambda request: methods.append(request.method))
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Open cam").click()
        checked.wait("document.querySelector('.stage')?.dataset.mode === 'webrtc'")
        checked.wait("document.querySelector('.stage video').getVideoPlaybackQuality().totalVideoFrames > 10")
        expect(page.locator(".via")).to_contain_text(SESSION)
        checked.wait("document.querySelector('.plot .u-legend .u-value')?.textContent !== '--'")  # over the WebSocket
        assert page.evaluate("window.gathering") != "complete"  # the first frame does not wait for it
        assert methods.count("OPTIONS") == 1  # the overview has asked for the ICE servers already
        (cookie,) = page.context.cookies()
        assert (cookie["path"], cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (f"{PATH}/", True, True, "Strict")
        for view in ("engines", "cost", "try", "add"):
            checked.open(view)
            expect(page.get_by_role("heading").first).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert page.context.cookies() == []
        assert [url for _, url in answers if not url.startswith((proxy.url, "blob:"))] == []
        assert [answer for answer in answers if answer[0] >= 400 and answer[0] != 401] == []
        checked.expect_quiet("status of 401")


@pytest.mark.slow
def test_the_page_plays_if_the_service_does_not_know_the_path(browser: Browser, tmp_path: Path) -> None:
    """Only the cookie is then sent to the whole host."""
    text = f"""service: {{port: 0, token: {TOKEN}, allow_hosts: [{NAME}]}}
model: clock
streams: {{cam: {{url: "test://?fps=10", fps: 5}}}}
"""
    (tmp_path / "nginx").mkdir()
    service = ServeProcess(tmp_path, text)
    service.token = TOKEN
    with (
        service as serve,
        reverse_proxy("nginx", tmp_path / "nginx", serve.port) as proxy,
        checked_page(browser, proxy.url, ignore_https_errors=True) as checked,
    ):
        page = checked.open("stream/cam")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        checked.wait("document.querySelector('.stage')?.dataset.mode === 'webrtc'")
        expect(page.locator(".via")).to_contain_text(SESSION)
        (cookie,) = page.context.cookies()
        assert (cookie["path"], cookie["secure"]) == ("/", True)
        checked.expect_quiet("status of 401")


@pytest.mark.slow
def test_a_blocked_preview_port_hangs_nothing(browser: Browser, site: Site) -> None:
    """The page arrives through the proxy, but no packet of the video reaches the service."""
    proxy = site.proxies["caddy"]
    with checked_page(browser, proxy.url, ignore_https_errors=True) as checked:
        checked.page.add_init_script(NOWHERE)
        page = checked.open("stream/cam")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        checked.wait("!['webrtc', undefined].includes(document.querySelector('.stage')?.dataset.mode)")
        for view in ("engines", "", "stream/slow"):  # all views still open
            checked.open(view)
            expect(page.get_by_role("heading").first).to_be_visible()
        checked.expect_quiet("status of 401")


def test_results_and_images_are_not_buffered(proxy: ReverseProxy) -> None:
    for path, part in (
        ("results?streams=slow", b'"stream": "slow"'),
        ("streams/slow/video.mjpeg?fps=2", b"Content-Type: image/jpeg"),
    ):
        client = proxy.client()
        until = time.monotonic() + ROW_S
        client.request("GET", f"{PATH}/api/v1/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = client.getresponse()
        assert answer.status == 200
        seen = 0
        while seen < 2:
            seen += answer.readline().count(part)
            assert time.monotonic() < until, path
        client.close()
    socket_url = f"wss://{NAME}:{proxy.port}{PATH}/api/v1/results?streams=slow"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with connect(socket_url, sock=proxy.connect(), ssl=proxy.tls, server_hostname=NAME, additional_headers=headers) as reader:
        rows = [json.loads(reader.recv(ROW_S)) for _ in range(2)]
    assert [row["stream"] for row in rows] == ["slow", "slow"]


def test_a_whep_session_from_its_offer_to_its_end(proxy: ReverseProxy) -> None:
    whep = f"{PATH}/api/v1/streams/cam/whep"
    status, headers, text = ask(proxy, "POST", whep, OFFER, Content_Type="application/sdp")
    assert (status, text[:3]) == (201, "v=0")
    session = urljoin(f"https://{NAME}:{proxy.port}{whep}", headers["location"])
    assert session.startswith(f"{proxy.url}/api/v1/streams/cam/whep/")
    path = urlsplit(session).path
    status, _, text = ask(proxy, "GET", path)
    assert (status, json.loads(text)["stream"]) == (200, "cam")
    ufrag = re.findall("a=ice-ufrag:(.*)\r?\n", OFFER)[0].strip()
    trickle = {"Content_Type": "application/trickle-ice-sdpfrag", "If_Match": headers["etag"]}
    assert ask(proxy, "PATCH", path, FRAGMENT.format(ufrag), **trickle)[0] == 204
    assert ask(proxy, "DELETE", path)[0] == 200
    assert ask(proxy, "GET", path)[0] == 404


def test_large_uploads_and_redirects(proxy: ReverseProxy) -> None:
    status, headers, _ = ask(proxy, "POST", f"{PATH}/api/v1/infer", b"\xff\xd8" + bytes(2_000_000), Content_Type="image/jpeg")
    assert (status, headers["content-type"]) == (422, "application/problem+json")  # it reached the service, which rejects it
    status, headers, _ = ask(proxy, "GET", PATH)
    assert status in (301, 302)
    assert urljoin(f"{proxy.url}", headers["location"]) == f"{proxy.url}/"


def test_the_service_sees_the_address_of_the_client(site: Site, proxy: ReverseProxy) -> None:
    """The client claims to be another one, which the proxy does not believe."""
    source = f"127.0.0.{2 + list(site.proxies.values()).index(proxy)}"
    status, *_ = ask(
        proxy, "GET", f"{PATH}/api/v1/streams", source=source, Authorization="Bearer wrong", X_Forwarded_For="192.0.2.66"
    )
    assert status == 401
    site.service.wait(lambda: f"invalid token from {source}" in site.service.log, "the address in the log")
    assert "192.0.2.66" not in site.service.log


def test_requests_without_tls_are_redirected(site: Site) -> None:
    client = http.client.HTTPConnection("127.0.0.1", site.proxies["nginx"].plain_port, timeout=ROW_S)
    client.request("GET", f"{PATH}/?a=b", headers={"Host": NAME})
    answer = client.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{NAME}{PATH}/?a=b")
    client.close()
