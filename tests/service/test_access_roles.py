"""Roles with cameras: no route, row, metric or error shows a camera outside the role."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from websockets.sync.client import connect

from tests.service.fakes import (
    ADMIN,
    JPEG,
    LONG_S,
    TOKENS,
    VIEW,
    WALL_NS,
    Api,
    FakeBackend,
    FakeNodes,
    frame,
    node,
    problem,
    result,
)
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.config.access.settings import AccessSettings
from vision_infer.config.serve import ServiceSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.scene_event import SceneEvent
from vision_infer.pipeline.status import Flight, StreamEvent, StreamState
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.service.clips.event_log import EventRecord
from vision_infer.service.events import DegradeEvent, EngineEvent, MovedEvent
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.access.principal import Principal, check_rights, from_plain, is_change
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.server import WebServer
from vision_infer.service.processes.front import make_front
from vision_infer.service.results.hub import ResultHub
from vision_infer.sink.delivery.carrier import SinkStatus
from vision_infer.telemetry.flight_recorder import FlightRecorder

NAMES = ("entrance-cam", "yard-cam", "vault-cam", "lobby-cam")
SEEN = ("entrance-cam", "yard-cam")
LEVELS = ("view", "operator", "admin")
SETTINGS = AccessSettings.model_validate({"roles": {f"some-{level}": {"level": level, "cameras": SEEN} for level in LEVELS}})
METHODS = ("get", "head", "options", "post", "put", "patch", "delete")


def filled_backend(folder: Path) -> FakeBackend:
    """Return a service whose every part names all cameras."""
    backend = FakeBackend(requests_per_second=1e6)
    backend.kept.clear()
    now = SYSTEM_CLOCK.monotonic_ns()
    backend.flight_record = Flight(FlightRecorder(SYSTEM_CLOCK), (), 10.0)
    for number, name in enumerate(NAMES):
        backend.put(name, f"rtsp://10.0.0.5/{name}", origin="api")
        backend.published += [
            StreamEvent(name, StreamState.LIVE, now, f"{name} is live", 0),
            DegradeEvent(name, DegradationStep.RATE, DegradationStep.NONE, now, f"{name} is slow"),
            MovedEvent(name, "a", "b", 2, now, f"{name} moved"),
        ]
        clip = folder / f"{name}.mp4"
        clip.write_bytes(name.encode())
        event = SceneEvent("cross", "gate", 1, 0, "person", None, "in", (1, 0), f"{number:016x}").to_dict()
        record = EventRecord(
            f"{number:016x}", name, WALL_NS, event, "ready", clip=clip, from_wall_ns=WALL_NS, seconds=1.0, bytes=9
        )
        backend.clips.events.add(record)
        backend.sink_statuses.append(SinkStatus(name, "jsonl", False, f"{name}.jsonl: No space left", 0, 0, 0, None, 0, {}))
    backend.published.append(EngineEvent("main", "swapped", "null-cpu-none", now))
    backend.nodes = FakeNodes(node("a", *NAMES))
    return backend


class Team:
    """A service with a token for each level, limited to some cameras."""

    def __init__(self, folder: Path) -> None:
        self.backend = filled_backend(folder)
        self.api = Api(self.backend, TOKENS, access=lambda clock: Access(SETTINGS, folder, clock))
        assert self.api.access is not None
        create = self.api.access.tokens.create
        self.tokens = {level: create(level, f"person:{level}", f"some-{level}", "", 3600)[1] for level in LEVELS}
        self.document: dict[str, Any] = self.api.get("/api/v1/openapi.json", token=ADMIN).json()


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Team:
    return Team(tmp_path_factory.mktemp("team"))


def path_of(template: str, stream: str) -> str:
    """Return a path about a stream."""
    event = f"{NAMES.index(stream):016x}" if stream in NAMES else "f" * 16
    if "/streams/" in template:
        return template.replace("{name}", stream).replace("{session}", "0123")
    return template.replace("{event_id}", event).replace("{name}", stream).replace("{token_id}", stream)


OPERATIONS = st.tuples(st.sampled_from(METHODS), st.integers(0, 200))


def check_answers(team: Team, chosen: tuple[str, int], level: str, hidden: str, query: dict[str, str]) -> None:
    """Check that the answers about a hidden stream are those about one that does not exist, and that none names another."""
    templates = [path for path in team.document["paths"] if path != "/api/v1/results"]  # its rows have a test below
    method, template = chosen[0], templates[chosen[1] % len(templates)]
    bodies = {"/model": {"model": "tiny"}, "/streams/{name}": {"detect": "rtsp://10.0.0.9/x"}}
    body = next((body for end, body in bodies.items() if template.endswith(end)), {"draining": True})

    def ask(stream: str) -> tuple[int, str, str]:
        asked = {name: value.replace("?", stream) for name, value in query.items()}
        answer = team.api.ask(method, path_of(template, stream), token=team.tokens[level], params=asked, json=body)
        headers = {name: value for name, value in answer.headers.items() if name != "set-cookie"}  # random
        return answer.status_code, answer.text, str(headers)

    before = dict(team.backend.kept)
    about_hidden, about_nothing = ask(hidden), ask("ghost-cam")
    endless = method == "get" and template.endswith("video.mjpeg")
    about_seen = (200, "", "") if endless else ask(SEEN[0])
    event = f"{NAMES.index(hidden):016x}"
    alike = [text.replace(hidden, "X").replace(event, "X") for text in about_hidden[1:]]
    assert about_hidden[0] == about_nothing[0], (method, template)
    assert alike == [text.replace("ghost-cam", "X").replace("f" * 16, "X") for text in about_nothing[1:]], (method, template)
    for name in NAMES[2:]:
        assert name not in about_seen[1] + about_seen[2], (method, template)
        assert team.backend.kept[name] is before[name]
    team.backend.kept = before


QUERIES = st.sampled_from([{}, {"type": "scene"}, {"stream": "?"}])


def drawn(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the settings and values of a test with this number of requests."""
    fixtures = [hypothesis.HealthCheck.function_scoped_fixture]
    limits = hypothesis.settings(max_examples=examples, deadline=None, suppress_health_check=fixtures)
    values = given(OPERATIONS, st.sampled_from(LEVELS), st.sampled_from(NAMES[2:]), QUERIES)
    return lambda test: limits(values(test))


