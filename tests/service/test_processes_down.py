"""The service in front of workers that do not run: what it answers itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.testclient import TestClient

from tests.support.hand_clock import HandClock
from vision_infer.config.serve import StreamSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.token_file import digest_of
from vision_infer.service.processes.front import make_front
from vision_infer.service.processes.worker_client import WorkerClient, WorkerRequest
from vision_infer.service.processes.worker_settings import GivenStream, WorkerPlace, streams_from_plain
from vision_infer.service.processes.workers import MOVE_AFTER, Workers

TOKEN = "camera-password"


class Down:
    """A service whose workers have not started."""

    def __init__(self, folder: Path) -> None:
        file = folder / "cameras.yaml"
        file.write_text(f"streams: {{door: {{url: 'rtsp://user:{TOKEN}@10.0.0.7/door'}}}}\n")
        settings = load_settings(file, [], {}, {})
        self.workers = Workers(settings, [WorkerPlace("a", "cpu"), WorkerPlace("b", "cpu")], folder, HandClock())
        made = StreamSettings(detect=f"rtsp://user:{TOKEN}@10.0.0.8/gate")
        self.workers.files.write("gate", made)
        self.workers.placement.put("door", settings.streams["door"], "file")
        self.workers.placement.put("gate", made, "api")
        self.client = TestClient(make_front(self.workers, Tokens({}), HandClock()), base_url="http://127.0.0.1")


@pytest.fixture
def down(tmp_path: Path) -> Iterator[Down]:
    service = Down(tmp_path)
    yield service
    service.workers.close()


def test_streams_are_listed_with_the_reason(down: Down) -> None:
    down.workers.processes["b"].reason = "killed by signal 9; it starts again in 0.5 s"
    listed = {stream["name"]: stream["status"] for stream in down.client.get("/api/v1/streams").json()}
    assert [listed[name]["state"] for name in ("door", "gate")] == ["backing_off", "backing_off"]
    assert listed["gate"]["reason"] == "worker b: killed by signal 9; it starts again in 0.5 s"
    assert down.client.get("/api/v1/streams/gate").json()["status"] == listed["gate"]
    assert TOKEN not in json.dumps(listed)


def test_what_needs_a_worker_is_unavailable_for_the_moment(down: Down) -> None:
    for path in ("/api/v1/streams/gate/snapshot.jpg", "/api/v1/engines", "/api/v1/cost", "/readyz"):
        answer = down.client.get(path)
        assert (answer.status_code, "a: starting" in answer.text or "Retry-After" in answer.headers) == (503, True), path
    assert down.client.put("/api/v1/streams/new", json={"url": "rtsp://10.0.0.9/x"}).status_code == 503
    assert down.client.post("/api/v1/infer", content=b"x", headers={"Content-Type": "image/jpeg"}).status_code == 503
    assert down.client.get("/api/v1/events/0123456789abcdef/clip.mp4").status_code == 503
    assert 'vision_infer_worker_up{worker="a"} 0.0' in down.client.get("/metrics").text
    assert down.client.get("/healthz").status_code == 200
    assert down.client.delete("/api/v1/session").status_code == 204


def test_a_stream_that_ends_its_worker_can_be_removed(down: Down) -> None:
    assert down.client.delete("/api/v1/streams/gate").status_code == 204
    assert down.workers.files.read() == {}
    assert down.client.get("/api/v1/streams/gate").status_code == 404
    assert down.client.delete("/api/v1/streams/door").status_code == 503


def test_a_worker_starts_with_its_streams_only(down: Down) -> None:
    starts = {name: down.workers.start_of(name) for name in ("a", "b")}
    assert {name: (set(start.settings.streams), set(start.streams)) for name, start in starts.items()} == {
        "a": ({"door"}, set()),
        "b": (set(), {"gate"}),
    }
    assert starts["a"].token == starts["b"].token
    assert len(starts["a"].token) >= 32
    assert starts["a"].socket != starts["b"].socket
    assert starts["a"].socket.parent.stat().st_mode & 0o077 == 0


def test_the_end_of_a_worker_is_an_event_of_its_streams(down: Down) -> None:
    down.workers.went_down("a", "exit status 70")
    assert [(event.stream, event.reason) for event in down.workers.events] == [("door", "worker a: exit status 70")]


def test_streams_of_a_worker_that_cannot_start_move_but_not_those_that_may_have_ended_it(
    down: Down, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
    for name, process in down.workers.processes.items():
        monkeypatch.setattr(process, "send", lambda line, name=name: orders[name].append(json.loads(line)))
    failing, other = down.workers.processes["b"], down.workers.processes["a"]
    other.ready = other.up = True
    failing.failed_starts = MOVE_AFTER - 1
    down.workers.went_down("b", "exit status 4")
    assert (down.workers.placed("gate").worker, orders["a"]) == ("b", [])
    failing.failed_starts = MOVE_AFTER
    down.workers.went_down("b", "exit status 4")
    assert down.workers.placed("gate").worker == "a"
    (order,) = orders["a"]
    assert set(order["settings"]["values"]["streams"]) == {"door"}
    assert order["streams"]["gate"]["origin"] == "api"
    assert streams_from_plain(order["streams"])["gate"].settings == down.workers.placed("gate").settings
    failing.ready = failing.up = True
    other.ready = other.up = False
    other.failed_starts = MOVE_AFTER
    down.workers.went_down("a", "exit status 4")
    assert [set(order["settings"]["values"]["streams"]) for order in orders["b"]] == [{"door"}]
    assert {down.workers.placed(name).worker for name in ("door", "gate")} == {"b"}


def test_a_stream_of_the_command_line_keeps_its_change_when_its_worker_starts_again(tmp_path: Path) -> None:
    settings = load_settings(None, ["rtsp://10.0.0.7/door"], {}, {})
    workers = Workers(settings, [WorkerPlace("a", "cpu"), WorkerPlace("b", "cpu")], tmp_path, HandClock())
    given = settings.streams["door"]
    worker = workers.placement.put("door", given, "command_line").worker
    assert workers.start_of(worker).streams == {}
    changed = given.model_copy(update={"weight": 2.0})
    workers.placement.put("door", changed, "command_line")
    start = workers.start_of(worker)
    assert start.streams == {"door": GivenStream(changed, "command_line")}
    assert start.settings.streams == {"door": given}
    assert set(start.settings.url_streams) == {"door"}
    workers.close()


@pytest.mark.parametrize("end", ["whep/..", "whep/../.", "./whep/..", "whep/%2e%2e"])
def test_a_viewer_cannot_reach_another_path_through_dots(down: Down, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    sent: list[tuple[str, bytes]] = []

    async def send(client: WorkerClient, request: WorkerRequest) -> httpx.Response:
        sent.append((request.method, httpx.URL("http://worker").copy_with(raw_path=request.target.encode()).raw_path))
        return httpx.Response(404)

    monkeypatch.setattr(WorkerClient, "send", send)
    for process in down.workers.processes.values():
        process.up = True
    path = f"/api/v1/streams/gate/{end}"
    tokens = Tokens({digest_of("viewer-token"): "view"})
    headers = [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer viewer-token")]
    scope = {
        "type": "http",
        "method": "DELETE",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "root_path": "",
        "state": {},
    }
    statuses: list[int] = []

    arriving = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return arriving.pop() if arriving else {"type": "http.disconnect"}

    async def answer(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(make_front(down.workers, tokens, HandClock())(scope, receive, answer))
    assert ("DELETE", b"/api/v1/streams/gate") not in sent
    assert statuses[0] in (403, 404)
    assert down.workers.placement.get("gate") is not None
