"""The metrics that the service exposes, and a check of PromQL expressions against them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.fakes import FakeBackend, status
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import Usage
from vision_infer.preview.preview import Preview, PreviewCounts
from vision_infer.service.backend import Backend
from vision_infer.service.operations.metrics import make_registry
from vision_infer.sink.delivery.carrier import SinkStatus

Samples = Mapping[str, Sequence[Mapping[str, str]]]
"""The labels of the samples of each metric."""

_GIVEN = {"job", "instance"}
"""Labels that Prometheus adds."""
_WORDS = {
    *("sum", "min", "max", "count", "avg", "by", "without", "on", "ignoring", "and", "or", "unless", "offset", "bool"),
    *("rate", "increase", "deriv", "histogram_quantile", "vector", "group_left", "group_right", "up", "le"),
}
_SELECTOR = re.compile(r"\b([a-z_]\w*)\s*(?:\{([^}]*)\})")
_MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*(?:,|$)')


class _PreviewWithViewer(Preview):
    """A preview with one viewer."""

    def counts(self) -> PreviewCounts:
        return replace(super().counts(), viewers={"door": 1})


def written() -> Samples:
    """Return all metrics of a service in which every event has occurred."""
    backend = FakeBackend()
    backend.preview = _PreviewWithViewer(backend.settings.preview)
    backend.sink_statuses = [SinkStatus("house", "mqtt", True, None, 0, 3, 1024, 1, 9, {"spool_full": 2})]
    dropped = {reason.value: 1 for reason in DropReason}
    backend.kept["door"] = replace(
        backend.kept["door"], status=status(dropped=dropped, result_fps=5.0, usage=Usage(0.1, 0.1, 0.1))
    )
    text = generate_latest(make_registry(cast(Backend, backend), SYSTEM_CLOCK)).decode()
    samples: dict[str, list[Mapping[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample.labels)
    return samples


def unknown(expression: str, samples: Samples) -> list[str]:
    """Return the parts of an expression that are not a known metric, label or label value; variables always match."""
    found = [] if _balanced(expression) else ["brackets"]
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = re.findall(r"\b(?:vision_infer|process)_\w+", bare)
    found += [name for name in names if name not in samples]
    if not names and "up" not in bare:
        found.append("no metric of the service")
    labels = set(_GIVEN).union(*(sample for name in names for sample in samples.get(name, ())))
    for name, matchers in _SELECTOR.findall(expression):
        if name != "up" and name in samples:
            found += _unmatched(name, matchers, samples[name])
    for grouped in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", bare):
        found += [f"by {label}" for label in re.split(r"\s*,\s*", grouped.strip()) if label not in labels]
    rest = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)|\{[^}]*\}|\[[^\]]*\]|\d+[smhdw]\b", " ", bare)
    words = set(re.findall(r"(?<![\w$])[a-z_]\w*", rest))
    return found + [word for word in sorted(words - _WORDS) if word not in names]


def _unmatched(name: str, matchers: str, samples: Sequence[Mapping[str, str]]) -> list[str]:
    found: list[str] = []
    if _MATCHER.sub("", matchers).strip():
        found.append(f"{name}{{{matchers}}}")
    for label, _, values in _MATCHER.findall(matchers):
        if label in _GIVEN:
            continue
        there = {labels.get(label) for labels in samples}
        if there == {None} or (not values.startswith("$") and not set(values.split("|")) <= there):
            found.append(f'{name}{{{label}="{values}"}}')
    return found


def _balanced(expression: str) -> bool:
    opened: list[str] = []
    for bracket in re.sub(r'"[^"]*"', "", expression):
        if bracket in "([{":
            opened.append(bracket)
        elif bracket in ")]}" and (not opened or opened.pop() + bracket not in ("()", "[]", "{}")):
            return False
    return not opened
