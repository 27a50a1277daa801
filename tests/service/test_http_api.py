"""The routes for streams, snapshots, images and health: errors have one form, and no response contains secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.fakes import ADMIN, JPEG, LONG_S, OPEN, TOKENS, Api, FakeBackend, problem
from tests.support.result_schema import validate_row
from vision_infer import __version__
from vision_infer.core.errors import EngineError, OutputError
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.service.events import EngineEvent
from vision_infer.service.http.problem import problem_of
from vision_infer.service.results.hub import TooManyReadersError
from vision_infer.service.results.subscription import HubClosedError
from vision_infer.service.views import Snapshot

URL = "rtsp://user:secret@10.0.0.5/door?token=abc"
SHOWN = "rtsp://user:***@10.0.0.5/door?token=***"


def put(api: Api, name: str, body: Any, **more: Any) -> httpx.Response:
    return api.ask("PUT", f"/api/v1/streams/{name}", json=body, **more)


def test_streams_are_listed_without_their_passwords() -> None:
    api = Api()
    listed = api.get("/api/v1/streams").json()
    assert [one["name"] for one in listed] == ["door"]
    assert listed[0] == api.get("/api/v1/streams/door").json()
    assert listed[0]["settings"]["detect"] == SHOWN
    status = listed[0]["status"]
    assert (status["state"], status["size"], status["last_frame_age_ms"]) == ("live", {"width": 640, "height": 480}, 40.0)
    assert status["counts"] == {"gate": {"in": 5, "out": 4}}
    assert status["since"] == "2023-11-14T22:13:20.000Z"


def test_a_stream_is_created_changed_and_removed() -> None:
    api = Api()
    zone = {"polygon": [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]], "units": "relative"}
    made = put(api, "gate", {"url": "rtsp://10.0.0.6/gate", "fps": 5, "zones": {"yard": zone}})
    assert made.status_code == 201, made.text
    assert made.json()["origin"] == "api"
    assert made.json()["settings"]["zones"]["yard"]["polygon"][0] == [0.1, 0.1]
    again = put(api, "gate", made.json()["settings"] | {"fps": 10, "enabled": False})
    assert again.status_code == 200, again.text
    assert (again.json()["settings"]["fps"], again.json()["status"]) == (10, None)
    assert api.ask("DELETE", "/api/v1/streams/gate").status_code == 204
    problem(api.get("/api/v1/streams/gate"), 404, "unknown-stream")
    problem(api.ask("DELETE", "/api/v1/streams/gate"), 404, "unknown-stream")


def test_a_hidden_password_in_a_request_keeps_the_stored_one() -> None:
    api = Api()
    api.backend.put("gate", URL, origin="api")
    shown = api.get("/api/v1/streams/gate").json()["settings"]
    assert put(api, "gate", shown | {"fps": 3}).status_code == 200
    kept = api.backend.kept["gate"].settings
    assert (kept.detect, kept.fps) == (URL, 3)
    for body in (
        {"detect": SHOWN.replace("10.0.0.5", "evil.example")},
        {"detect": URL, "view": SHOWN},
        {"detect": URL, "degrade_detect": SHOWN},
        {"url": "rtsp://a:***@b"},
    ):
        document = problem(put(api, "gate", body), 422, "invalid")
        assert document["errors"][0]["message"].startswith("the password is hidden")
    assert api.backend.kept["gate"].settings == kept


def test_streams_of_the_settings_file_cannot_be_changed_over_the_api() -> None:
    api = Api()
    problem(put(api, "door", {"detect": "rtsp://10.0.0.5/other"}), 409, "conflict")
    problem(api.ask("DELETE", "/api/v1/streams/door"), 409, "conflict")


def test_the_number_of_streams_is_limited() -> None:
    api = Api(FakeBackend(max_streams=2))
    assert put(api, "a", {"detect": "rtsp://10.0.0.5/a"}).status_code == 201
    problem(put(api, "b", {"detect": "rtsp://10.0.0.5/b"}), 409, "conflict")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "detect"),
        ({"detect": URL, "fps": -1}, "fps"),
        ({"detect": URL, "color": "red"}, "color"),
        ({"detect": URL, "zones": {"a": {"polygon": []}}}, "zones.a.polygon"),
        ({"detect": "file:///etc/passwd"}, "detect"),
        ({"detect": "/etc/passwd"}, "detect"),
        ({"detect": "concat:/etc/passwd"}, "detect"),
        ({"detect": "rtsp://10.0.0.5/${HOME}"}, "detect"),
        ({"detect": URL, "view": "/dev/video0"}, "view"),
        ({"detect": URL, "degrade_detect": "/etc/passwd"}, "degrade_detect"),
        ({"detect": URL, "degrade_detect": URL, "min_size": 20}, "degrade_detect"),
        ({"detect": URL, "hook": "os:system"}, "hook"),
    ],
)
def test_invalid_settings_are_reported_without_secrets(body: dict[str, Any], field: str) -> None:
    api = Api()
    document = problem(put(api, "x", body), 422, "invalid")
    assert [one["field"] for one in document["errors"]] == [field]
    assert "secret" not in json.dumps(document)
    assert "x" not in api.backend.kept


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b"[" * 100_000, b"\xff\xfe"])
def test_a_body_that_is_not_json_is_rejected(content: bytes) -> None:
    answer = Api().ask("PUT", "/api/v1/streams/x", content=content, headers={"Content-Type": "application/json"})
    problem(answer, 400, "bad-request")


def test_other_content_types_and_json_values_are_rejected() -> None:
    api = Api()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json5"):
        answer = api.ask("PUT", "/api/v1/streams/x", content=b"{}", headers={"Content-Type": kind})
        problem(answer, 415, "unsupported-media-type")
    for body in ("null", "[]", "5", '"text"'):
        problem(
            api.ask("PUT", "/api/v1/streams/x", content=json.dumps(body), headers={"Content-Type": "application/json"}),
            422,
            "invalid",
        )


@pytest.mark.parametrize("name", ["~main", ".hidden", "a b", "x" * 65, "%2e%2e%2fetc", "a%00b", "%ff", "☃"])
def test_invalid_names_are_rejected(name: str) -> None:
    answer = put(Api(), name, {"detect": URL})
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_snapshot() -> None:
    api = Api()
    answer = api.get("/api/v1/streams/door/snapshot.jpg?annotated=true")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, JPEG, "image/jpeg")
    assert answer.headers["x-captured-at"] == "2023-11-14T22:13:20.000Z"
    assert answer.headers["cache-control"] == "no-store"
    problem(api.get("/api/v1/streams/nobody/snapshot.jpg"), 404, "unknown-stream")
    problem(api.get("/api/v1/streams/door/snapshot.jpg?timeout_s=1000"), 422, "invalid")
    api.backend.put("gate", URL, state=StreamState.CONNECTING)
    answer = api.get("/api/v1/streams/gate/snapshot.jpg")
    document = problem(answer, 503, "unavailable")
    assert (document["state"], document["reason"]) == ("connecting", "rtsp://a:***@host/ does not answer")
    assert "retry-after" in answer.headers


def test_silent_cameras_do_not_block_the_api() -> None:
    backend = FakeBackend()
    api = Api(backend)
    entered = threading.Semaphore(0)
    leave = threading.Event()

    def hang(name: str, annotated: bool, timeout_s: float) -> Snapshot:
        entered.release()
        leave.wait(LONG_S)
        return Snapshot(JPEG, 0, 1, 1)

    backend.snapshot = hang  # type: ignore[method-assign]

    async def ask() -> None:
        transport = httpx.ASGITransport(api.app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=LONG_S) as client:
            path = "/api/v1/streams/door/snapshot.jpg"
            waiting = [asyncio.ensure_future(client.get(path)) for _ in range(40)]
            for _ in range(8):
                while not entered.acquire(blocking=False):
                    await asyncio.sleep(0.001)
            assert (await client.get("/api/v1/streams")).status_code == 200
            assert problem(await client.get(path), 503, "unavailable")["detail"].startswith("too many")
            leave.set()
            assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}

    asyncio.run(ask())


def test_an_image_is_inferred() -> None:
    api = Api()
    path = "/api/v1/infer?model=tiny&confidence=0.5&classes=person, car"
    answer = api.ask("POST", path, content=JPEG, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200
    validate_row(answer.json())
    assert api.backend.pictures == [(JPEG, "tiny", 0.5, ("person", "car"))]
    api.ask("POST", "/api/v1/infer", content=JPEG, headers={"Content-Type": "IMAGE/JPEG; x=y"})
    assert api.backend.pictures[1] == (JPEG, None, None, None)


def test_a_body_that_is_not_an_image_is_rejected() -> None:
    api = Api()
    for kind in ("text/plain", "image/gif", "multipart/form-data; boundary=x", ""):
        answer = api.ask("POST", "/api/v1/infer", content=JPEG, headers={"Content-Type": kind})
        problem(answer, 415, "unsupported-media-type")
    for kind in ("image/png", "image/webp"):
        answer = api.ask("POST", "/api/v1/infer", content=JPEG, headers={"Content-Type": kind})
        assert "the body is image/jpeg" in problem(answer, 415, "unsupported-media-type")["detail"]
    problem(api.ask("POST", "/api/v1/infer", content=b"", headers={"Content-Type": "image/png"}), 400, "bad-request")
    problem(api.ask("POST", "/api/v1/infer", content=b"text", headers={"Content-Type": "image/png"}), 422, "invalid")
    problem(api.ask("POST", "/api/v1/infer?confidence=5", content=JPEG, headers={"Content-Type": "image/png"}), 422, "invalid")


def test_health_and_readiness() -> None:
    api = Api()
    assert (api.get("/healthz").text, api.get("/readyz").json()) == ("ok\n", {"ready": True, "reason": ""})
    api.backend.is_ready = (False, "loading nanodet-416")
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "reason": "loading nanodet-416"})
    assert api.get("/healthz").status_code == 200


def test_version_models_engines_and_events() -> None:
    api = Api()
    assert api.get("/api/v1/version").json()["version"] == __version__
    assert api.get("/api/v1/models").json()[0]["labels"] == ["person", "bicycle", "car"]
    engine = api.get("/api/v1/engines").json()[0]
    assert (engine["engine"], engine["batches"], engine["busy_s"]) == ("null-cpu-none", {"1": 10, "4": 5}, 1.0)
    api.backend.published = [StreamEvent("door", StreamState.REFUSED, api.clock.now - 10**9, "rtsp://a:b@c/ wants a password")]
    api.backend.published.append(EngineEvent("tiny", "swapped", "openvino-cpu-fp32", api.clock.now, "replaces null-cpu-none"))
    assert api.get("/api/v1/events").json() == [
        {
            "type": "state",
            "stream": "door",
            "state": "refused",
            "at": "2023-11-14T22:29:59.000Z",
            "reason": "rtsp://a:***@c/ wants a password",
        },
        {
            "type": "engine",
            "lane": "tiny",
            "change": "swapped",
            "engine": "openvino-cpu-fp32",
            "at": "2023-11-14T22:30:00.000Z",
            "reason": "replaces null-cpu-none",
        },
    ]


def test_errors_of_the_framework_have_the_same_form() -> None:
    api = Api()
    problem(api.get("/nothing"), 404, "not-found")
    problem(api.get("/api/v1/streams/"), 404, "not-found")
    answer = api.ask("POST", "/api/v1/streams/door")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, PUT, DELETE"
    problem(api.get("/api/v1/streams/door/snapshot.jpg?annotated=perhaps"), 422, "invalid")


def test_a_change_that_cannot_be_stored(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def create(*_: object) -> None:
        raise OutputError("streams/new.yaml: the stream cannot be stored: No space left on device")

    api = Api()
    monkeypatch.setattr(api.backend, "create", create)
    answer = api.ask("PUT", "/api/v1/streams/new", json={"detect": "rtsp://127.0.0.1/x"})
    assert "No space left" in problem(answer, 507, "not-stored")["detail"]
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EngineError("the engine broke on rtsp://a:secret@b/"), "internal"),
        (RuntimeError("a mistake with rtsp://a:secret@b/"), "internal"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_an_internal_error_is_reported_in_the_log_only(error: Exception, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    api.backend.broken = error
    with caplog.at_level(logging.ERROR, "vision_infer.http"):
        answer = api.get("/api/v1/streams")
    document = problem(answer, 500, kind)
    assert "secret" not in json.dumps(document) + caplog.text
    assert "mistake with" not in answer.text
    api.backend.broken = None
    assert api.get("/api/v1/streams").status_code == 200


def test_errors_of_the_package_become_problems() -> None:
    assert problem_of(TooManyReadersError("64 clients")).kind == "too-many-clients"
    assert problem_of(HubClosedError("stops")).kind == "stopping"


def test_headers_of_every_response() -> None:
    api = Api(tokens=TOKENS)
    for path, token in (("/healthz", None), ("/api/v1/streams", None), ("/api/v1/streams", ADMIN), ("/nothing", ADMIN)):
        answer = api.get(path, token=token)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


def test_requests_are_logged_without_their_query(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "vision_infer.http"):
        Api(tokens=OPEN).get("/api/v1/version?token=secret")
    assert [record.getMessage().rpartition(" ms")[0].rpartition(" ")[0] for record in caplog.records] == [
        "GET /api/v1/version 200"
    ]


def test_concurrent_requests_create_one_stream(tmp_path: Path) -> None:
    api = Api()

    def make(number: int) -> int:
        return put(api, "gate", {"detect": f"rtsp://10.0.0.{number}/gate"}).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(make, range(16)))
    assert codes.count(201) == 1
    assert set(codes) <= {200, 201, 409}


def test_a_stream_switches_to_another_model() -> None:
    api = Api()
    assert put(api, "gate", {"url": "rtsp://user:secret@10.0.0.6/gate", "fps": 5}).status_code == 201
    answer = api.ask("PUT", "/api/v1/streams/gate/model", json={"model": "other"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["settings"]["model"], answer.json()["settings"]["fps"]) == ("other", 5)
    assert api.backend.kept["gate"].settings.detect == "rtsp://user:secret@10.0.0.6/gate"
    problem(api.ask("PUT", "/api/v1/streams/none/model", json={"model": "other"}), 404, "unknown-stream")
    problem(api.ask("PUT", "/api/v1/streams/door/model", json={"model": "other"}), 409, "conflict")
    for body in ({"model": ""}, {}, {"model": "other", "fps": 3}):
        problem(api.ask("PUT", "/api/v1/streams/gate/model", json=body), 422, "invalid")


@pytest.mark.parametrize("time", ["0.5", "0", "1700000000", "now", "2026-11-24"])
def test_a_time_must_have_a_date_and_a_zone(time: str) -> None:
    api = Api()
    for path, name in (("streams/door/why", "at"), ("streams/door/frames", "to"), ("events", "from"), ("events", "to")):
        problem(api.get(f"/api/v1/{path}", params={name: time}), 422, "invalid")


def test_a_timeout_must_be_a_sensible_number() -> None:
    for timeout in ("5e-324", "0", "-1", "31", "nan"):
        problem(Api().get("/api/v1/streams/door/snapshot.jpg", params={"timeout_s": timeout}), 422, "invalid")
