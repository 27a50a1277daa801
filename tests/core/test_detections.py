"""Detections: checked shapes, indexing, labels, and conversion to ``supervision``."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vision_infer.core.description import ClassScore, Description
from vision_infer.core.detections import Detection, Detections

NAMES = ("person", "bicycle", "car")


def some(count: int, tracked: bool = False, names: tuple[str, ...] | None = NAMES) -> Detections:
    """Return detections whose number N is in all of their arrays."""
    numbers = np.arange(count)
    return Detections(
        np.repeat(numbers, 4).reshape(count, 4).astype(np.float32),
        (numbers / max(1, count)).astype(np.float32),
        numbers.astype(np.int32),
        names,
        numbers.astype(np.int32) if tracked else None,
    )


@pytest.mark.parametrize(
    ("boxes", "scores", "class_ids", "track_ids", "message"),
    [
        ((2, 4), (3,), (3,), None, r"boxes must be \[N, 4\] with N scores, got \(2, 4\) with scores \(3,\)"),
        ((2, 5), (2,), (2,), None, r"got \(2, 5\)"),
        ((4,), (1,), (1,), None, r"got \(4,\)"),
        ((2, 4), (2, 1), (2,), None, r"with scores \(2, 1\)"),
        ((2, 4), (2,), (3,), None, r"class_ids must be \[2\], got \(3,\)"),
        ((2, 4), (2,), (2, 1), None, r"class_ids must be \[2\], got \(2, 1\)"),
        ((2, 4), (2,), (2,), (1,), r"track_ids must be \[2\], got \(1,\)"),
    ],
)
def test_shapes_are_checked_and_the_wrong_one_is_printed(
    boxes: tuple[int, ...], scores: tuple[int, ...], class_ids: tuple[int, ...], track_ids: tuple[int, ...] | None, message: str
) -> None:
    tracks = None if track_ids is None else np.zeros(track_ids, np.int32)
    with pytest.raises(ValueError, match=message):
        Detections(np.zeros(boxes, np.float32), np.zeros(scores, np.float32), np.zeros(class_ids, np.int32), None, tracks)


@given(st.lists(st.booleans(), max_size=12), st.booleans())
def test_indexing_keeps_the_arrays_together(mask: list[bool], tracked: bool) -> None:
    chosen = [number for number, wanted in enumerate(mask) if wanted]
    found = some(len(mask), tracked)
    indices: list[NDArray[np.bool_] | NDArray[np.intp]] = [np.array(mask, np.bool_), np.array(chosen, np.intp)]
    for index in indices:
        part = found[index]
        assert len(part) == len(chosen)
        assert part.class_ids.tolist() == chosen
        assert part.boxes.tolist() == [[number] * 4 for number in chosen]
        assert part.scores.tolist() == found.scores[chosen].tolist()
        assert part.label_names == NAMES
        assert part.track_ids is None if not tracked else part.track_ids is not None and part.track_ids.tolist() == chosen
    assert found[::-1].class_ids.tolist() == list(range(len(mask)))[::-1]


def test_a_class_without_a_name_is_its_number() -> None:
    assert some(5).labels == ["person", "bicycle", "car", "3", "4"]
    assert some(2, names=None).labels == ["0", "1"]
    assert some(0).label_of(-1) == "-1"


def test_detections_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(some(1), "scores", np.zeros(1, np.float32))  # noqa: B010 - the type checker refuses it too


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("count", [0, 3])
def test_to_supervision(count: int, tracked: bool) -> None:
    theirs = some(count, tracked).to_supervision()
    assert len(theirs) == count
    assert theirs.xyxy.shape == (count, 4)
    assert theirs.class_id is not None
    assert theirs.class_id.tolist() == list(range(count))
    assert theirs.confidence is not None
    assert theirs.confidence.tolist() == some(count).scores.tolist()
    assert (theirs.tracker_id is not None) == tracked
    assert list(theirs.data["class_name"]) == list(NAMES[:count])
    assert theirs.is_empty() == (count == 0)


def test_results_of_a_secondary_model_go_to_supervision() -> None:
    red, blue = (Description(classes=(ClassScore(number, label, 0.9),)) for number, label in enumerate(("red", "blue")))
    theirs = replace(some(3), descriptions=(red, None, blue)).to_supervision()
    assert list(theirs.data["secondary_label"]) == ["red", "", "blue"]
    assert "embedding" not in theirs.data
    vectors = [Description(embedding=np.full(2, value, np.float32)) for value in (1, 2)]
    converted = replace(some(3), descriptions=(vectors[0], None, vectors[1])).to_supervision()
    embedding = np.asarray(converted.data["embedding"])
    assert np.isnan(embedding[1]).all()
    assert embedding[2].tolist() == [2, 2]
    assert set(replace(some(2), descriptions=(None, None)).to_supervision().data) == {"class_name"}


def test_empty() -> None:
    found = Detections.empty(NAMES)
    assert len(found) == 0
    assert found.labels == []
    assert found.track_ids is None
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int32


def test_detections_are_a_sequence_of_single_ones() -> None:
    found = Detections(
        np.array([[1.004, 2, 30, 40], [5, 6, 7, 8]], np.float32),
        np.array([0.91, 0.5], np.float32),
        np.array([0, 1], np.int32),
        ("person", "car"),
        np.array([3, 0], np.int32),
    )
    first, second = found
    assert first == found[0] == found[np.int64(0)] == Detection("person", 0.91, (1.0, 2.0, 30.0, 40.0), 0, 3)
    assert found[-1] == second == Detection("car", 0.5, (5.0, 6.0, 7.0, 8.0), 1)
    assert len(found[1:]) == 1
    with pytest.raises(IndexError):
        found[2]
    assert list(Detections.empty()) == []


def test_the_text_of_detections_is_short_and_readable() -> None:
    one = Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.91], np.float32), np.array([0], np.int32), ("person",))
    assert repr(one) == "<1 detection: person 0.91 [1, 2, 30, 40]>"
    many = one[np.zeros(9, np.intp)]
    assert repr(many).endswith("person 0.91 [1, 2, 30, 40], 4 more>")
    assert repr(Detections.empty()) == "<0 detections>"
