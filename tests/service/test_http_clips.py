"""The API of events and their clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.fakes import ADMIN, TOKENS, VIEW, Api, FakeBackend, problem
from vision_infer.service.clips.event_log import EventRecord

SECOND = 1_000_000_000


def told_by(state: str, **more: object) -> tuple[FakeBackend, str]:
    backend, name = FakeBackend(), "00112233445566ff"
    event = {"id": name, "kind": "enter", "place": "yard", "track_id": 3, "class_id": 0, "label": "person"}
    backend.clips.events.add(EventRecord(name, "door", 1_700_000_000 * SECOND, event, state, **more))  # type: ignore[arg-type]
    return backend, name


@pytest.mark.parametrize(
    ("state", "status", "kind", "says"),
    [
        ("none", 404, "not-found", "excludes this event"),
        ("recording", 409, "conflict", "being written"),
        ("missing", 404, "not-found", "has no clip"),
        ("failed", 404, "not-found", "could not be written"),
        ("removed", 404, "not-found", "was removed"),
        ("ready", 404, "not-found", "was removed"),  # the file was deleted
    ],
)
def test_the_reason_for_a_missing_clip_is_reported(state: str, status: int, kind: str, says: str) -> None:
    backend, name = told_by(state, clip=Path("/nonexistent/clip.mp4"))
    answer = Api(backend).get(f"/api/v1/events/{name}/clip.mp4")
    document = problem(answer, status, kind)
    assert says in document["detail"]
    assert document["clip"] == ("removed" if state == "ready" else state)
    assert ("Retry-After" in answer.headers) == (state == "recording")


def test_unknown_and_invalid_event_ids() -> None:
    problem(Api().get("/api/v1/events/00112233445566ff/clip.mp4"), 404, "not-found")
    problem(Api().get("/api/v1/events/../clip.mp4"), 404, "not-found")
    problem(Api().get("/api/v1/events/XYZ/clip.mp4"), 422, "invalid")


def test_viewers_can_watch_clips_but_not_clients_without_a_token(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(bytes(range(256)) * 4)
    backend, name = told_by("ready", clip=clip, seconds=2.0, bytes=1024, from_wall_ns=1_699_999_999 * SECOND)
    api = Api(backend, TOKENS)
    path = f"/api/v1/events/{name}/clip.mp4"
    problem(api.get(path), 401, "unauthorized")
    for token in (ADMIN, VIEW):
        answer = api.get(path, token=token)
        assert (answer.status_code, answer.content) == (200, clip.read_bytes())
        assert answer.headers["content-type"] == "video/mp4"
    head = api.ask("HEAD", path, token=VIEW)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "1024")
    part = api.get(path, token=VIEW, headers={"Range": "bytes=1000-"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (
        206,
        clip.read_bytes()[1000:],
        "bytes 1000-1023/1024",
    )
    answer = api.get(path, token=VIEW, headers={"Range": "bytes=5000-"})
    problem(answer, 416, "range-not-satisfiable")
    assert answer.headers["content-range"] == "bytes */1024"
    problem(api.get(path, token=VIEW, headers={"Range": "bytes=x"}), 400, "bad-request")


def test_events_are_listed_with_their_clips() -> None:
    backend, name = told_by("ready", clip=Path("/nonexistent"), seconds=2.0, bytes=1024, from_wall_ns=1_699_999_999 * SECOND)
    api = Api(backend)
    listed = api.get("/api/v1/events?type=scene").json()
    assert listed == [
        {
            "type": "scene",
            "id": name,
            "stream": "door",
            "at": "2023-11-14T22:13:20.000Z",
            "kind": "enter",
            "place": "yard",
            "track_id": 3,
            "class_id": 0,
            "label": "person",
            "seconds": None,
            "direction": None,
            "counts": None,
            "clip": {
                "state": "ready",
                "reason": "",
                "url": f"/api/v1/events/{name}/clip.mp4",
                "from": "2023-11-14T22:13:19.000Z",
                "seconds": 2.0,
                "bytes": 1024,
            },
        }
    ]
    for query, count in (
        ("stream=door", 1),
        ("stream=gate", 0),
        ("from=2023-11-14T22:13:20Z", 1),
        ("from=2023-11-14T22:13:21Z", 0),
        ("to=2023-11-14T22:13:20Z", 0),
        ("limit=1", 1),
    ):
        assert len(api.get(f"/api/v1/events?type=scene&{query}").json()) == count, query
    problem(api.get("/api/v1/events?type=scene&limit=0"), 422, "invalid")
    problem(api.get("/api/v1/events?type=other"), 422, "invalid")
