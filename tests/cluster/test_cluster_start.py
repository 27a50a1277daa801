"""A camera on one node of a real Ray cluster, in short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gateway import ClusterRows, Gateway
from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray")


def test_a_camera_gives_rows(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    with (
        RayCluster(tmp_path, "a") as cluster,
        Gateway(tmp_path / "gateway", cluster, {"door": "test://?size=320x180&fps=5"}) as gateway,
    ):
        rows = ClusterRows(gateway)
        gateway.wait(lambda: rows.nodes() == {"door": "a"}, "rows of the node")
        rows.check_epochs()
