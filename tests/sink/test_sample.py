"""The choice of frames that are worth labeling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.sink.results import embedded, found, frame, result_of, secondary, whole
from vision_infer.core.description import ClassScore, Description
from vision_infer.core.detections import Detections
from vision_infer.sink.datasets.sample import EveryNth, LeastCertain, MostDisputed, MostDiverse, Sampler, sampler_of


def scored(*scores: float) -> Detections:
    return replace(found(len(scores)), scores=np.array(scores, np.float32))


def chosen(sampler: Sampler, offers: Sequence[tuple[str, float | None, Detections]]) -> set[str]:
    """Offer frames by name, time and detections, and return the names that are left."""
    kept: set[str] = set()
    for number, (name, pts_s, detections) in enumerate(offers):
        one = frame(number, pts_s)
        replaced = sampler.offer(name, result_of(one, detections), one.image)
        if replaced is not None:
            assert kept.issuperset(replaced)
            kept = kept.difference(replaced) | {name}
    return kept


def test_the_least_certain_frame_of_a_second_is_chosen() -> None:
    offers = [
        ("certain", 0.1, scored(0.9, 0.95)),
        ("unsure", 0.5, scored(0.9, 0.55)),
        ("also unsure", 0.9, scored(0.6)),
        ("next second", 1.0, scored(0.8)),
        ("nothing", 2.0, scored()),
    ]
    assert chosen(LeastCertain(10), offers) == {"unsure", "next second"}


def test_the_least_certain_seconds_are_chosen() -> None:
    offers = [(str(score), float(second), scored(score)) for second, score in enumerate((0.9, 0.45, 0.99, 0.6, 0.05, 0.52))]
    assert chosen(LeastCertain(3), offers) == {"0.45", "0.6", "0.52"}


def test_the_frames_on_which_two_models_differ_most_are_chosen() -> None:
    differences = {0: (0.0, 0.0), 1: (1.0, 0.5), 2: (0.0, 2.0), 3: (2.0, 0.0), 4: (1.0, 0.75)}
    sampler = MostDisputed(2, lambda result, _: differences[result.frame])
    offers = [(str(number), float(number), scored(0.9)) for number in differences]
    assert chosen(sampler, offers) == {"3", "4"}
    alike = MostDisputed(2, lambda *_: (0.0, 0.0))
    assert chosen(alike, offers) == set()


def test_images_without_times_are_chosen_each() -> None:
    assert chosen(LeastCertain(2), [("a", None, scored(0.5)), ("b", None, scored(0.51)), ("c", None, scored(0.9))]) == {"a", "b"}


def test_a_classifier_is_least_certain_between_two_classes() -> None:
    sampler, one = LeastCertain(1), frame()
    sure = Description(classes=(ClassScore(0, "a", 0.55), ClassScore(1, "b", 0.1)))
    unsure = Description(classes=(ClassScore(0, "a", 0.6), ClassScore(1, "b", 0.39)))
    assert sampler.offer("sure", whole(one, sure), one.image) == []
    assert sampler.offer("unsure", whole(frame(1, 5.0), unsure), one.image) == ["sure"]


def test_every_nth_frame_of_each_stream() -> None:
    sampler, names = EveryNth(3, None), []
    for number in range(7):
        for stream in ("a", "b"):
            one = frame(number, stream=stream)
            if sampler.offer(f"{stream}{number}", result_of(one), one.image) == []:
                names.append(f"{stream}{number}")
    assert names == ["a0", "b0", "a3", "b3", "a6", "b6"]


def test_every_nth_frame_up_to_a_limit() -> None:
    assert chosen(EveryNth(2, 2), [(str(at), 0.0, scored()) for at in range(9)]) == {"0", "2"}


def test_different_images_are_chosen() -> None:
    sampler = MostDiverse(3)
    kept: set[str] = set()
    for number, brightness in enumerate((10, 11, 12, 13, 200, 90, 201, 14, 91)):
        one = frame(number, rgb=np.full((64, 96, 3), brightness, np.uint8))
        replaced = sampler.offer(str(brightness), result_of(one), one.image)
        if replaced is not None:
            kept = kept.difference(replaced) | {str(brightness)}
    values = sorted(int(name) for name in kept)
    assert values[0] <= 14
    assert values[1] in (90, 91)
    assert values[2] in (200, 201)


def test_the_same_image_is_chosen_once() -> None:
    same = [(str(at), float(at), scored()) for at in range(3)]
    sampler, one = MostDiverse(3), frame(0)
    assert [sampler.offer(name, result_of(one), one.image) for name, *_ in same] == [[], None, None]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_chosen_images_are_far_apart(limit: int) -> None:
    random = np.random.default_rng(1)
    sampler, points = MostDiverse(limit), {}
    kept: set[str] = set()
    for number, point in enumerate(random.normal(size=(200, 5)).astype(np.float32)):
        one = frame(number)
        points[str(number)] = point
        replaced = sampler.offer(str(number), whole(one, Description(embedding=point)), one.image)
        if replaced is not None:
            kept = kept.difference(replaced) | {str(number)}
    assert len(kept) == limit

    def closest(names: set[str]) -> float:
        found = np.array([points[name] for name in names])
        pairs = np.linalg.norm(found[:, None] - found[None], axis=2)[~np.eye(len(found), dtype=bool)]
        return float(pairs.min(initial=np.inf))

    first = {str(number) for number in range(limit)}
    assert closest(kept) >= closest(first)
    # Farther apart than a random choice in most cases; here, than every one of twenty.
    others = [{str(name) for name in random.choice(200, limit, replace=False)} for _ in range(20)]
    assert limit == 1 or all(closest(kept) > closest(other) for other in others)


def test_embeddings_replace_the_comparison_of_images() -> None:
    sampler = MostDiverse(2)
    blank, one, two = frame(0), frame(1), frame(2)
    assert sampler.offer("image", result_of(blank, found(0)), blank.image) == []
    assert sampler.offer("one", result_of(one, secondary(embedded(0.1))), one.image) == ["image"]
    assert sampler.offer("two", result_of(two, secondary(embedded(0.9), None)), two.image) == []
    assert sampler.offer("image 2", result_of(blank, found(0)), blank.image) is None


def test_the_setting_selects_the_sampler() -> None:
    assert [type(sampler_of(one, None)) for one in ("uncertain", "diverse", "every:2")] == [LeastCertain, MostDiverse, EveryNth]
