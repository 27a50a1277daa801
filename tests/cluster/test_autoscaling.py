"""Ray's autoscaler adds a node for cameras that wait or for an archive, and removes it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.archive import ended, make_archive, run
from tests.support.gateway import ClusterRows, Gateway
from tests.support.ray_cluster import AutoscalingCluster
from tests.support.waiting import wait_until

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

TEST = "test://?size=320x180&fps=5"


def test_a_node_is_added_for_a_camera_that_waits_and_removed_afterwards(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    with AutoscalingCluster(tmp_path) as cluster:
        gateway = Gateway(tmp_path / "gateway", cluster, {}, more="autoscale: true\n")
        with gateway:
            status, text = gateway.ask("PUT", "/api/v1/streams/door", {"detect": TEST})
            assert status == 201, text
            reason = "no node is available; a node was requested from Ray's autoscaler"
            gateway.wait(lambda: gateway.streams()["door"]["status"]["reason"] == reason, "the camera waits")
            assert gateway.states()["door"] == "pending"
            rows = ClusterRows(gateway)
            gateway.wait(lambda: rows.rows, "rows from a new node")
            cluster.set_idle(1.0)
            gateway.wait(lambda: len(rows.rows) > 60, "the node stays longer than Ray's time limit for idle nodes")
            assert cluster.order("nodes") == 2
            assert gateway.ask("DELETE", "/api/v1/streams/door")[0] == 204
            gateway.wait(lambda: cluster.order("nodes") == 1, "the autoscaler removes the node")


def test_a_node_is_added_for_an_archive_and_removed_afterwards(tmp_path: Path) -> None:
    make_archive(tmp_path / "in", 5)
    with AutoscalingCluster(tmp_path) as cluster:
        text = ended(run(tmp_path / "in", tmp_path / "out", cluster=cluster))
        assert "6/6 files" in text
        wait_until(lambda: cluster.order("nodes") == 1)