@drawn(120)
def test_no_answer_shows_a_camera_outside_the_role(
    team: Team, chosen: tuple[str, int], level: str, hidden: str, query: dict[str, str]
) -> None:
    check_answers(team, chosen, level, hidden, query)


@pytest.mark.slow
@drawn(2000)
def test_many_answers_show_no_camera_outside_the_role(
    team: Team, chosen: tuple[str, int], level: str, hidden: str, query: dict[str, str]
) -> None:
    check_answers(team, chosen, level, hidden, query)


def status_of(principal: Principal, method: str, path: str) -> int:
    """Return the status with which a request is refused; 200 if it is allowed."""
    try:
        check_rights(principal, "http", method, path)
    except Problem as error:
        return error.status_code
    return 200


def test_every_operation_was_covered_by_a_rule(team: Team) -> None:
    """What is not listed for roles with some cameras is forbidden, so that a new route shows them nothing."""
    limited = Principal("", "", "r", "admin", frozenset(SEEN))
    allowed = set()
    for template, operations in team.document["paths"].items():
        for method in operations:
            if status_of(limited, method.upper(), path_of(template, SEEN[0])) != 403:
                allowed.add(template)
    about_streams = {template for template in team.document["paths"] if template.startswith("/api/v1/streams")}
    others: tuple[str, ...] = ("results", "events", "events/{event_id}/clip.mp4", "models", "engines")
    others += ("engines/{name}/passport", "cameras/makers")
    others += ("version", "infer", "session", "tokens")
    assert allowed == about_streams | {f"/api/v1/{name}" for name in (*others, "tokens/{token_id}")}
    for path in ("/metrics", "/api/v1/sinks", "/api/v1/cost", "/api/v1/nodes", "/api/v1/cameras.yaml", "/readyz", "/new"):
        problem(team.api.get(path, token=team.tokens["admin"]), 403, "forbidden")


def test_lists_contain_the_cameras_of_the_role(team: Team) -> None:
    def get(path: str, **more: Any) -> Any:
        return team.api.get(path, token=team.tokens["view"], **more).json()

    assert [stream["name"] for stream in get("/api/v1/streams")] == list(SEEN)
    assert {event.get("stream") for event in get("/api/v1/events")} == {*SEEN, None}
    assert [event["stream"] for event in get("/api/v1/events", params={"type": "scene", "limit": 1})] == [SEEN[1]]
    assert team.api.get(f"/api/v1/events/{0:016x}/clip.mp4", token=team.tokens["view"]).content == SEEN[0].encode()
    assert len(team.api.get("/api/v1/streams", token=VIEW).json()) == len(NAMES)
    assert NAMES[2] in team.api.get("/metrics", token=VIEW).text


