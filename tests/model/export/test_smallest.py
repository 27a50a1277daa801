"""The graphs from which other tests build engines: task, contract, and caching."""

from __future__ import annotations

import onnx
import pytest

from tests.model.export.smallest import Kind, deployment_graph
from vision_infer.model.graph import check_contract
from vision_infer.model.reading import read_deployment_card


@pytest.mark.parametrize(("kind", "task"), [("detector", "detect"), ("classifier", "classify"), ("embedder", "embed")])
def test_each_is_a_deployment_graph_of_its_task(kind: Kind, task: str) -> None:
    path = deployment_graph(kind)
    card = read_deployment_card(path)
    assert card.task == task
    check_contract(onnx.load(path), card, path.name)
    assert deployment_graph(kind) is path
