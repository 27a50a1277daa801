"""The search for cameras and their inspection over the API. The service must not send requests to any other host."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from tests.service.fakes import ADMIN, JPEG, OPEN, TOKENS, VIEW, Api, FakeBackend, problem
from tests.support.hand_clock import HandClock
from tests.support.onvif_device import PASSWORD as ONVIF_PASSWORD
from tests.support.onvif_device import USER, FakeProfile, OnvifDevice, serving
from vision_infer.config.secrets.credentials import CameraCredentials
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.service.http.routes import cameras
from vision_infer.service.processes.front import make_front
from vision_infer.service.processes.worker_settings import WorkerPlace
from vision_infer.service.processes.workers import Workers
from vision_infer.stream.discovery.discover import DiscoveredDevice
from vision_infer.stream.onvif.camera import OnvifCamera, OnvifProfile

FIND, INSPECT = "/api/v1/cameras/find", "/api/v1/cameras/inspect"
PASSWORD = "the-password-of-the-camera"
DEVICES = [
    DiscoveredDevice(
        "10.0.0.5",
        "ACME Dome",
        "D-1",
        "city/Kiel",
        ("http://192.0.2.9/x", "http://10.0.0.5:8000/onvif/device_service"),
        "urn:uuid:1",
    ),
    DiscoveredDevice("10.0.0.6", "", "", "", ("http://169.254.169.254/latest", "http://[broken"), "urn:uuid:2"),
]


def profile(token: str, width: int, height: int, source: str = "source-1") -> OnvifProfile:
    url = f"rtsp://10.0.0.5:554/{token}"
    return OnvifProfile(token, f"Profile {token}", "h264", width, height, 12.5, 512, url, source)


CAMERA = OnvifCamera(
    manufacturer="ACME",
    model="D-1",
    name="Dome",
    clock_offset_s=3600.0,
    profiles=(profile("main", 1920, 1080), profile("sub", 640, 360), profile("second", 0, 0, "source-2")),
    snapshot_url="http://10.0.0.5/snapshot.jpg",
)


class Inspected:
    """Takes the place of the ONVIF client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.error: StreamError | None = None
        self.camera = CAMERA
        self.image: bytes | StreamError = JPEG
        monkeypatch.setattr(cameras, "camera_streams", self.streams)
        monkeypatch.setattr(cameras, "snapshot", self.snapshot)

    def streams(self, *asked: Any) -> OnvifCamera:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return self.camera

    def snapshot(self, camera: OnvifCamera, *asked: Any) -> bytes:
        assert camera is self.camera
        assert asked == self.asked[-1][1:], "the same user and the same allowed networks"
        if isinstance(self.image, StreamError):
            raise self.image
        return self.image


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> Inspected:
    return Inspected(monkeypatch)


def finds(monkeypatch: pytest.MonkeyPatch, search: Callable[[float], list[DiscoveredDevice]]) -> None:
    monkeypatch.setattr(cameras, "discover", search)


def inspect(api: Api, address: str, **more: Any) -> httpx.Response:
    return api.ask("POST", INSPECT, json={"address": address, "user": "admin", "password": PASSWORD, **more})


def test_devices_are_found_and_each_names_only_its_own_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    finds(monkeypatch, lambda wait_s: waits.append(wait_s) or DEVICES)  # type: ignore[func-returns-value]
    with caplog.at_level(logging.INFO, "vision_infer.http"):
        first, second = Api().ask("POST", FIND, json={"wait_s": 0.5}).json()
    assert waits == [0.5]
    assert first == {
        "address": "10.0.0.5",
        "service": "http://10.0.0.5:8000/onvif/device_service",
        "name": "ACME Dome",
        "hardware": "D-1",
        "location": "city/Kiel",
        "credentials": False,
    }
    assert second["service"] == "http://10.0.0.6/onvif/device_service"
    assert "camera search by 127.0.0.1: 2 devices answered" in caplog.text


def test_a_search_that_cannot_be_sent_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: float) -> list[DiscoveredDevice]:
        raise StreamError("discovery failed: no message can be sent to the local network", "Check the network connection.")

    finds(monkeypatch, fail)
    answer = problem(Api().ask("POST", FIND, json={}), 503, "unavailable")
    assert answer["detail"].endswith("to the local network. Check the network connection.")


