"""Who owns a camera of a cluster, counted at a real RTSP server: drain, a suspended worker, a restarted process, and secrets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cameras import ClockMount, RtspServer
from tests.support.fault_proxy import FaultProxy
from tests.support.gateway import ClusterRows, Gateway, command
from tests.support.ray_cluster import RayCluster
from vision_infer.cluster.desired import SETTLE_S

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

PASSWORD = "a-secret-of-the-camera"
TOKENS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


class CountingProxy(FaultProxy):
    """Counts the connections to a camera."""

    most = 0
    """The highest number of connections at the same time."""

    def _connect(self, client: socket.socket) -> None:
        super()._connect(client)
        self.most = max(self.most, self.open_connections)


@pytest.fixture(scope="module")
def camera() -> Iterator[CountingProxy]:
    mount = ClockMount("/clock", 320, 180, 10, key_interval=5, user="user", password=PASSWORD)
    proxy: CountingProxy
    with RtspServer(mount) as server, (proxy := CountingProxy(server.port)):
        yield proxy


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("ray")
    with RayCluster(folder, "a", "b", environ=TOKENS) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(cluster: RayCluster, camera: CountingProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    cameras = {"door": camera.url("/clock", "user", PASSWORD)}
    with Gateway(tmp_path_factory.mktemp("gateway"), cluster, cameras, (), **TOKENS) as running:
        running.wait_until_live()
        yield running


@pytest.fixture
def rows(gateway: Gateway) -> ClusterRows:
    found = ClusterRows(gateway)
    gateway.wait(lambda: found.rows, "rows")
    return found


def owner(rows: ClusterRows) -> str:
    return str(rows.rows[-1]["node"])


def child_of(cluster: RayCluster, node: str) -> int:
    """Return the process id of the service core of a node."""
    children = Path(f"/proc/{cluster.actor_pid(node)}/task").glob("*/children")
    (pid,) = [int(pid) for file in children for pid in file.read_text().split()]
    return pid


def test_a_killed_controller_costs_no_connection(
    gateway: Gateway, cluster: RayCluster, camera: CountingProxy, rows: ClusterRows
) -> None:
    accepted, epoch, controller = camera.accepted, rows.rows[-1]["epoch"], cluster.actor_pid("controller")
    cluster.kill_controller()
    gateway.wait(lambda: cluster.actor_pid("controller") not in (0, controller), "the controller has started again")
    began_s = time.monotonic()
    gateway.wait(lambda: time.monotonic() - began_s > SETTLE_S + 1, "it has decided")
    assert (camera.accepted, camera.open_connections, rows.rows[-1]["epoch"]) == (accepted, 1, epoch)
    assert time.monotonic() - rows.rows[-1]["arrived_s"] < 2


def test_a_hung_process_is_killed_before_another_node_connects(
    gateway: Gateway, cluster: RayCluster, camera: CountingProxy, rows: ClusterRows
) -> None:
    old, camera.most = owner(rows), 0
    os.kill(child_of(cluster, old), signal.SIGSTOP)
    stopped_s = time.monotonic()
    gateway.wait(lambda: owner(rows) != old, "rows of the new owner")
    assert time.monotonic() - stopped_s < 5 + 3, "five seconds, and some to kill and to connect"
    assert camera.most == 1
    rows.check_epochs()


def test_a_drained_node_disconnects_before_the_new_owner_connects(
    gateway: Gateway, cluster: RayCluster, camera: CountingProxy, rows: ClusterRows
) -> None:
    old, accepted = owner(rows), camera.accepted
    assert command(cluster, "drain", old, environ=TOKENS) == f"node {old} has no cameras\n"
    gateway.wait(lambda: owner(rows) != old, "rows of the new owner")
    assert command(cluster, "drain", old, "--undo", environ=TOKENS)
    assert camera.accepted - accepted == 1
    assert camera.most == 1
    rows.check_epochs()


def test_a_suspended_worker_gives_up_its_camera_when_it_goes_on(
    gateway: Gateway, cluster: RayCluster, camera: CountingProxy, rows: ClusterRows
) -> None:
    old, camera.most = owner(rows), 0
    pid = cluster.actor_pid(old)
    os.kill(pid, signal.SIGSTOP)
    try:
        stopped_s = time.monotonic()
        gateway.wait(lambda: owner(rows) != old, "rows of the new owner")
        assert time.monotonic() - stopped_s < 6
        assert camera.most == 1, "the process of the suspended worker has no lease"
        gateway.wait(lambda: time.monotonic() - stopped_s > 10, "10 s")
    finally:
        os.kill(pid, signal.SIGCONT)
    gateway.wait(lambda: camera.open_connections == 1, "the old owner disconnects")
    count = len(rows.rows)
    gateway.wait(lambda: len(rows.rows) > count + 30, "further rows")
    rows.check_epochs()
    assert {row["node"] for row in rows.rows[count:]} == {owner(rows)} != {old}
    assert camera.open_connections == 1


def test_a_killed_process_of_a_worker_starts_again_under_a_new_epoch(
    gateway: Gateway, cluster: RayCluster, rows: ClusterRows
) -> None:
    node, epoch = owner(rows), rows.rows[-1]["epoch"]
    os.kill(child_of(cluster, node), signal.SIGKILL)
    gateway.wait(lambda: rows.rows[-1]["epoch"] > epoch, "rows of a new epoch")
    rows.check_epochs()


@pytest.mark.parametrize("choice", ["keep", "stop"])
def test_a_node_without_the_controller_keeps_or_stops_its_cameras(
    choice: str, gateway: Gateway, cluster: RayCluster, camera: CountingProxy, rows: ClusterRows, tmp_path: Path
) -> None:
    cameras = {"door": camera.url("/clock", "user", PASSWORD)}
    controller = cluster.actor_pid("controller")
    with Gateway(tmp_path, cluster, cameras, (), f"on_partition: {choice}\n", **TOKENS) as second:
        second.wait_until_live()
        epoch = rows.rows[-1]["epoch"]
        os.kill(controller, signal.SIGSTOP)
        try:
            stopped_s = time.monotonic()
            if choice == "stop":
                gateway.wait(lambda: camera.open_connections == 0, "the node stops the camera")
                assert time.monotonic() - stopped_s < 3, "before another node may get it"
            gateway.wait(lambda: time.monotonic() - stopped_s > 5, "5 s")
            assert camera.open_connections == (1 if choice == "keep" else 0)
        finally:
            os.kill(controller, signal.SIGCONT)
        count = len(rows.rows)
        gateway.wait(lambda: len(rows.rows) > count + 5, "rows")
        assert (rows.rows[-1]["epoch"] == epoch) == (choice == "keep"), "a stopped camera has a new epoch"
        rows.check_epochs()


def test_streams_that_a_process_has_stopped_by_itself_start_again(
    gateway: Gateway, cluster: RayCluster, rows: ClusterRows
) -> None:
    epoch = rows.rows[-1]["epoch"]
    cluster.stop_streams(owner(rows))
    gateway.wait(lambda: rows.rows[-1]["epoch"] > epoch, "rows of a new epoch")
    rows.check_epochs()


def test_no_secret_is_in_the_logs_of_ray_or_the_service(gateway: Gateway, cluster: RayCluster) -> None:
    session = cluster.session.resolve()

    def files_with(*words: str) -> str:
        patterns = [part for word in words for part in ("-e", word)]
        return subprocess.run(["grep", "-rlF", *patterns, str(session)], capture_output=True, text=True, check=False).stdout

    assert files_with("door: live"), "the log of the workers is there"
    assert files_with(PASSWORD, gateway.token) == ""
    assert PASSWORD not in gateway.log
