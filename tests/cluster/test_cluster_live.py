"""Cameras on three nodes of a real Ray cluster on this machine: rows from all, failures, moves, and the API in front."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_cluster import RayCluster
from tests.support.serve_process import LIMIT_S, ServeProcess

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

TEST = "test://?size=320x180&fps=5"
NAMES = [f"c{number}" for number in range(6)]


class Gateway(ServeProcess):
    """``serve --cluster`` with six cameras."""

    def __init__(self, folder: Path, cluster: RayCluster) -> None:
        streams = "".join(f"  {name}: {{url: '{TEST}'}}\n" for name in NAMES)
        arguments = ("--port", "0", "--cluster", cluster.address, "--insecure-cluster")
        text = f"model: clock\nengine: null-cpu-none\nservice: {{token: the-token-of-the-test}}\nstreams:\n{streams}"
        super().__init__(folder, text, arguments=arguments)
        self.token = "the-token-of-the-test"

    def states(self) -> dict[str, str]:
        return {name: stream["status"]["state"] for name, stream in self.streams().items()}

    def since(self) -> dict[str, str]:
        return {name: stream["status"]["since"] for name, stream in self.streams().items()}


class Rows:
    """Reads results and changes of all cameras on a thread."""

    def __init__(self, gateway: Gateway) -> None:
        self.rows: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        request = urllib.request.Request(f"http://127.0.0.1:{gateway.port}/api/v1/results?states=true")
        request.add_header("Authorization", f"Bearer {gateway.token}")
        self._answer = urllib.request.urlopen(request, timeout=LIMIT_S)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        kind = ""
        try:
            for line in self._answer:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    row = json.loads(value) | {"arrived_s": time.monotonic()}
                    (self.changes if kind else self.rows).append(row)
                    kind = ""
        except OSError:  # the gateway was stopped
            return

    def nodes(self) -> dict[str, str]:
        """Return the node of the newest row of each camera."""
        return {row["stream"]: row["node"] for row in list(self.rows)}

    def check_epochs(self) -> None:
        """Check that no row of an older epoch comes after a newer one."""
        newest: dict[str, int] = {}
        for row in list(self.rows):
            assert row["epoch"] >= newest.get(row["stream"], 0)
            newest[row["stream"]] = row["epoch"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("ray"), "a", "b", "c") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway"), cluster) as running:
        running.wait(lambda: set(running.states().values()) == {"live"}, "all cameras are live")
        yield running


@pytest.fixture
def rows(gateway: Gateway) -> Rows:
    return Rows(gateway)


def test_rows_of_all_cameras_come_from_all_nodes(gateway: Gateway, rows: Rows) -> None:
    gateway.wait(lambda: len(rows.nodes()) == len(NAMES), "rows of all cameras")
    nodes = rows.nodes()
    assert sorted(nodes) == NAMES
    assert sorted(nodes.values()) == ["a", "a", "b", "b", "c", "c"]
    rows.check_epochs()


def test_lists_and_metrics_are_those_of_all_nodes(gateway: Gateway) -> None:
    assert sorted(gateway.streams()) == NAMES
    status, metrics = gateway.ask("GET", "/metrics")
    assert status == 200
    for node in "abc":
        assert f'vision_infer_worker_up{{worker="{node}"}} 1.0' in metrics


def test_a_stream_of_the_api_runs_on_a_node_and_can_be_changed_and_removed(gateway: Gateway, rows: Rows) -> None:
    status, text = gateway.ask("PUT", "/api/v1/streams/door", {"detect": TEST})
    assert status == 201, text
    gateway.wait(lambda: "door" in rows.nodes(), "rows of the new stream")
    first = next(row for row in list(rows.rows) if row["stream"] == "door")
    assert gateway.ask("PUT", "/api/v1/streams/door", {"detect": TEST, "weight": 2})[0] == 200
    count = len(rows.rows)
    gateway.wait(lambda: any(row["stream"] == "door" for row in list(rows.rows)[count:]), "rows after the change")
    assert next(row for row in list(rows.rows)[count:] if row["stream"] == "door")["node"] == first["node"]
    assert gateway.ask("PUT", "/api/v1/streams/wrong", {"detect": TEST, "model": "no-such-model"})[0] == 422
    assert gateway.ask("DELETE", "/api/v1/streams/door")[0] == 204
    assert gateway.ask("GET", "/api/v1/streams/door")[0] == 404
    assert sorted(gateway.streams()) == NAMES


def test_a_killed_controller_costs_no_camera_its_connection(gateway: Gateway, cluster: RayCluster, rows: Rows) -> None:
    gateway.wait(lambda: len(rows.nodes()) == len(NAMES), "rows of all cameras")
    before, epochs = gateway.since(), {row["stream"]: row["epoch"] for row in list(rows.rows)}
    cluster.kill_controller()
    killed = len(rows.rows)
    began_s = time.monotonic()
    gateway.wait(lambda: time.monotonic() - began_s > 8, "the controller has started again and decided")
    gateway.wait(lambda: {row["stream"] for row in list(rows.rows)[-60:]} >= set(NAMES), "rows of all cameras go on")
    assert gateway.since() == before
    assert {row["stream"]: row["epoch"] for row in list(rows.rows)} == epochs
    gaps = [row["arrived_s"] for row in list(rows.rows)[killed:]]
    assert max(b - a for a, b in zip(gaps, gaps[1:], strict=False)) < 2
    assert rows.changes == []


def test_a_second_gateway_shows_the_same(gateway: Gateway, cluster: RayCluster, tmp_path: Path) -> None:
    second = Gateway(tmp_path, cluster)
    second.file.write_text("model: clock\nservice: {token: the-token-of-the-test}\n", encoding="utf-8")
    with second:
        second.wait(lambda: sorted(second.streams()) == NAMES, "the streams of the cluster")
        assert second.since() == gateway.since()
        seen = Rows(second)
        second.wait(lambda: seen.nodes().keys() == set(NAMES), "rows of all cameras")


def test_a_restarted_gateway_has_the_state_again(gateway: Gateway) -> None:
    before = gateway.since()
    gateway.kill()
    gateway.start()
    gateway.wait(lambda: set(gateway.states().values()) == {"live"}, "the state is back")
    assert gateway.since() == before


def test_cameras_of_a_lost_node_give_rows_elsewhere_within_five_seconds(gateway: Gateway, cluster: RayCluster, rows: Rows) -> None:
    gateway.wait(lambda: len(rows.nodes()) == len(NAMES), "rows of all cameras")
    nodes = rows.nodes()
    lost = {name for name, node in nodes.items() if node == "b"}
    began_s = time.monotonic()
    cluster.remove("b")
    killed_s = time.monotonic()
    gateway.wait(lambda: {name for name in lost if rows.nodes()[name] != "b"} == lost, "the cameras run elsewhere")
    moved_s = time.monotonic() - began_s
    assert moved_s < 5 + 1, "five seconds, and one to connect"
    for name in set(NAMES) - lost:
        arrived = [row["arrived_s"] for row in list(rows.rows) if row["stream"] == name and row["arrived_s"] > began_s]
        assert max(b - a for a, b in zip(arrived, arrived[1:], strict=False)) < 1.5, "the other cameras go on"
        assert rows.nodes()[name] == nodes[name]
    rows.check_epochs()
    gateway.wait(lambda: {change["stream"] for change in rows.changes if change["type"] == "moved"} == lost, "moved events")
    print(f"moved after {moved_s:.2f} s; the kill itself took {killed_s - began_s:.2f} s")
