"""Selection: compared with a simple reference, and its corner cases."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vision_infer.analyze import select as module
from vision_infer.analyze.select import Selector, select
from vision_infer.analyze.similar import group_numbers
from vision_infer.core.geometry import Size, letterbox

GRAY = (114, 114, 114)
# Few different values, so that equal boxes, equal scores, touching edges and empty boxes are common, not rare.
EDGE = st.sampled_from([0.0, 1.0, 2.0, 3.0, 10.0, 10.5, 20.0, float("nan"), float("inf")])
SCORE = st.sampled_from([0.0, 0.2, 0.5, 0.5, 0.7, 0.9, 1.0, float("nan"), float("inf")])
CANDIDATE = st.tuples(EDGE, EDGE, EDGE, EDGE, SCORE, st.integers(0, 2))
SELECTOR = st.builds(
    Selector,
    confidence=st.sampled_from([0.0, 0.25, 0.5]),
    iou=st.sampled_from([None, 0.0, 0.3, 0.5, 1.0]),
    classes=st.sampled_from([None, frozenset({1}), frozenset({0, 2}), frozenset[int]()]),
    max_detections=st.sampled_from([None, 1, 3]),
    per_class=st.dictionaries(st.integers(0, 2), st.sampled_from([0.0, 0.2, 0.7, 1.0])),
    groups=st.sampled_from([None, {}, {0: 0, 2: 0}]),
)

Candidate = tuple[float, float, float, float, float, int]
Batch = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


def batch_of(*images: list[Candidate]) -> Batch:
    """Return the outputs of an engine for images with the same number of candidates."""
    rows = np.array(images, dtype=np.float64).reshape(len(images), -1, 6)
    return rows[..., :4].astype(np.float32), rows[..., 4].astype(np.float32), rows[..., 5].astype(np.int32)


def named(batch: Batch) -> dict[str, NDArray[Any]]:
    """Return the outputs of an engine by name."""
    return dict(zip(("boxes", "scores", "class_ids"), batch, strict=True))


def overlap(one: list[float], other: list[float]) -> tuple[float, float]:
    """Intersection and union of two boxes, pixels²."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (one, other)]
    return width * height, sum(areas) - width * height


def reference(candidates: list[Candidate], selector: Selector) -> list[int]:
    """Return the result of greedy NMS, written as simply as possible."""
    sound = [
        index
        for index, candidate in enumerate(candidates)
        if np.isfinite(candidate).all()
        and candidate[4] >= selector.per_class.get(candidate[5], selector.confidence)
        and (selector.classes is None or candidate[5] in selector.classes)
    ]
    kept: list[int] = []
    for index in sorted(sound, key=lambda index: -candidates[index][4]):
        suppressed = False
        for winner in kept:
            inter, union = overlap(list(candidates[index][:4]), list(candidates[winner][:4]))
            group, other = group_numbers([candidates[index][5], candidates[winner][5]], selector.groups)
            same = group == other
            suppressed |= selector.iou is not None and same and inter > selector.iou * union
        if not suppressed:
            kept.append(index)
    return kept[: selector.max_detections]


