"""Answers of several workers as one answer. All functions are pure: they take and return plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from vision_infer.service.streams.cost import Cost, MachineUsage, StreamCost

Answers = Sequence[Any]


def merge_events(answers: Answers, limit: int) -> list[dict[str, Any]]:
    """Return the newest events of all workers, oldest first."""
    return sorted((event for answer in answers for event in answer), key=lambda event: str(event["at"]))[-limit:]


def merge_engines(answers: Answers) -> list[dict[str, Any]]:
    """Return the engines of all workers."""
    return [engine for answer in answers for engine in answer]


def merge_models(answers: Answers) -> list[dict[str, Any]]:
    """Return the models; a model is loaded if a worker has loaded it."""
    models: dict[str, dict[str, Any]] = {}
    for model in (model for answer in answers for model in answer):
        loaded = model["loaded"] or models.get(model["name"], model)["loaded"]
        models[model["name"]] = {**model, "loaded": loaded}
    return [models[name] for name in sorted(models)]


def merge_sinks(answers: Answers) -> list[dict[str, Any]]:
    """Return the sinks, each with the sums of all workers. A sink works if it works in all workers."""
    sinks: dict[tuple[str, str], dict[str, Any]] = {}
    for sink in (sink for answer in answers for sink in answer):
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


def merge_costs(answers: Answers) -> Cost:
    """Return the cost of the streams of all workers. Each worker counts the CPU time of the others as that of other processes."""
    used = sum(answer["cores_used"] for answer in answers)
    others = min(answer["cores_used"] + answer["cores_others"] for answer in answers) - used
    accelerators = [answer["accelerator"] for answer in answers if answer["accelerator"] is not None]
    streams = [
        StreamCost(**{name: stream[name] for name in StreamCost.__slots__}) for answer in answers for stream in answer["streams"]
    ]
    machine = MachineUsage(answers[0]["cores"], used, max(0.0, others))
    return Cost(machine, tuple(sorted(streams, key=lambda stream: stream.name)), max(accelerators, default=None))


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def merge_metrics(texts: Mapping[str, str], starts: Mapping[str, int], up: Mapping[str, bool]) -> bytes:
    """Return the metrics of all workers with the label ``worker``, and the state of the workers.

    Args:
        texts: The metrics of each worker that can be reached, in Prometheus text format.
        starts: The number of starts of each worker.
        up: Whether each worker can be reached.
    """
    families: dict[str, Metric] = {}
    for worker, text in texts.items():
        for found in text_string_to_metric_families(text):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            family.samples += [sample._replace(labels={**sample.labels, "worker": worker}) for sample in found.samples]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*families.values(), *worker_metrics(starts, up)]))
    return generate_latest(registry)


def worker_metrics(starts: Mapping[str, int], up: Mapping[str, bool]) -> Sequence[Metric]:
    """Return the metrics of the worker processes; the arguments are those of :func:`merge_metrics`."""
    text = "Whether the worker process can be reached (1) or not (0)."
    reachable = GaugeMetricFamily("vision_infer_worker_up", text, labels=("worker",))
    text = "Number of times the worker process was started again."
    restarts = CounterMetricFamily("vision_infer_worker_restarts", text, labels=("worker",))
    for worker, count in starts.items():
        reachable.add_metric((worker,), int(up[worker]))
        restarts.add_metric((worker,), max(0, count - 1))
    return reachable, restarts