def test_similar_names_are_not_suggested(team: Team) -> None:
    roles = AccessSettings.model_validate({"roles": {"r": {"cameras": ["vault-can"]}}})
    assert roles.role("r") is not None
    limited = Principal("", "", "r", "admin", frozenset({"vault-can"}))

    def suggest(name: str, *_: object) -> Any:
        from vision_infer.service.errors import UnknownStreamError

        raise UnknownStreamError(f"stream {name} does not exist: did you mean vault-cam?")

    from vision_infer.service.http.access.visible import VisibleBackend

    backend: Any = VisibleBackend(team.backend, limited)
    original, team.backend.stream = team.backend.stream, suggest  # type: ignore[method-assign]
    try:
        with pytest.raises(Exception, match=r"^stream vault-can does not exist$"):
            backend.stream("vault-can")
    finally:
        team.backend.stream = original  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("level", "model", "put", "node_status"), [("view", 403, 403, 403), ("operator", 200, 403, 403), ("admin", 200, 200, 403)]
)
def test_levels(tmp_path: Path, level: str, model: int, put: int, node_status: int) -> None:
    team = Team(tmp_path)
    token = team.tokens[level]
    path = f"/api/v1/streams/{SEEN[0]}"
    assert team.api.ask("PUT", f"{path}/model", token=token, json={"model": "tiny"}).status_code == model
    graph = team.api.ask("PUT", f"{path}/model", token=token, json={"model": "/tmp/other.onnx"})
    assert graph.status_code == (200 if level == "admin" else 403)
    assert team.api.ask("POST", f"{path}/counts/reset", token=token).status_code == model
    own = {"detect": f"rtsp://10.0.0.5/{SEEN[0]}"}
    assert team.api.ask("PUT", path, token=token, json=own | {"fps": 5}).status_code == put
    for kind in ("detect", "view", "degrade_detect"):
        urls = own | {kind: "rtsp://10.0.0.5/vault-cam"}
        detail = problem(team.api.ask("PUT", path, token=token, json=urls), 403, "forbidden")["detail"]
        assert "URLs" in detail or level != "admin"  # it could show any camera under this name
    assert team.api.ask("PUT", "/api/v1/nodes/a", token=token, json={"draining": True}).status_code == 403
    assert team.api.ask("DELETE", path, token=token).status_code == {200: 204}.get(put, put)
    if put == 200:
        problem(team.api.ask("PUT", path, token=token, json=own), 403, "forbidden")
        assert team.api.ask("PUT", path, token=ADMIN, json=own).status_code == 201
    image = team.api.ask("POST", "/api/v1/infer", token=token, content=JPEG, headers={"Content-Type": "image/jpeg"})
    assert image.status_code == 200


def test_the_view_token_has_the_role_view(tmp_path: Path) -> None:
    settings = AccessSettings.model_validate({"roles": {"view": ["yard-cam"]}})
    api = Api(filled_backend(tmp_path), TOKENS, access=lambda clock: Access(settings, tmp_path, clock))
    session = api.get("/api/v1/session", token=VIEW).json()
    assert (session["role_name"], session["cameras"]) == ("view", ["yard-cam"])
    assert [stream["name"] for stream in api.get("/api/v1/streams", token=VIEW).json()] == ["yard-cam"]
    assert len(api.get("/api/v1/streams", token=ADMIN).json()) == len(NAMES)


