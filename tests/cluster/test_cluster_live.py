"""Cameras on three nodes of a real Ray cluster on this machine: rows from all, failures, moves, and the API in front."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.support.gateway import TOKEN, ClusterRows, Gateway, command
from tests.support.media import ROOT
from tests.support.ray_cluster import RayCluster
from tests.support.serve_process import LIMIT_S
from vision_infer.engine.device import available_cpus

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

TEST = "test://?size=320x180&fps=5"
NAMES = [f"c{number}" for number in range(6)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("ray"), "a", "b", "c") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway"), cluster, dict.fromkeys(NAMES, TEST)) as running:
        running.wait_until_live()
        yield running


@pytest.fixture
def rows(gateway: Gateway) -> ClusterRows:
    return ClusterRows(gateway)


def test_rows_of_all_cameras_come_from_all_nodes(gateway: Gateway, rows: ClusterRows) -> None:
    gateway.wait(lambda: rows.nodes().keys() >= set(NAMES), "rows of all cameras")
    nodes = rows.nodes()
    assert sorted(nodes) == NAMES
    assert sorted(nodes.values()) == ["a", "a", "b", "b", "c", "c"]
    rows.check_epochs()


def test_lists_and_metrics_are_those_of_all_nodes(gateway: Gateway) -> None:
    assert sorted(gateway.streams()) == NAMES
    status, metrics = gateway.ask("GET", "/metrics")
    assert status == 200
    for node in "abc":
        assert f'vision_infer_node_up{{node="{node}"}} 1.0' in metrics
        assert f'vision_infer_node_streams{{node="{node}"}} 2.0' in metrics
    assert "worker=" not in metrics
    engines = json.loads(gateway.ask("GET", "/api/v1/engines")[1])
    assert sorted(engine["node"] for engine in engines) == ["a", "b", "c"]
    cost = json.loads(gateway.ask("GET", "/api/v1/cost")[1])
    assert [stream["name"] for stream in cost["streams"]] == NAMES
    assert cost["cores"] == 3 * available_cpus()
    changes = json.loads(gateway.ask("GET", "/api/v1/events")[1])
    assert {change["type"] for change in changes} == {"state"}, "no stream has moved"


def test_the_api_shows_and_drains_nodes(gateway: Gateway, rows: ClusterRows) -> None:
    gateway.wait(lambda: len(rows.nodes()) == len(NAMES), "rows of all cameras")

    def listed() -> dict[str, Any]:
        return {node["name"]: node for node in json.loads(gateway.ask("GET", "/api/v1/nodes")[1])}

    # The first rows can be faster than the report of their node, which is sent once a second.
    gateway.wait(lambda: all(node["ready"] for node in listed().values()), "the reports of all nodes")
    nodes = listed()
    assert sorted(nodes) == ["a", "b", "c"]
    for name, node in nodes.items():
        assert (node["state"], node["ready"], node["capacity_cores"]) == ("alive", True, 1.7)
        assert node["if_lost"] == {"streams": 2, "fit": 2, "half_rate": 0, "pending": 0}
        assert {stream: rows.nodes()[stream] for stream in node["streams"]} == dict.fromkeys(node["streams"], name)
    newest = {row["stream"]: row for row in list(rows.rows)}
    for stream in (*gateway.streams().values(), json.loads(gateway.ask("GET", "/api/v1/streams/c0")[1])):
        row = newest[stream["name"]]
        assert (stream["status"]["node"], stream["status"]["epoch"]) == (row["node"], row["epoch"])
    assert gateway.ask("PUT", "/api/v1/nodes/d", {"draining": True})[0] == 404
    assert gateway.ask("PUT", "/api/v1/nodes/a", {"draining": True})[0] == 204
    gateway.wait(lambda: sorted(rows.nodes().values()) == ["b", "b", "b", "c", "c", "c"], "rows of the other nodes")
    changes = json.loads(gateway.ask("GET", "/api/v1/events")[1])
    moves = {change["stream"]: change for change in changes if change["type"] == "moved"}
    assert sorted(moves) == sorted(nodes["a"]["streams"])
    for name, move in moves.items():
        assert (move["before"], move["node"]) == ("a", rows.nodes()[name])
        assert move["epoch"] == gateway.streams()[name]["status"]["epoch"]
    assert gateway.ask("PUT", "/api/v1/nodes/a", {"draining": False})[0] == 204


def test_a_stream_of_the_api_runs_on_a_node_and_can_be_changed_and_removed(gateway: Gateway, rows: ClusterRows) -> None:
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


def test_a_killed_controller_costs_no_camera_its_connection(gateway: Gateway, cluster: RayCluster, rows: ClusterRows) -> None:
    gateway.wait(lambda: rows.nodes().keys() >= set(NAMES), "rows of all cameras")
    before, epochs = gateway.since(), {row["stream"]: row["epoch"] for row in list(rows.rows)}
    cluster.kill_controller()
    killed = len(rows.rows)
    began_s = time.monotonic()
    gateway.wait(lambda: time.monotonic() - began_s > 8, "the controller has started again and decided")
    gateway.wait(lambda: {row["stream"] for row in list(rows.rows)[-60:]} >= set(NAMES), "rows of all cameras go on")
    assert gateway.ask("PUT", "/api/v1/streams/new", {"detect": TEST})[0] == 201, "it places cameras again"
    assert gateway.ask("DELETE", "/api/v1/streams/new")[0] == 204
    assert {name: since for name, since in gateway.since().items() if name in before} == before
    assert {row["stream"]: row["epoch"] for row in list(rows.rows) if row["stream"] in before} == epochs
    gaps = [row["arrived_s"] for row in list(rows.rows)[killed:]]
    assert max(b - a for a, b in pairwise(gaps)) < 2
    assert not any(change["stream"] in before for change in rows.changes)


def test_a_second_gateway_shows_the_same(gateway: Gateway, cluster: RayCluster, tmp_path: Path) -> None:
    with Gateway(tmp_path, cluster, {}) as second:
        second.wait(lambda: sorted(second.streams()) == NAMES, "the streams of the cluster")
        assert second.since() == gateway.since()
        seen = ClusterRows(second)
        second.wait(lambda: seen.nodes().keys() == set(NAMES), "rows of all cameras")


def test_a_restarted_gateway_has_the_state_again(gateway: Gateway) -> None:
    before = gateway.since()
    gateway.kill()
    gateway.start()
    assert gateway.stop()[0] == 0
    gateway.start()
    gateway.wait(lambda: set(gateway.states().values()) == {"live"}, "the state is back")
    assert gateway.since() == before


def test_video_and_images_come_from_the_node_of_the_stream(gateway: Gateway) -> None:
    url = f"http://127.0.0.1:{gateway.port}/api/v1/streams/c3"
    head = {"Authorization": f"Bearer {gateway.token}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/snapshot.jpg", headers=head), timeout=LIMIT_S) as answer:
        assert answer.read().startswith(b"\xff\xd8\xff")
    offer = (ROOT / "tests" / "preview" / "chromium_offer.sdp").read_bytes()
    request = urllib.request.Request(f"{url}/whep", offer, {**head, "Content-Type": "application/sdp"})
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        assert answer.status == 201
        assert b"a=candidate" in answer.read()
        assert gateway.ask("DELETE", answer.headers["Location"])[0] == 200


def test_a_client_of_grpc_gets_the_answer_of_a_node(gateway: Gateway) -> None:
    (address,) = re.findall(r"over gRPC on (\S+)", gateway.log)[-1:]
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([(ROOT / "docs" / "images" / "bikes.jpg").read_bytes()], object))
    headers = {"authorization": f"Bearer {gateway.token}"}
    with triton.InferenceServerClient(address) as client:
        answer = client.infer("clock@image", [image], headers=headers, client_timeout=LIMIT_S)
        assert json.loads(answer.as_numpy("result")[0])["model"] == "clock"


def test_a_camera_waits_for_a_node_with_its_labels(gateway: Gateway, cluster: RayCluster, rows: ClusterRows) -> None:
    status, text = gateway.ask("PUT", "/api/v1/streams/lobby", {"detect": TEST, "node_labels": {"site": "berlin"}})
    assert status == 409
    assert "lobby: no node has the labels site=berlin" in text
    before = gateway.file.read_text(encoding="utf-8")
    gateway.file.write_text(before + f"  yard: {{url: '{TEST}', node_labels: {{site: berlin}}}}\n", encoding="utf-8")
    gateway.wait(lambda: "yard" in gateway.streams(), "the changed file is read")
    yard = gateway.streams()["yard"]["status"]
    assert (yard["state"], yard["reason"]) == ("pending", "no node has the labels site=berlin")
    assert yard["node"] is None
    assert "vision_infer_streams_pending 1.0" in gateway.ask("GET", "/metrics")[1]
    status, text = gateway.ask("GET", "/api/v1/streams/yard/snapshot.jpg")
    assert (status, json.loads(text)["detail"].partition(".")[0]) == (503, "yard waits for a node")
    cluster.add("d", site="berlin")
    gateway.wait(lambda: rows.nodes().get("yard") == "d", "rows of the new node, also for a client that connected before")
    assert gateway.ask("PUT", "/api/v1/streams/lobby", {"detect": TEST, "node_labels": {"site": "berlin"}})[0] == 201
    gateway.wait(lambda: rows.nodes().get("lobby") == "d", "rows of a stream of the API")
    gateway.file.write_text(before, encoding="utf-8")
    gateway.wait(lambda: "yard" not in gateway.streams(), "the file is read again")
    cluster.remove("d")
    reason = "no node has the labels site=berlin"
    gateway.wait(lambda: gateway.streams()["lobby"]["status"]["reason"] == reason, "the camera waits again")
    status, text = gateway.ask("PUT", "/api/v1/streams/lobby", {"detect": TEST})
    assert status == 201, text
    gateway.wait(lambda: rows.nodes()["lobby"] != "d", "rows of another node, which needs no label now")
    assert gateway.ask("DELETE", "/api/v1/streams/lobby")[0] == 204
    gateway.wait(lambda: '"d"' not in gateway.ask("GET", "/metrics")[1], "the node is forgotten")


def test_the_commands_show_and_drain_nodes(gateway: Gateway, cluster: RayCluster, rows: ClusterRows) -> None:
    gateway.wait(lambda: rows.nodes().keys() >= set(NAMES), "rows of all cameras")
    shown = command(cluster, "status")
    for text in (*NAMES, "a     alive", "b     alive", "c     alive", "1.70"):
        assert text in shown
    assert TOKEN not in command(cluster, "status", "--json")
    plan = [line.split() for line in command(cluster, "plan").splitlines()]
    assert sum(int(line[1]) for line in plan[1:4]) == len(NAMES)
    assert [(line[0], line[1] == line[2], line[3:]) for line in plan[1:4]] == [(node, True, ["0", "0"]) for node in "abc"]
    gateway.wait(lambda: "c" in rows.nodes().values(), "rows of node c")
    assert command(cluster, "drain", "c") == "node c has no cameras\n"
    gateway.wait(lambda: sorted(rows.nodes().values()) == ["a", "a", "a", "b", "b", "b"], "rows of the other nodes")
    for name in NAMES:
        arrived = [row["arrived_s"] for row in list(rows.rows) if row["stream"] == name]
        assert max(b - a for a, b in pairwise(arrived)) < 2, "one reconnect"
    rows.check_epochs()
    assert {change["before"] for change in rows.changes if change["type"] == "moved"} == {"c"}
    assert command(cluster, "drain", "c", "--undo") == "node c may have cameras again\n"
    assert "node d does not exist" in command(cluster, "drain", "d", status=2)


def test_a_full_cluster_names_the_node_that_came_closest(gateway: Gateway, cluster: RayCluster) -> None:
    answers: list[str] = []

    def rejected() -> bool:
        cluster.set_costs(0.8)  # measurements lower it again
        status, text = gateway.ask("PUT", "/api/v1/streams/more", {"detect": TEST})
        if status == 409:
            answers.append(text)
        else:  # the gateway does not know the costs yet
            gateway.ask("DELETE", "/api/v1/streams/more")
        return status == 409

    gateway.wait(rejected, "the cluster is full")
    cluster.set_costs(0.02)
    found = re.search(r"needs (0\.\d\d) cores; ([abc]) came closest, with (\d\.\d\d) of 1\.70 cores free", answers[0])
    assert found is not None, answers
    assert float(found[1]) > float(found[3])
    gateway.wait(lambda: sorted(gateway.streams()) == NAMES, "the others are as before")


def test_a_node_with_several_gpus_has_a_worker_for_each(gateway: Gateway, cluster: RayCluster, rows: ClusterRows) -> None:
    cluster.add("g", gpus=2)
    names = ["door-1", "door-2"]

    def ready() -> list[str]:
        return [node["name"] for node in json.loads(gateway.ask("GET", "/api/v1/nodes")[1]) if node["ready"]]

    gateway.wait(lambda: ready()[-2:] == ["g-gpu0", "g-gpu1"], "the workers of the GPUs are ready")
    assert {"g-gpu0", "g-gpu1"} <= set(command(cluster, "status").split())
    for name in names:
        assert gateway.ask("PUT", f"/api/v1/streams/{name}", {"detect": TEST, "node_labels": {"gpu": "true"}})[0] == 201
    gateway.wait(lambda: {rows.nodes().get(name) for name in names} == {"g-gpu0", "g-gpu1"}, "rows of both")
    assert ["g", "2", "0", "0", "2"] in [line.split() for line in command(cluster, "plan").splitlines()]
    assert "2 cameras stay on node g" in command(cluster, "drain", "g", status=1)
    for name in names:
        assert gateway.ask("DELETE", f"/api/v1/streams/{name}")[0] == 204
    cluster.remove("g")
    gateway.wait(lambda: '"g-gpu' not in gateway.ask("GET", "/metrics")[1], "the node is forgotten")


def test_a_cluster_without_token_authentication_is_refused(cluster: RayCluster) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    for mode in ("disabled", "token"):
        line = [sys.executable, "-m", "vision_infer", "serve", TEST, "--port", "0", "--cluster", cluster.address]
        secret = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "a" * 64}
        done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT, check=False, env=environ | secret)
        assert done.returncode == 2, done.stderr
        assert "no token authentication" in done.stderr


def test_cameras_of_a_lost_node_give_rows_elsewhere_within_five_seconds(
    gateway: Gateway, cluster: RayCluster, rows: ClusterRows
) -> None:
    gateway.wait(lambda: rows.nodes().keys() >= set(NAMES), "rows of all cameras")
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
        assert max(b - a for a, b in pairwise(arrived)) < 1.5, "the other cameras go on"
        assert rows.nodes()[name] == nodes[name]
    rows.check_epochs()
    gateway.wait(lambda: {change["stream"] for change in rows.changes if change["type"] == "moved"} == lost, "moved events")
    print(f"moved after {moved_s:.2f} s; the kill itself took {killed_s - began_s:.2f} s")


def test_a_command_stops_all_cameras(gateway: Gateway, cluster: RayCluster) -> None:
    assert command(cluster, "stop") == "all cameras are stopped\n"
    gateway.wait(lambda: cluster.order("actors") == [], "all actors have ended")
    gateway.wait(lambda: {one["status"]["state"] for one in gateway.streams().values()} != {"live"}, "no camera is live")
