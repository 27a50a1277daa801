"""The tables of ``vision-infer cluster``."""

from __future__ import annotations

from typing import Any

import pytest

from vision_infer.cli import cluster


def show(monkeypatch: pytest.MonkeyPatch, nodes: dict[str, Any], cameras: dict[str, Any]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(cluster, "_snapshot", lambda *_: {"nodes": nodes, "cameras": cameras})
    assert cluster.status() == 0


def test_the_status_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"site": "berlin", "building": "warehouse-north", "gpu": "true", "ray.io/node-id": "0123"}
    node = {"state": "alive", "reason": "", "capacity": 13.6, "labels": labels}
    lost = {**node, "state": "lost", "reason": "no report for 3 s", "labels": {}}
    reason = "no node has enough capacity: the camera needs 2.50 cores; n1-gpu0 came closest, with 1.20 of 13.60 cores free"
    running = {"node": "n1-gpu0", "epoch": 1_795_981_353, "cost": 0.008, "reason": ""}
    waiting = {"node": None, "epoch": 0, "cost": None, "reason": reason}
    show(monkeypatch, {"n1-gpu0": node, "n2": lost}, {"front-door": running, "tower": waiting})
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines).split())
    for text in ("n1-gpu0 alive 1 0.01 13.60", "no report for 3 s", "front-door n1-gpu0 1795981353 0.008", "tower pending 0"):
        assert text in words
    assert "ray.io" not in words


def test_columns_without_content_are_omitted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show(monkeypatch, {"n1": {"state": "alive", "reason": "", "capacity": 1.7, "labels": {}}}, {})
    heads = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("node", "camera"))]
    assert heads == [["node", "state", "cameras", "cores", "of"], ["camera", "node", "epoch", "cores"]]