@given(st.lists(CANDIDATE, max_size=14), SELECTOR, st.booleans())
def test_the_selection_equals_the_reference(candidates: list[Candidate], selector: Selector, many: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if many:
            patch.setattr(module, "_LOOP_LIMIT", 0)
        ((boxes, scores, class_ids),) = selector(*batch_of(candidates))
    kept = reference(candidates, selector)
    expected = batch_of([candidates[index] for index in kept])
    np.testing.assert_array_equal(boxes, expected[0][0])
    np.testing.assert_array_equal(scores, expected[1][0])
    np.testing.assert_array_equal(class_ids, expected[2][0])
    assert [found.dtype.name for found in (boxes, scores, class_ids)] == ["float32", "float32", "int32"]


@given(st.lists(st.lists(CANDIDATE, min_size=5, max_size=5), min_size=1, max_size=4), SELECTOR)
def test_a_batch_equals_single_images(images: list[list[Candidate]], selector: Selector) -> None:
    together = selector(*batch_of(*images))
    for found, image in zip(together, images, strict=True):
        (alone,) = selector(*batch_of(image))
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_array_equal(one, other)


def test_both_implementations_agree_on_a_thousand_candidates() -> None:
    random = np.random.default_rng(7)
    low = random.uniform(0, 100, (1000, 2))
    boxes = np.concatenate([low, low + random.uniform(5, 60, (1000, 2))], axis=1).astype(np.float32)
    class_ids = random.choice(3, 1000, p=[0.8, 0.1, 0.1]).astype(np.int32)
    scores = (random.permutation(1000) / 1000).astype(np.float32)
    selector = Selector(0.0, 0.5)
    few = selector._few(boxes.tolist(), scores.tolist(), class_ids.tolist(), np.arange(1000))
    many = selector._many(boxes, scores, class_ids, np.arange(1000))
    assert len(few[1]) > 100
    assert [np.asarray(one).tolist() for one in many[:3]] == list(few[:3])
    assert many[3][many[4]].tolist() == few[3][few[4]].tolist()


@pytest.mark.parametrize("places", [range(5), range(3, 8), range(0, 15, 3)])
def test_the_position_of_the_candidates_does_not_matter(places: range) -> None:
    candidates: list[Candidate] = [(0.0, 0.0, 1.0, 1.0, 0.1, 0)] * 20
    for number, place in enumerate(places):
        candidates[place] = (10.0 * number, 0.0, 10.0 * number + 5, 10.0, 0.5 + 0.1 * number, number)
    outputs = batch_of(candidates)
    ((boxes, scores, class_ids),) = Selector(0.4, 0.5)(*outputs)
    assert class_ids.tolist() == [4, 3, 2, 1, 0]
    assert boxes[:, 0].tolist() == [40, 30, 20, 10, 0]
    np.testing.assert_array_equal(scores, outputs[1][0][list(reversed(places))])
    outputs[0][:] = outputs[1][:] = 0  # the engine reuses its buffer
    assert boxes[0].tolist() == [40, 0, 45, 10]
    assert scores.all()


@pytest.mark.parametrize("classes", [None, frozenset({1})])
def test_a_typical_image_is_selected_without_releasing_the_gil(classes: frozenset[int] | None) -> None:
    # Releasing the GIL in between switches threads for each image, which costs more than the selection.
    outputs = batch_of([(10.0 * at, 10.0, 10.0 * at + 8, 20.0, 0.9 - 0.1 * at, at % 2) for at in range(8)])
    place, selector = letterbox(Size(1920, 1080), Size(416, 416), "center", GRAY), Selector(0.35, 0.6, classes)
    turns = 0
    done = threading.Event()

    def take_turns() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0)  # releases the lock, and waits for it

    other = threading.Thread(target=take_turns, daemon=True)
    interval = sys.getswitchinterval()
    try:
        other.start()
        sys.setswitchinterval(100)  # no thread is forced to release the lock
        time.sleep(0.001)
        before = turns
        for _ in range(2000):
            select(named(outputs), [place], selector)
        after = turns
    finally:
        sys.setswitchinterval(interval)
        done.set()
        other.join()
    assert after - before < 20  # of 2,000; other threads of this process may release it


def test_only_boxes_of_a_class_suppress_each_other() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    ((_, scores, class_ids),) = Selector(0.1, 0.5)(*batch_of([(*box, 0.5, 0), (*box, 0.9, 1), (*box, 0.8, 0)]))
    assert scores.tolist() == pytest.approx([0.9, 0.8])
    assert class_ids.tolist() == [1, 0]


def test_boxes_of_all_classes_suppress_each_other_on_request() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    ((_, scores, class_ids),) = Selector(0.1, 0.5, groups=None)(*batch_of([(*box, 0.5, 0), (*box, 0.9, 1), (*box, 0.8, 2)]))
    assert scores.tolist() == pytest.approx([0.9])
    assert class_ids.tolist() == [1]


def test_an_overlap_equal_to_the_threshold_stays() -> None:
    halves: list[Candidate] = [(0.0, 0.0, 10.0, 10.0, 0.9, 0), (0.0, 0.0, 10.0, 5.0, 0.8, 0)]
    assert len(Selector(0.1, 0.5)(*batch_of(halves))[0][1]) == 2
    assert len(Selector(0.1, 0.49)(*batch_of(halves))[0][1]) == 1