@pytest.mark.parametrize("body", [{"wait_s": 0.1}, {"wait_s": 60}, {"wait_s": "NaN"}, {"networks": ["10.0.0.0/8"]}, []])
def test_a_search_is_bounded(body: object) -> None:
    problem(Api().ask("POST", FIND, json=body), 422, "invalid")


def test_viewers_can_neither_search_nor_inspect(inspected: Inspected, monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, lambda _: DEVICES)
    api = Api(tokens=TOKENS)
    for path, body in ((FIND, {}), (INSPECT, {"address": "10.0.0.5"})):
        problem(api.ask("POST", path, VIEW, json=body), 403, "forbidden")
        problem(api.ask("POST", path, json=body), 401, "unauthorized")
    assert inspected.asked == []
    assert api.ask("POST", FIND, ADMIN, json={}).status_code == 200
    assert api.ask("POST", INSPECT, ADMIN, json={"address": "10.0.0.5"}).status_code == 200


def test_a_camera_shows_its_streams_the_ones_to_use_and_an_image(inspected: Inspected, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        response = inspect(Api(), "10.0.0.5:8000")
    url = "http://10.0.0.5:8000/onvif/device_service"
    assert inspected.asked == [(url, "admin", PASSWORD, cameras.PRIVATE_NETWORKS)]
    answer = response.json()
    assert answer["profiles"][1] == {
        "token": "sub",
        "name": "Profile sub",
        "codec": "h264",
        "size": {"width": 640, "height": 360},
        "frame_rate": 12.5,
        "bit_rate": 512_000,
        "url": "rtsp://10.0.0.5:554/sub",
    }
    assert answer["profiles"][2]["size"] is None
    assert answer["channels"] == [{"detect": "sub", "view": "main"}, {"detect": "second", "view": "second"}]
    assert (answer["manufacturer"], answer["model"], answer["clock_offset_s"]) == ("ACME", "D-1", 3600)
    assert answer["snapshot"].startswith("data:image/jpeg;base64,/9j/")
    assert f"camera inspection by 127.0.0.1: {url}: 3 streams" in caplog.text
    assert PASSWORD not in caplog.text + response.text


def test_a_camera_without_an_image_shows_its_streams(inspected: Inspected) -> None:
    inspected.image = RefusedError("http://10.0.0.5/snapshot.jpg: not a JPEG image")
    answer = inspect(Api(), "10.0.0.5").json()
    assert (answer["snapshot"], len(answer["profiles"])) == (None, 3)


def test_a_failed_login_is_explained_and_logged_without_secrets(inspected: Inspected, caplog: pytest.LogCaptureFixture) -> None:
    inspected.error = RefusedError("http://10.0.0.5: authentication failed (401)", "Check the user name and password.")
    with caplog.at_level(logging.INFO):
        response = inspect(Api(), f"http://10.0.0.5/onvif?password={PASSWORD}")
    answer = problem(response, 422, "invalid")
    assert answer["detail"] == "http://10.0.0.5: authentication failed (401). Check the user name and password."
    assert "camera inspection by 127.0.0.1: http://10.0.0.5: authentication failed (401)\n" in caplog.text
    assert PASSWORD not in caplog.text + response.text


def test_stored_credentials_are_used_and_never_shown(
    inspected: Inspected, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finds(monkeypatch, lambda _: DEVICES)
    backend = FakeBackend()
    entry = CameraCredentials(match="10.0.0.5", user="viewer", password=SecretStr(PASSWORD))
    backend.settings = backend.settings.model_copy(update={"credentials": (entry,)})
    inspected.camera = replace(CAMERA, profiles=(replace(profile("sub", 640, 360), url=f"rtsp://10.0.0.5/?password={PASSWORD}"),))
    api = Api(backend)
    with caplog.at_level(logging.DEBUG):
        found = api.ask("POST", FIND, json={})
        answers = [api.ask("POST", INSPECT, json={"address": address}) for address in ("10.0.0.5", "10.0.0.6")]
    assert [device["credentials"] for device in found.json()] == [True, False]
    assert [asked[1:3] for asked in inspected.asked] == [("viewer", PASSWORD), ("", "")]
    assert answers[0].json()["profiles"][0]["url"] == "rtsp://10.0.0.5/?password=***"
    assert PASSWORD not in found.text + answers[0].text + caplog.text
    axis = "rtsp://10.0.0.5/onvif-media/media.amp?profile=a&anything=60"
    inspected.camera = replace(CAMERA, profiles=(replace(profile("sub", 640, 360), url=axis),))
    answer = api.ask("POST", INSPECT, json={"address": "10.0.0.5"})
    assert answer.json()["profiles"][0]["url"] == axis, "otherwise the page could not add it"
    inspected.camera = replace(CAMERA, profiles=(replace(profile("sub", 640, 360), url=f"rtsp://10.0.0.5/?password={PASSWORD}"),))
    assert inspect(api, "10.0.0.5").json()["profiles"][0]["url"].endswith(PASSWORD), "the client sent it itself"


REFUSED = [
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "169.254.169.254",
    "http://169.254.169.254/latest/meta-data/",
    "100.100.100.200",
    "8.8.8.8",
    "[2001:db8::5]",
    "239.255.255.250",
    "255.255.255.255",
    "10.0.0.5:22",
    "10.0.0.5:25",
    "10.0.0.5:0",
    "10.0.0.5:99999",
    "10.0.0.5:port",
    "rtsp://10.0.0.5/",
    "file:///etc/passwd",
    "gopher://10.0.0.5:70/x",
    "/etc/passwd",
    "http://",
    " ",
    "http://user:secret@10.0.0.5/",
    "http://10.0.0.5@8.8.8.8/",
    "http://10.0.0.5\\@8.8.8.8/",
    "http://10.0.0.5/\r\nHost: other",
    "http://10.0.0.5/a b",
]


@pytest.mark.parametrize("address", REFUSED)
def test_no_request_is_sent_to_other_hosts_and_ports(inspected: Inspected, address: str) -> None:
    answer = problem(inspect(Api(), address), 422, "invalid")
    assert answer["detail"].startswith("the ONVIF address ")
    assert "secret" not in str(answer)
    assert inspected.asked == []


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("192.168.1.20", "http://192.168.1.20/onvif/device_service"),
        (" https://172.16.0.9/ ", "https://172.16.0.9/onvif/device_service"),
        ("http://camera.local:2020/onvif/service?x=1", "http://camera.local:2020/onvif/service?x=1"),
        ("http://10.0.0.5#@8.8.8.8/", "http://10.0.0.5#@8.8.8.8/"),
    ],
)
def test_a_host_is_enough(inspected: Inspected, address: str, url: str) -> None:
    assert inspect(Api(), address).status_code == 200
    assert inspected.asked[0][0] == url
    assert httpx.URL(url).host != "8.8.8.8"


