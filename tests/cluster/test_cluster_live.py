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