def test_classes_are_filtered_before_suppression_and_the_limit() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    selector = Selector(0.1, 0.5, classes=frozenset({1}), max_detections=1)
    ((_, _, class_ids),) = selector(*batch_of([(*box, 0.9, 0), (*box, 0.5, 1)]))
    assert class_ids.tolist() == [1]


def test_boxes_are_mapped_to_the_source_and_clipped() -> None:
    place = letterbox(Size(200, 100), Size(100, 100), "center", GRAY)  # content at y 25–75, half size
    outputs = batch_of(
        [
            (10.0, 35.0, 30.0, 45.0, 0.9, 0),
            (-20.0, 10.0, 130.0, 95.0, 0.8, 1),
            (40.0, 5.0, 60.0, 25.0, 0.7, 0),  # only in the fill above the image
            (5.0, 40.0, 5.0, 50.0, 0.6, 0),  # no width
            (60.0, 50.0, 50.0, 60.0, 0.5, 0),  # right edge before the left one
        ]
    )
    (found,) = select(named(outputs), [place], Selector(0.1, 0.5, label_names=("cat", "dog")))
    np.testing.assert_allclose(found.boxes, [[20, 20, 60, 40], [0, 0, 200, 100]])
    assert found.labels == ["cat", "dog"]
    assert found.boxes.dtype == np.float32
    assert found.track_ids is None


def test_the_padding_of_a_batch_is_ignored() -> None:
    candidate: Candidate = (0.0, 0.0, 10.0, 10.0, 0.9, 0)
    places = [letterbox(Size(10, 10), Size(20, 20), "top_left", GRAY), letterbox(Size(40, 40), Size(20, 20), "stretch", GRAY)]
    found = select(named(batch_of([candidate], [candidate], [candidate])), places, Selector(0.1, 0.5))
    assert [one.boxes.tolist() for one in found] == [[[0, 0, 5, 5]], [[0, 0, 20, 20]]]


def test_no_candidate_above_the_minimum_gives_no_detection() -> None:
    place = letterbox(Size(10, 10), Size(20, 20), "center", GRAY)
    (found,) = select(named(batch_of([(0.0, 0.0, 10.0, 10.0, 0.2, 0)])), [place], Selector(0.5, 0.5, classes=frozenset({0})))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "wrong", [{"confidence": 1.5}, {"confidence": float("nan")}, {"iou": -0.1}, {"iou": 2.0}, {"max_detections": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Selector(**{"confidence": 0.5, "iou": 0.5, **wrong})  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused() -> None:
    boxes, scores, class_ids = batch_of([(0.0, 0.0, 10.0, 10.0, 0.2, 0)])
    with pytest.raises(ValueError, match=r"\(1, 1\) and \(1, 2\)"):
        Selector(0.5, 0.5)(boxes, scores, np.zeros((1, 2), np.int32))
    with pytest.raises(ValueError, match="cannot hold 2 images"):
        select(named((boxes, scores, class_ids)), [letterbox(Size(1, 1), Size(1, 1), "center", GRAY)] * 2, Selector(0.5, 0.5))


def test_the_limit_holds_without_suppression() -> None:
    ((_, scores, _),) = Selector(0.1, None, max_detections=2)(*batch_of([(0.0, 0.0, 9.0, 9.0, s, 0) for s in (0.5, 0.9, 0.7)]))
    assert scores.tolist() == pytest.approx([0.9, 0.7])


def test_a_class_may_have_its_own_minimum_confidence() -> None:
    boxes = np.array([[[20 * n, 0, 20 * n + 10, 10] for n in range(6)]], np.float32)
    scores = np.array([[0.35, 0.34, 0.9, 0.69, 0.2, 0.19]], np.float32)
    class_ids = np.array([[0, 0, 1, 1, 2, 2]], np.int32)
    ((_, found, kinds),) = Selector(confidence=0.35, iou=0.5, per_class={1: 0.7, 2: 0.2})(boxes, scores, class_ids)
    assert list(zip(kinds.tolist(), found.tolist(), strict=True)) == [
        (1, float(np.float32(0.9))),
        (0, float(np.float32(0.35))),  # exactly the limit, as a float32
        (2, float(np.float32(0.2))),
    ]
    with pytest.raises(ValueError, match=r"1\.5"):
        Selector(confidence=0.35, iou=None, per_class={0: 1.5})
