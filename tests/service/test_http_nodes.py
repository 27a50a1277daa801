"""The routes for the nodes of a cluster."""

from __future__ import annotations

import pytest

from tests.service.fakes import ADMIN, TOKENS, VIEW, Api, FakeBackend, FakeNodes, node, problem
from vision_infer.service.events import MovedEvent


@pytest.fixture
def api() -> Api:
    backend = FakeBackend()
    backend.nodes = FakeNodes(
        node("a", "door", "yard", "gate", fit=1, half_rate=1, labels={"site": "oslo"}),
        node("b", state="lost", ready=False, reason="no report for 3 s", at_stake=None),
    )
    return Api(backend, TOKENS)


def test_nodes_are_listed_with_their_streams_and_what_happens_if_one_fails(api: Api) -> None:
    first, second = api.get("/api/v1/nodes", token=VIEW).json()
    assert first == {
        "name": "a",
        "machine": "a",
        "state": "alive",
        "ready": True,
        "reason": "",
        "starts": 1,
        "labels": {"site": "oslo"},
        "capacity_cores": 1.7,
        "used_cores": 0.2,
        "streams": ["door", "yard", "gate"],
        "if_lost": {"streams": 3, "fit": 1, "half_rate": 1, "pending": 1},
    }
    assert (second["state"], second["reason"], second["if_lost"]) == ("lost", "no report for 3 s", None)
    assert api.get("/api/v1/version", token=VIEW).json()["cluster"] is True


def test_only_an_admin_drains_a_node(api: Api) -> None:
    problem(api.ask("PUT", "/api/v1/nodes/a", json={"draining": True}, token=VIEW), 403, "forbidden")
    for draining, state in ((True, "draining"), (False, "alive")):
        assert api.ask("PUT", "/api/v1/nodes/a", json={"draining": draining}, token=ADMIN).status_code == 204
        assert api.get("/api/v1/nodes", token=VIEW).json()[0]["state"] == state
    problem(api.ask("PUT", "/api/v1/nodes/c", json={"draining": True}, token=ADMIN), 404, "not-found")
    problem(api.ask("PUT", "/api/v1/nodes/a", json={"drain": True}, token=ADMIN), 422, "invalid")


def test_one_machine_has_no_nodes() -> None:
    api = Api()
    assert api.get("/api/v1/nodes").json() == []
    assert api.get("/api/v1/version").json()["cluster"] is False
    problem(api.ask("PUT", "/api/v1/nodes/a", json={"draining": True}), 404, "not-found")
    assert api.get("/api/v1/streams/door").json()["status"]["node"] is None


def test_a_moved_stream_is_an_event(api: Api) -> None:
    event = MovedEvent("door", "a", "b", 7, api.clock.monotonic_ns(), "runs on node b from now on")
    api.backend.published.append(event)
    (shown,) = api.get("/api/v1/events", token=VIEW).json()
    del shown["at"]
    reason = "runs on node b from now on"
    assert shown == {"type": "moved", "stream": "door", "before": "a", "node": "b", "epoch": 7, "reason": reason}
