"""Answers of several workers as one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tests.service.fakes import node
from vision_infer.service.processes.merge import (
    merge_costs,
    merge_engines,
    merge_metrics,
    merge_models,
    merge_sinks,
    node_metrics,
    worker_metrics,
)
from vision_infer.service.processes.merged_results import messages_of


def test_sinks_and_models_of_all_workers_are_added_up() -> None:
    sink = {
        "name": "broker",
        "kind": "mqtt",
        "connected": True,
        "error": None,
        "queued": 1,
        "waiting": 2,
        "spool_bytes": 10,
        "oldest": "2026-01-02",
        "sent": 5,
        "dropped": {"queue_full": 1},
    }
    other = {**sink, "connected": False, "error": "refused", "oldest": "2026-01-01", "dropped": {"rejected": 2}}
    (merged,) = merge_sinks({"a": [sink], "b": [other]})
    assert (merged["connected"], merged["error"], merged["oldest"]) == (False, "refused", "2026-01-01")
    assert (merged["queued"], merged["waiting"], merged["spool_bytes"], merged["sent"]) == (2, 4, 20, 10)
    assert merged["dropped"] == {"queue_full": 1, "rejected": 2}
    answers = {"a": [{"name": "b", "loaded": False}, {"name": "a", "loaded": True}], "b": [{"name": "b", "loaded": True}]}
    models = merge_models(answers)
    assert models == [{"name": "a", "loaded": True}, {"name": "b", "loaded": True}]


def test_the_cores_of_other_workers_are_not_those_of_others() -> None:
    def answer(used: float, others: float, accelerator: float | None) -> dict[str, Any]:
        return {"cores": 8.0, "cores_used": used, "cores_others": others, "accelerator": accelerator, "streams": []}

    cost = merge_costs([[answer(2.0, 3.5, 0.2), answer(3.0, 2.5, 0.6)]])
    assert (cost.machine.cores, cost.machine.used, cost.machine.others, cost.accelerator) == (8.0, 5.0, 0.5, 0.6)
    cost = merge_costs([[answer(2.0, 3.5, 0.2)], [answer(3.0, 2.5, 0.6)]])
    assert (cost.machine.cores, cost.machine.used, cost.machine.others, cost.machine.machines) == (16.0, 5.0, 6.0, 2)


def test_engines_of_nodes_are_listed_with_their_node() -> None:
    answers = {"a": [{"name": "x", "node": None}], "b": [{"name": "x", "node": None}]}
    assert [engine["node"] for engine in merge_engines(answers, on_nodes=True)] == ["a", "b"]
    assert [engine["node"] for engine in merge_engines(answers, on_nodes=False)] == [None, None]


def test_metrics_keep_their_families_and_get_the_label_worker() -> None:
    text = (
        '# HELP frames_total Frames.\n# TYPE frames_total counter\nframes_total{stream="%s"} 3.0\n'
        '# HELP age_seconds Age.\n# TYPE age_seconds histogram\nage_seconds_bucket{le="+Inf"} 1.0\n'
        "age_seconds_count 1.0\nage_seconds_sum 0.5\n"
    )
    own = worker_metrics({"a": 3, "b": 0}, {"a": True, "b": False})
    merged = merge_metrics({"a": text % "x", "b": text % "y"}, "worker", own).decode()
    assert merged.count("# TYPE frames_total counter") == merged.count("# TYPE age_seconds histogram") == 1
    assert 'frames_total{stream="x",worker="a"} 3.0\nframes_total{stream="y",worker="b"} 3.0' in merged
    assert 'age_seconds_bucket{le="+Inf",worker="b"} 1.0' in merged
    assert 'vision_infer_worker_up{worker="b"} 0.0' in merged
    assert 'vision_infer_worker_restarts_total{worker="a"} 2.0' in merged


def test_metrics_of_a_cluster_have_the_label_node_and_its_nodes() -> None:
    text = '# HELP frames_total Frames.\n# TYPE frames_total counter\nframes_total{stream="x"} 3.0\n'
    nodes = [
        node("a", "x", "y", fit=1, half_rate=1, starts=3),
        node("b", state="draining", up=False, at_stake=None),
    ]
    merged = merge_metrics({"a": text}, "node", node_metrics(nodes, 4)).decode()
    for line in (
        'frames_total{node="a",stream="x"} 3.0',
        'vision_infer_node_up{node="a"} 1.0',
        'vision_infer_node_up{node="b"} 0.0',
        'vision_infer_node_draining{node="b"} 1.0',
        'vision_infer_node_streams{node="a"} 2.0',
        'vision_infer_node_streams_at_risk{node="a"} 1.0',
        'vision_infer_node_streams_at_risk{node="b"} 0.0',
        'vision_infer_node_capacity_cores{node="a"} 1.7',
        'vision_infer_node_used_cores{node="a"} 0.2',
        'vision_infer_node_restarts_total{node="a"} 2.0',
        "vision_infer_streams_pending 4.0",
    ):
        assert line in merged
    assert "worker=" not in merged


def test_messages_are_read_from_pieces_of_any_size() -> None:
    text = b'retry: 2000\n\nid: 7\ndata: {"a": "b: c"}\n\n: heartbeat\n\nevent: state\ndata: {}\n\n'

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]

    async def read(size: int) -> list[tuple[str, int, str]]:
        return [(one.kind, one.number, one.text) async for one in messages_of(pieces(size))]

    for size in (1, 5, 1000):
        assert asyncio.run(read(size)) == [("result", 7, '{"a": "b: c"}'), ("state", 0, "{}")]
