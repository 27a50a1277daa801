"""A lane: the classes that a user selects, and how images are fitted."""

from __future__ import annotations

import numpy as np
import pytest

from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.runtimes.null import NullEngine
from vision_infer.pipeline.lanes.lane import Lane, make_selector


def test_thresholds_come_from_the_card_unless_given(card: ModelCard) -> None:
    selector = make_selector(card, None, None, None)
    assert (selector.confidence, selector.iou, selector.classes) == (card.confidence, card.iou, None)
    assert selector.label_names == card.labels
    given = make_selector(card, 0.0, 0.3, None)
    assert (given.confidence, given.iou) == (0.0, 0.3)


@pytest.mark.parametrize(
    ("names", "numbers"), [(("person",), {0}), (("Car", " BICYCLE "), {1, 2}), (("person", "person"), {0}), ((), set[int]())]
)
def test_classes_by_name(card: ModelCard, names: tuple[str, ...], numbers: set[int]) -> None:
    assert make_selector(card, None, None, names).classes == frozenset(numbers)


@pytest.mark.parametrize(
    ("name", "hint"), [("persn", "person"), ("bicycl", "bicycle"), ("zzz", "model show tiny"), ("", "model show tiny")]
)
def test_an_unknown_class_suggests_similar_ones(card: ModelCard, name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_selector(card, None, None, ("car", name))
    assert repr(name) in caught.value.message
    assert hint in caught.value.hint


def test_classes_of_a_model_without_labels_are_numbers() -> None:
    card = parse_card({"name": "bare", "input": {"width": 8, "height": 8}}, "bare")
    assert make_selector(card, None, None, ("7", " 12")).classes == frozenset({7, 12})
    with pytest.raises(UsageError, match="no labels"):
        make_selector(card, None, None, ("person",))


def test_images_are_fitted_as_in_the_card(card: ModelCard) -> None:
    other = card.model_copy(update={"fit": "top_left", "fill": (1, 2, 3)})
    lane = Lane("main", NullEngine(other), make_selector(other, None, None, None))
    assert lane.letterbox(Size(64, 16)) == letterbox(Size(64, 16), Size(32, 32), "top_left", (1, 2, 3))
    assert lane.letterbox(Size(64, 16)) is lane.letterbox(Size(64, 16))


def test_a_classifier_has_a_describer(card: ModelCard) -> None:
    classifier = card.model_copy(update={"task": "classify", "labels": ("cat", "dog", "cow")})
    lane = Lane("main", NullEngine(classifier), make_selector(card, None, None, None), top=2)
    assert lane.describer is not None
    (reported,) = lane.describer({"scores": np.array([[0.1, 0.7, 0.2], [0, 0, 0]], np.float32)}, [lane.letterbox(Size(9, 9))])
    assert reported.classes is not None
    assert [(one.class_id, one.label, round(one.score, 3)) for one in reported.classes] == [(1, "dog", 0.7), (2, "cow", 0.2)]
    assert Lane("other", NullEngine(card), make_selector(card, None, None, None)).describer is None
