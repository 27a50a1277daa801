"""A gateway that uses Ray Client, as on Kubernetes, and loses the head."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.gateway import ClusterRows, Gateway
from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray")
pytest.importorskip("grpc")
pytestmark = pytest.mark.slow

START_S = 120.0
"""The time to start a cluster and to connect to it, with the waits of Ray Client between its attempts, seconds."""


def test_a_gateway_connects_again_after_the_loss_of_the_head(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    cameras = {"door": "test://?size=320x180&fps=5"}
    with (
        RayCluster(tmp_path, "a", client=True) as cluster,
        Gateway(tmp_path / "gateway", cluster, cameras, address=cluster.client_address) as gateway,
    ):
        gateway.wait_until_live()
        rows = ClusterRows(gateway)
        gateway.wait(lambda: rows.nodes() == {"door": "a"}, "rows of the node")
        cluster.kill_everything()
        asked_s = []

        def node() -> dict[str, object]:
            began_s = time.monotonic()
            (found,) = json.loads(gateway.ask("GET", "/api/v1/nodes")[1])
            asked_s.append(time.monotonic() - began_s)
            return dict(found)

        gateway.wait(lambda: not node()["ready"], "the node is shown as unreachable")
        assert max(asked_s) < 2, "the page and the API answer meanwhile"
        lost = "the connection to the head of the cluster is lost"
        assert node()["reason"] == lost
        assert f"{lost}; trying again" in gateway.log
        assert 'vision_infer_node_up{node="a"} 0.0' in gateway.ask("GET", "/metrics")[1]
        status, text = gateway.ask("GET", "/readyz")
        assert (status, lost in text) == (503, True)
        door = gateway.streams()["door"]["status"]
        assert (door["state"], door["reason"]) == ("backing_off", f"node a: {lost}")
        gateway.wait(lambda: str(node()["reason"]).startswith("cannot connect to the Ray cluster"), "an attempt", START_S)
        cluster.start_again()
        count = len(rows.rows)
        gateway.wait(lambda: len(rows.rows) > count + 5, "rows for the client that was connected before", START_S)
        assert set(gateway.states().values()) == {"live"}
        rows.check_epochs()
        assert gateway.stop()[0] == 0