def test_allowed_networks_take_the_place_of_private_ones(inspected: Inspected) -> None:
    api = Api(FakeBackend(allow_networks=["127.0.0.0/8", "fd00::/8"]))
    assert inspect(api, "127.0.0.1:8000").status_code == 200
    assert inspect(api, "[fd00::5]").status_code == 200
    answer = problem(inspect(api, "10.0.0.5"), 422, "invalid")
    assert answer["detail"].endswith("Allowed are 127.0.0.0/8, fd00::/8; see service.allow_networks.")
    assert [asked[3] for asked in inspected.asked] == [("127.0.0.0/8", "fd00::/8")] * 2


def onvif_device(**faults: Any) -> OnvifDevice:
    profiles = [
        FakeProfile("main", "H265", 2560, 1440, "rtsp://192.0.2.9:8554/main"),
        FakeProfile("sub", "H264", 640, 360, "rtsp://10.0.0.1/sub", rate=10),
    ]
    return OnvifDevice(profiles, clock_offset_s=3600, **faults)


def test_a_camera_on_the_network_is_asked() -> None:
    api = Api(FakeBackend(allow_networks=["127.0.0.0/8"]))
    login = {"user": USER, "password": ONVIF_PASSWORD}
    with serving(onvif_device()) as device:
        answer = inspect(api, f"127.0.0.1:{device.port}", **login).json()
        problem(inspect(api, f"127.0.0.1:{device.port}"), 422, "invalid")
        attempts = device.attempts
    assert [(one["token"], one["url"], one["frame_rate"]) for one in answer["profiles"]] == [
        ("main", "rtsp://127.0.0.1:8554/main", 25),
        ("sub", "rtsp://127.0.0.1/sub", 10),
    ], "the addresses that the camera names lead to itself"
    assert answer["channels"] == [{"detect": "sub", "view": "sub"}]
    assert (answer["name"], answer["clock_offset_s"]) == ("Front Door", pytest.approx(3600, abs=2))
    assert answer["snapshot"].startswith("data:image/jpeg;base64,/9j/")
    assert attempts <= 12, "a wrong password must not lock the account"


