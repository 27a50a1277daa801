"""Answers of several workers as one answer. All functions are pure: they take and return plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from vision_infer.service.streams.cost import Cost, MachineUsage, StreamCost
from vision_infer.service.views import NodeView

Answers = Mapping[str, Any]
"""The answers of workers by their names."""


def merge_events(answers: Answers, limit: int) -> list[dict[str, Any]]:
    """Return the newest events of all workers, oldest first."""
    return sorted((event for answer in answers.values() for event in answer), key=lambda event: str(event["at"]))[-limit:]


def merge_engines(answers: Answers, on_nodes: bool) -> list[dict[str, Any]]:
    """Return the engines of all workers; on the nodes of a cluster, with the node of each."""
    return [engine | ({"node": worker} if on_nodes else {}) for worker, answer in answers.items() for engine in answer]


def merge_models(answers: Answers) -> list[dict[str, Any]]:
    """Return the models; a model is loaded if a worker has loaded it."""
    models: dict[str, dict[str, Any]] = {}
    for model in (model for answer in answers.values() for model in answer):
        loaded = model["loaded"] or models.get(model["name"], model)["loaded"]
        models[model["name"]] = {**model, "loaded": loaded}
    return [models[name] for name in sorted(models)]


def merge_sinks(answers: Answers) -> list[dict[str, Any]]:
    """Return the sinks, each with the sums of all workers. A sink works if it works in all workers."""
    sinks: dict[tuple[str, str], dict[str, Any]] = {}
    for sink in (sink for answer in answers.values() for sink in answer):
        key = (sink["kind"], sink["name"])
        sinks[key] = _sum_of_sinks(sinks[key], sink) if key in sinks else sink
    return list(sinks.values())


def _sum_of_sinks(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    reasons = dict.fromkeys([*one["dropped"], *other["dropped"]])
    return {
        **one,
        **{name: one[name] + other[name] for name in ("queued", "waiting", "spool_bytes", "sent")},
        "connected": one["connected"] and other["connected"],
        "error": one["error"] or other["error"],
        "oldest": min((at for at in (one["oldest"], other["oldest"]) if at is not None), default=None),
        "dropped": {reason: one["dropped"].get(reason, 0) + other["dropped"].get(reason, 0) for reason in reasons},
    }


def merge_costs(machines: Sequence[Sequence[Any]]) -> Cost:
    """Return the cost of the streams of all workers. Shares are those of the stream's machine.

    Args:
        machines: The answers of the workers of each machine, which count the CPU time of each other as that of other processes.
    """
    cores = used = others = 0.0
    for answers in machines:
        own = sum(answer["cores_used"] for answer in answers)
        cores += answers[0]["cores"]
        used += own
        others += max(0.0, min(answer["cores_used"] + answer["cores_others"] for answer in answers) - own)
    every = [answer for answers in machines for answer in answers]
    accelerators = [answer["accelerator"] for answer in every if answer["accelerator"] is not None]
    streams = [StreamCost(**{name: one[name] for name in StreamCost.__slots__}) for answer in every for one in answer["streams"]]
    machine = MachineUsage(cores, used, others, len(machines))
    return Cost(machine, tuple(sorted(streams, key=lambda stream: stream.name)), max(accelerators, default=None))


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def merge_metrics(texts: Mapping[str, str], label: str, own: Iterable[Metric]) -> bytes:
    """Return the metrics of all workers, and those of the process in front.

    Args:
        texts: The metrics of each worker that can be reached, in Prometheus text format.
        label: The label with the worker's name that each of their samples gets.
        own: The metrics of the process in front.
    """
    families: dict[str, Metric] = {}
    for worker, text in texts.items():
        for found in text_string_to_metric_families(text):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            family.samples += [sample._replace(labels={**sample.labels, label: worker}) for sample in found.samples]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*families.values(), *own]))
    return generate_latest(registry)


def worker_metrics(starts: Mapping[str, int], up: Mapping[str, bool]) -> Sequence[Metric]:
    """Return the metrics of worker processes by name: the number of starts, and whether each can be reached."""
    text = "Whether the worker process can be reached (1) or not (0)."
    reachable = GaugeMetricFamily("vision_infer_worker_up", text, labels=("worker",))
    text = "Number of times the worker process was started again."
    restarts = CounterMetricFamily("vision_infer_worker_restarts", text, labels=("worker",))
    for worker, count in starts.items():
        reachable.add_metric((worker,), int(up[worker]))
        restarts.add_metric((worker,), max(0, count - 1))
    return reachable, restarts


def node_metrics(nodes: Iterable[NodeView], pending: int) -> Sequence[Metric]:
    """Return the metrics of the nodes of a cluster; ``pending`` is the number of streams that wait for a node."""

    def gauge(name: str, text: str, value: Callable[[NodeView], float]) -> Metric:
        family = GaugeMetricFamily(f"vision_infer_node_{name}", text, labels=("node",))
        for node in known:
            family.add_metric((node.name,), value(node))
        return family

    known = tuple(nodes)
    restarts = CounterMetricFamily(
        "vision_infer_node_restarts",
        "Number of times the process that runs the node's streams was started again.",
        labels=("node",),
    )
    for node in known:
        restarts.add_metric((node.name,), max(0, node.starts - 1))
    return (
        gauge("up", "Whether the process that runs the node's streams can be reached (1) or not (0).", lambda node: int(node.up)),
        gauge("draining", "Whether the node is drained (1) or not (0).", lambda node: int(node.state == "draining")),
        gauge("streams", "Number of streams on the node.", lambda node: len(node.streams)),
        gauge("capacity_cores", "CPU cores of the node that streams may use.", lambda node: node.capacity),
        gauge("used_cores", "CPU cores that the node's streams use.", lambda node: node.used),
        gauge(
            "streams_at_risk",
            "Number of streams that no other node could run at the full rate if the node's machine failed.",
            lambda node: (node.at_stake or 0) - node.fit,
        ),
        restarts,
        GaugeMetricFamily("vision_infer_streams_pending", "Number of streams that wait for a node.", pending),
    )
