"""The nodes as the API shows them, from snapshots of the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from vision_infer.cluster import gateway
from vision_infer.cluster.nodes import ClusterNodes
from vision_infer.cluster.placement import Node
from vision_infer.config.serve import ServiceSettings, StreamSettings
from vision_infer.service.streams.stream_files import StreamFiles


def machine(name: str, state: str = "alive", **more: Any) -> dict[str, Any]:
    shown = {"machine": name, "state": state, "labels": {}, "capacity": 1.7, "reference_capacity": 1.7, "trial": False}
    return shown | {"up": True, "ready": True, "reason": "", "starts": 1, "failing": False} | more


def camera(node: str | None, cost: float = 1.0, **labels: str) -> dict[str, Any]:
    return {"node": node, "epoch": 5 if node else 0, "cost": cost, "reference_cost": cost, "weight": 1.0, "labels": labels}


def test_a_node_shows_its_load_its_streams_and_what_happens_if_its_machine_fails() -> None:
    nodes = ClusterNodes()
    assert list(nodes.all()) == []
    cameras = {"x": camera("a"), "y": camera("a", 0.5), "z": camera("b", 0.5), "waits": camera(None, site="oslo")}
    parts = {f"m-gpu{number}": machine("m", labels={"gpu": "true"}, capacity=0.1, reference_capacity=0.1) for number in (0, 1)}
    found = {"a": machine("a"), "b": machine("b"), "c": machine("c", "draining"), "d": machine("d", "lost", ready=False), **parts}
    nodes.show({"nodes": found, "cameras": cameras})
    views = {view.name: view for view in nodes.all()}
    a, b = views["a"], views["b"]
    assert (a.streams, a.used, a.capacity, a.state) == (("x", "y"), 1.5, 1.7, "alive")
    assert (a.at_stake, a.fit, a.half_rate) == (2, 1, 0), "1.2 cores are free elsewhere, of which the first camera takes 1"
    assert (b.streams, b.at_stake, b.fit, b.half_rate) == (("z",), 1, 0, 0)
    assert [views[name].at_stake for name in "cd"] == [None, None], "they get no streams"
    assert [(views[name].machine, views[name].at_stake) for name in parts] == [("m", 0), ("m", 0)]
    assert nodes.all() is nodes.all(), "calculated once for each snapshot"
    assert [nodes.epoch_of(name) for name in ("x", "waits", "unknown")] == [5, None, None]
    nodes.show({"nodes": {"a": machine("a")}, "cameras": {}})
    assert [view.streams for view in nodes.all()] == [()]


def test_a_stream_counts_before_the_next_snapshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gateway, "call_controller", lambda *_: ("controller", 1))
    placement = gateway.ClusterPlacement(StreamFiles(tmp_path, ServiceSettings()))
    placement.nodes = (Node("a", 1.7), Node("b", 1.7))
    chosen = []
    for name in ("x", "y"):
        chosen.append(placement.choose(name, ("a", "b")))
        placement.put(name, StreamSettings.model_validate({"url": "test://"}), "command_line", (chosen[-1],))
    assert sorted(chosen) == ["a", "b"]