@pytest.mark.parametrize("query", ["", "&streams=vault-cam,yard-cam", "&streams=vault-cam", "&only_with_detections=true"])
def test_rows_of_other_cameras_are_not_queued(team: Team, query: str) -> None:
    backend = team.backend
    with WebServer(ServiceSettings(port=0), ResultHub()) as web:  # its hub is closed at the end
        web.start(team.api.app)
        url = f"{web.url.replace('http', 'ws')}/api/v1/results?states=true{query}"
        with connect(url, additional_headers={"Authorization": f"Bearer {team.tokens['view']}"}) as socket:
            wait_until(lambda: len(backend.hub._readers) == 1, "one reader")
            (reader,) = backend.hub._readers
            expected = frozenset({"": SEEN, "&only_with_detections=true": SEEN}.get(query, re.findall("yard-cam", query)))
            for index, name in enumerate(NAMES):
                backend.hub.write(frame(name, index), result(name, index))
                backend.hub.publish(StreamEvent(name, StreamState.LIVE, 0, name, 0))
                backend.hub.publish(DegradeEvent(name, DegradationStep.RATE, DegradationStep.NONE, 0, name))
                backend.hub.publish(MovedEvent(name, "a", "b", 2, 0, name))
            backend.hub.publish(EngineEvent("main", "swapped", "null-cpu-none", 0))
            assert reader.wanted.streams == expected
            assert set(reader._buffers) <= expected
            rows = [json.loads(socket.recv(LONG_S)) for _ in range(4 * len(expected) + 1)]
            assert {row["stream"] for row in rows if "stream" in row} == expected
            assert not any(name in json.dumps(rows) for name in set(NAMES) - expected)
            assert sum(row.get("type") == "engine" for row in rows) == 1


def test_a_worker_applies_the_role_of_the_gateway(team: Team) -> None:
    limited = Principal("ada", "oidc:1", "r", "operator", frozenset(SEEN), key="session 00")
    told = from_plain(json.loads(json.dumps(limited.to_plain())))
    assert (told.level, told.cameras, told.key) == ("operator", frozenset(SEEN), "session 00")
    everything = from_plain(json.loads(json.dumps(Principal("", "", "admin", "admin").to_plain())))
    assert everything.manages
    assert from_plain({}).manages  # what the gateway asks for itself


@pytest.mark.parametrize(
    "path", ["/api/v1/streams/vault-cam\n/x", "/api/v1/streams//vault-cam", "/api/v1/streams/", "/metrics/", "/"]
)
def test_odd_paths_are_not_allowed_or_about_no_camera(path: str) -> None:
    limited = Principal("", "", "r", "view", frozenset(SEEN))
    assert not is_change("GET", path)
    no_route = path == "/api/v1/streams//vault-cam"  # no route has an empty name
    assert status_of(limited, "GET", path) in ((200,) if no_route else (403, 404))


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[Any, str]]:
    from vision_infer.config.serve_file import load_settings
    from vision_infer.service.processes.worker_settings import WorkerPlace
    from vision_infer.service.processes.workers import Workers

    file = tmp_path / "cameras.yaml"
    file.write_text("streams:\n" + "".join(f"  {name}: {{url: 'rtsp://10.0.0.7/x'}}\n" for name in NAMES))
    settings = load_settings(file, [], {}, {})
    workers = Workers(settings, [WorkerPlace("a", "cpu"), WorkerPlace("b", "cpu")], tmp_path, HandClock())
    for name, stream in settings.streams.items():
        workers.placement.put(name, stream, "file")
    clock = HandClock()
    access = Access(SETTINGS, tmp_path, clock)
    _, token = access.tokens.create("ada", "person:ada", "some-admin", "", 3600)
    app = make_front(workers, TOKENS, clock, access)
    yield TestClient(app, base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {token}"}), token
    workers.close()


def test_the_process_in_front_of_workers_hides_cameras(front: tuple[Any, str]) -> None:
    client, _ = front
    assert [stream["name"] for stream in client.get("/api/v1/streams").json()] == list(SEEN)
    for method, end in (("GET", ""), ("GET", "/snapshot.jpg"), ("PUT", ""), ("DELETE", ""), ("PUT", "/model")):
        answers = [
            client.request(method, f"/api/v1/streams/{name}{end}", json={"model": None}) for name in ("vault-cam", "ghost")
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].text.replace("vault-cam", "ghost") == answers[1].text
    assert client.get("/metrics").status_code == 403
    assert client.get("/api/v1/nodes").status_code == 403


def test_a_limited_admin_adds_no_camera_that_waits_for_a_worker(front: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = front
    workers = client.app.state.context.backend._workers
    monkeypatch.setattr(type(workers.placement), "waits", True)
    workers.placement.remove(SEEN[1])
    body = {"detect": "rtsp://10.0.0.5/vault-cam"}
    problem(client.put(f"/api/v1/streams/{SEEN[1]}", json=body), 403, "forbidden")
    assert workers.placement.get(SEEN[1]) is None
    whole = {"Authorization": f"Bearer {ADMIN}"}
    assert client.put(f"/api/v1/streams/{SEEN[1]}", json=body, headers=whole).status_code == 201
