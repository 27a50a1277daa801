"""``docs/reference/metrics.md``: every Prometheus metric of the service, from its registry."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from prometheus_client import Metric

from docs.generate import service
from docs.generate.markdown import code, table, template
from tests.service.fakes import Api
from vision_infer.core import drop
from vision_infer.service.processes.merge import node_metrics, worker_metrics

SUFFIX = {"counter": "_total", "info": "_info"}


def page() -> str:
    """Return the page for the metrics as they are now."""
    rows = [
        [code(exposed_name(metric)), metric.type if metric.type != "info" else "gauge", _labels(metric), metric.documentation]
        for metric in metrics(service.make_api())
    ]
    own = table(["Metric", "Type", "Labels", "Description"], [row for row in rows if not row[0].startswith("`process_")])
    process = ", ".join(row[0] for row in rows if row[0].startswith("`process_"))
    outcomes = table(["Outcome", "Meaning"], [[code("result"), "The frame gave a result."], *drop_reasons()])
    return template("metrics.md", metrics=own, process=process, outcomes=outcomes)


def metrics(api: Api) -> list[Metric]:
    """Return all metrics of the registry, and those of worker processes and of the nodes of a cluster."""
    return [*api.app.state.registry.collect(), *worker_metrics({}, {}), *node_metrics((), 0)]


def exposed_name(metric: Metric) -> str:
    """Return the name of a metric in the Prometheus text."""
    return metric.name + SUFFIX.get(metric.type, "")


def _labels(metric: Metric) -> str:
    names = dict.fromkeys(getattr(metric, "_labelnames", ()))
    for sample in metric.samples:
        names |= dict.fromkeys(sample.labels)
    return ", ".join(code(name) for name in names if name != "le")


def drop_reasons() -> Iterator[list[str]]:
    """Yield each reason for which a frame gives no result, with the text below it in the source."""
    enumeration = next(node for node in ast.parse(inspect.getsource(drop)).body if isinstance(node, ast.ClassDef))
    for member, text in zip(enumeration.body, enumeration.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr):
            assert isinstance(member.value, ast.Constant)
            assert isinstance(text.value, ast.Constant)
            yield [code(str(member.value.value)), str(text.value.value)]
