"""The metrics that the program really writes, and what of an expression of PromQL is not among them."""

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
"""labels of the samples of each metric"""

_GIVEN = {"job", "instance"}
"""labels that Prometheus adds"""
_WORDS = {
    *("sum", "min", "max", "count", "avg", "by", "without", "on", "ignoring", "and", "or", "unless", "offset", "bool"),
    *("rate", "increase", "deriv", "histogram_quantile", "vector", "group_left", "group_right", "up", "le"),
}
_SELECTOR = re.compile(r"\b([a-z_]\w*)\s*(?:\{([^}]*)\})")
_MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*(?:,|$)')


class _Watched(Preview):
    """Somebody watches."""

    def counts(self) -> PreviewCounts:
        return replace(super().counts(), viewers={"door": 1})


def written() -> Samples:
    """What a service writes that has met everything."""
    backend = FakeBackend()
    backend.preview = _Watched(backend.settings.preview)
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
    """What of an expression is no metric, no label of those in it, or no value that the label has; variables fit always."""
    found = [] if _balanced(expression) else ["brackets"]
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = re.findall(r"\b(?:vision_infer|process)_\w+", bare)
    found += [name for name in names if name not in samples]
    if not names and "up" not in bare:
        found.append("no metric of ours")
    labels = set(_GIVEN).union(*(one for name in names for one in samples.get(name, ())))
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
    open_ones: list[str] = []
    for one in re.sub(r'"[^"]*"', "", expression):
        if one in "([{":
            open_ones.append(one)
        elif one in ")]}" and (not open_ones or open_ones.pop() + one not in ("()", "[]", "{}")):
            return False
    return not open_ones
