"""A camera on one node of a real Ray cluster, in short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gateway import ClusterRows, Gateway
from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray")

from vision_infer.cluster.connect import MAX_REASON, connect
from vision_infer.core.errors import VisionInferError


def test_an_error_of_ray_is_one_line_with_all_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    mismatch = "Version mismatch: The cluster was started with:\n    Ray: 2.53.0\nThis process was started with:\n    Ray: 2.60.0"
    for text, shown in ((mismatch, " ".join(mismatch.split())), ("x" * 5000, "x" * MAX_REASON + "…"), ("", "RuntimeError")):

        def fail(*_: object, error: str = text, **__: object) -> None:
            raise RuntimeError(error)

        monkeypatch.setattr("ray.init", fail)
        with pytest.raises(VisionInferError) as raised:
            connect("head:6379", True)
        assert raised.value.message == f"cannot connect to the Ray cluster head:6379: {shown}"


def test_a_camera_gives_rows(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    with (
        RayCluster(tmp_path, "a") as cluster,
        Gateway(tmp_path / "gateway", cluster, {"door": "test://?size=320x180&fps=5"}) as gateway,
    ):
        rows = ClusterRows(gateway)
        gateway.wait(lambda: rows.nodes() == {"door": "a"}, "rows of the node")
        rows.check_epochs()
