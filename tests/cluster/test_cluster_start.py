"""A camera on one node of a real Ray cluster, in short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gateway import ClusterRows, Gateway
from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray")

from vision_infer.cluster.connect import ATTEMPTS, MAX_REASON, connect
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


@pytest.mark.parametrize(("failures", "connected"), [(ATTEMPTS - 1, True), (ATTEMPTS, False)])
def test_a_client_asks_again_for_its_process_on_the_head(monkeypatch: pytest.MonkeyPatch, failures: int, connected: bool) -> None:
    text = "Initialization failure from server: Starting Ray client server failed. See ray_client_server_23000.err"
    errors = iter([RuntimeError(text)] * failures)

    def start(*_: object, **__: object) -> None:
        for error in errors:
            raise error

    monkeypatch.setattr("ray.init", start)
    if connected:
        connect("ray://head:10001", True)
    else:
        with pytest.raises(VisionInferError, match="Starting Ray client server failed"):
            connect("ray://head:10001", True)
    assert next(errors, None) is None


def test_a_camera_gives_rows(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    with (
        RayCluster(tmp_path, "a") as cluster,
        Gateway(tmp_path / "gateway", cluster, {"door": "test://?size=320x180&fps=5"}) as gateway,
    ):
        rows = ClusterRows(gateway)
        gateway.wait(lambda: rows.nodes() == {"door": "a"}, "rows of the node")
        rows.check_epochs()