def test_a_name_that_leads_to_this_machine_is_refused() -> None:
    with serving(onvif_device()) as device:
        answer = problem(inspect(Api(), f"localhost:{device.port}"), 422, "invalid")
        assert device.requests == []
    assert "outside the allowed networks" in answer["detail"]


@pytest.mark.slow
def test_a_camera_that_never_ends_its_answer_is_given_up() -> None:
    began = time.monotonic()
    with serving(onvif_device(drip_s=0.05)) as device:
        answer = problem(inspect(Api(FakeBackend(allow_networks=["127.0.0.0/8"])), f"127.0.0.1:{device.port}"), 422, "invalid")
    assert time.monotonic() - began < 20
    assert "no answer within" in answer["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"address": "10.0.0.5", "password": PASSWORD * 20},
        {"address": "10.0.0.5", "user": "u" * 129, "password": PASSWORD},
        {"address": "1" * 513, "password": PASSWORD},
        {"address": "10.0.0.5", "password": [PASSWORD]},
        {"password": PASSWORD},
        {"address": "10.0.0.5", "password": PASSWORD, "proxy": "http://10.0.0.1"},
    ],
)
def test_an_invalid_body_is_rejected_without_its_password(inspected: Inspected, body: dict[str, Any]) -> None:
    response = Api().ask("POST", INSPECT, json=body)
    problem(response, 422, "invalid")
    assert PASSWORD not in response.text
    assert inspected.asked == []


def test_a_huge_body_is_not_read(inspected: Inspected) -> None:
    problem(Api().ask("POST", INSPECT, content=b"x" * 1_000_001), 413, "too-large")
    assert inspected.asked == []


def at_once(api: Api, path: str, body: object, count: int) -> list[int]:
    """Send a number of requests concurrently; return their statuses."""

    async def send() -> list[int]:
        transport = httpx.ASGITransport(api.app, client=("127.0.0.1", 40_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            answers = await asyncio.gather(*(client.post(path, json=body) for _ in range(count)))
        return [answer.status_code for answer in answers]

    return asyncio.run(send())


class Together:
    """Counts calls that run at the same time, and lets them wait for a moment."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()  # guards the counts, which several worker threads change

    def __call__(self, *_: object) -> Any:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.05)
        with self._lock:
            self._now -= 1
        return []


def test_one_search_runs_at_a_time_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Together()
    finds(monkeypatch, together)
    statuses = at_once(Api(), FIND, {}, 8)
    assert (statuses.count(200), statuses.count(503)) == (5, 3)
    assert together.most == 1


def test_few_cameras_are_asked_at_the_same_time(inspected: Inspected, monkeypatch: pytest.MonkeyPatch) -> None:
    together = Together()
    monkeypatch.setattr(cameras, "camera_streams", lambda *asked: together() or inspected.streams(*asked))
    statuses = at_once(Api(), INSPECT, {"address": "10.0.0.5"}, 20)
    assert (statuses.count(200), statuses.count(503)) == (16, 4)
    assert together.most == 4


def test_the_service_in_front_of_workers_searches_itself(
    inspected: Inspected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    finds(monkeypatch, lambda _: DEVICES)
    settings = FakeBackend(allow_networks=["10.0.0.0/8"]).settings
    workers = Workers(settings, [WorkerPlace("a", "cpu"), WorkerPlace("b", "cpu")], tmp_path, HandClock())
    try:
        client = TestClient(make_front(workers, OPEN, HandClock()), base_url="http://127.0.0.1")
        assert [device["address"] for device in client.post(FIND, json={}).json()] == ["10.0.0.5", "10.0.0.6"]
        assert client.post(INSPECT, json={"address": "10.0.0.5"}).json()["model"] == "D-1"
        assert client.post(INSPECT, json={"address": "192.168.0.5"}).status_code == 422
    finally:
        workers.close()
