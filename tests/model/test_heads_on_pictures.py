"""Each head against its NumPy reference, on photographs and real models.

Detections are matched by class and box, never by rank: equal scores may come in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support.assets import RAW_MODELS, SIZE, raw_model
from tests.support.raw_networks import deployment_graph
from vision_infer.core.card import InputSize, ModelCard
from vision_infer.model.graph import assert_batch, read_card
from vision_infer.model.heads import find_head
from vision_infer.model.reference import RawOutputs, ReferenceBoxes

Arrays = dict[str, NDArray[Any]]


def card_of(head: str) -> ModelCard:
    defaults = find_head(head).DEFAULTS
    return ModelCard(
        name=head,
        head=head,
        input=InputSize(width=SIZE.width, height=SIZE.height),
        color=defaults.color,
        mean=defaults.mean,
        std=defaults.std,
        fit=defaults.fit,
        fill=defaults.fill,
        iou=defaults.iou,
    )


def reference(head: str, raw: onnx.ModelProto, image: NDArray[np.uint8], run: Any) -> Arrays:
    """Return all pairs of anchor and class of one image, best first."""
    card = card_of(head)
    seen = image[:, :, ::-1] if card.color == "bgr" else image
    # In float32 and with the reciprocal, as in the graph: a deep network makes 2e-5 of the last bit of its input.
    centered = seen.astype(np.float32) - np.array(card.mean, np.float32)
    tensor = (centered * (1 / np.array(card.std)).astype(np.float32)).transpose(2, 0, 1)[None]
    out = run(raw, {raw.graph.input[0].name: tensor})
    pairs = find_head(head).reference(RawOutputs(out, SIZE, 80, None))
    assert isinstance(pairs, ReferenceBoxes)
    return {name: array[:400] for name, array in pairs.above(0, 0.0).items()}


def greatest_differences(found: Arrays, expected: Arrays) -> tuple[float, float]:
    """Return the largest difference of boxes and scores between ``found`` and the nearest boxes in ``expected``."""
    box, score = 0.0, 0.0
    for one_box, one_score, one_class in zip(found["boxes"], found["scores"], found["class_ids"], strict=True):
        same = expected["class_ids"] == one_class
        assert same.any(), f"class {one_class} with score {one_score} is not in the reference"
        boxes = np.abs(expected["boxes"][same] - one_box).max(axis=1)
        scores = np.abs(expected["scores"][same] - one_score)
        best = np.argmin(boxes / 0.01 + scores / 1e-5)  # neighbors may have nearly the same box
        box, score = max(box, float(boxes[best])), max(score, float(scores[best]))
    return box, score


def image_of(batch: Arrays, index: int, above: float = -1.0) -> Arrays:
    keep = batch["scores"][index] > above
    return {name: array[index][keep] for name, array in batch.items()}


@pytest.mark.parametrize("head", RAW_MODELS)
def test_a_head_agrees_with_its_numpy_reference(head: str, letterboxed: Callable[..., NDArray[np.uint8]], run: Any) -> None:
    raw = onnx.load(raw_model(head))
    card = card_of(head)
    pictures = letterboxed(6, SIZE, card.fit, card.fill)
    found = run(deployment_graph(raw_model(head), card), {"images": pictures})
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "boxes": ((6, 300, 4), "float32"),
        "scores": ((6, 300), "float32"),
        "class_ids": ((6, 300), "int32"),
    }
    for index in range(len(pictures)):
        expected = reference(head, raw, pictures[index], run)
        box, score = greatest_differences(image_of(found, index), expected)
        assert box <= 0.01
        assert score <= 1e-5
        # In reverse: none of the 300 best is missing, except ties at the end.
        best = {name: array[:300] for name, array in expected.items()}
        sure = {name: array[best["scores"] > best["scores"][-1] + 1e-5] for name, array in best.items()}
        box, score = greatest_differences(sure, image_of(found, index))
        assert box <= 0.01
        assert score <= 1e-5


@pytest.mark.parametrize("head", RAW_MODELS)
def test_a_batch_is_the_same_as_single_runs(head: str, letterboxed: Callable[..., NDArray[np.uint8]], run: Any) -> None:
    card = card_of(head)
    graph = deployment_graph(raw_model(head), card)
    pictures = letterboxed(5, SIZE, card.fit, card.fill)
    single = [run(graph, {"images": pictures[index : index + 1]}) for index in range(5)]
    for count in (2, 5):
        batch = run(graph, {"images": pictures[:count]})
        for index in range(count):
            box, score = greatest_differences(image_of(batch, index, above=0.01), image_of(single[index], 0))
            assert box <= 0.01
            assert score <= 1e-5


@pytest.mark.parametrize("head", RAW_MODELS)
def test_the_graph_keeps_the_contract(head: str) -> None:
    card = card_of(head)
    graph = deployment_graph(raw_model(head), card, candidates=1000)
    assert_batch(graph, head)
    assert read_card(graph, head) == card
    first = graph.graph.node[0]
    assert (first.op_type, first.input[0]) == ("Cast", "images")
    count = graph.graph.output[1].type.tensor_type.shape.dim[1].dim_value
    assert count == 1000
    ours = [node.name.startswith("vision_infer/") for node in graph.graph.node]
    theirs = [node.name.startswith("network/") for node in graph.graph.node]
    assert all(one != other for one, other in zip(ours, theirs, strict=True))
