"""Tracking: fabricated objects whose true identity is known."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from vision_infer.analyze.track import Tracker
from vision_infer.core.detections import Detections

Seen = tuple[float, float, float, int]
"""The center x, center y (pixels), score and class."""


def frame(seen: Iterable[Seen], width: float = 40, height: float = 80) -> Detections:
    """Detections of objects of one size, in the order given."""
    rows = list(seen)
    boxes = [[x - width / 2, y - height / 2, x + width / 2, y + height / 2] for x, y, _, _ in rows]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float32),
        np.array([row[3] for row in rows], np.int32),
        ("person", "dog"),
    )


def follow(tracker: Tracker, frames: Iterable[Iterable[Seen]], fps: float | None = 30) -> list[list[int]]:
    """Return the track ids of each frame."""
    found = []
    for number, seen in enumerate(frames):
        result = tracker.update(frame(seen), None if fps is None else number / fps)
        assert result.track_ids is not None
        found.append(result.track_ids.tolist())
    return found


@pytest.mark.parametrize(("fps", "hits"), [(30, 3), (10, 3), (5, 2), (0.5, 2)])
def test_several_detections_confirm_a_track(fps: float, hits: int) -> None:
    found = follow(Tracker(), [[(100.0 + 3 * t, 100.0, 0.9, 0)] for t in range(5)], fps)
    assert found == [[]] * (hits - 1) + [[1]] * (6 - hits)


def test_flicker_is_not_reported_and_uses_no_number() -> None:
    found = follow(Tracker(), [[(100, 100, 0.9, 0)], [(101, 100, 0.9, 0)], *[[]] * 9, *[[(500, 100, 0.9, 0)]] * 4])
    assert found == [[]] * 13 + [[1]] * 2


def test_a_track_survives_a_missed_frame_before_it_is_confirmed() -> None:
    assert follow(Tracker(), [[(100, 100, 0.9, 0)], [], [(102, 100, 0.9, 0)], [(103, 100, 0.9, 0)]]) == [[], [], [], [1]]


def test_rare_flicker_in_one_place_is_not_confirmed() -> None:
    frames: list[list[Seen]] = [[(100, 100, 0.9, 0)] if t % 5 == 0 else [] for t in range(60)]
    assert follow(Tracker(), frames) == [[]] * 60


def test_a_new_track_starts_where_it_was_first_detected() -> None:
    tracker = Tracker()
    follow(tracker, [[(100.0 + 9 * t, 100.0, 0.9, 0)] for t in range(3)])
    assert {number: box.tolist() for number, box in tracker.started.items()} == {1: [80, 60, 120, 140]}
    follow(tracker, [[(127.0, 100.0, 0.9, 0)]])
    assert tracker.started == {}


def test_the_result_is_the_input_with_numbers() -> None:
    tracker = Tracker(confidence=0.5)
    seen: list[Seen] = [(300, 100, 0.6, 1), (100, 100, 0.9, 0), (500, 100, 0.45, 0), (200, 100, 0.7, 0)]
    given = frame(seen)
    follow(tracker, [seen] * 2)
    result = tracker.update(given, 2 / 30)
    expected = given[np.array([0, 1, 3])]  # 0.45 belongs to no track and is below the confidence
    np.testing.assert_array_equal(result.boxes, expected.boxes)
    np.testing.assert_array_equal(result.scores, expected.scores)
    assert result.labels == ["dog", "person", "person"]
    assert result.track_ids is not None
    assert result.track_ids.dtype == np.int32
    assert result.track_ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize("fps", [30, 10, None])
def test_crossing_objects_keep_their_numbers(fps: float | None) -> None:
    speed = 4.0 if fps is None else 4.0 * 30 / fps
    frames = [[(100 + speed * t, 100.0, 0.9, 0), (420 - speed * t, 110.0, 0.9, 0)] for t in range(int(320 / speed))]
    found = follow(Tracker(), frames, fps)
    assert found[2:] == [[1, 2]] * (len(frames) - 2)


def test_the_order_of_detections_does_not_matter() -> None:
    frames = [[(100 + 4.0 * t, 100.0, 0.9, 0), (420 - 4.0 * t, 110.0, 0.9, 0)][:: -1 if t % 3 == 2 else 1] for t in range(80)]
    for number, ids in enumerate(follow(Tracker(), frames)[2:], start=2):
        assert ids == ([1, 2] if number % 3 == 2 else [2, 1])


@pytest.mark.parametrize("hidden", [1, 5, 20, 28])
def test_a_hidden_object_reappears_with_its_number(hidden: int) -> None:
    frames = [[(100 + 3.0 * t, 100.0, 0.9, 0)] if not 20 <= t < 20 + hidden else [] for t in range(60)]
    found = follow(Tracker(buffer_s=1.0), frames)
    assert found[19] == [1]
    assert found[20 + hidden :] == [[1]] * (40 - hidden)


def test_an_object_that_is_hidden_for_too_long_gets_a_new_track() -> None:
    frames = [[(100.0, 100.0, 0.9, 0)] if not 20 <= t < 55 else [] for t in range(60)]
    assert follow(Tracker(buffer_s=1.0), frames)[55:] == [[], [], [2], [2], [2]]


def test_a_low_score_keeps_a_track_but_begins_none_and_is_not_reported() -> None:
    scores = [0.2 if 5 <= t < 20 else 0.9 for t in range(30)]
    frames: list[list[Seen]] = [[(100 + 3.0 * t, 100.0, score, 0), (500.0, 100.0, 0.2, 0)] for t, score in enumerate(scores)]
    tracker = Tracker(confidence=0.4, buffer_s=0.2)
    assert follow(tracker, frames) == [[]] * 2 + [[1]] * 3 + [[]] * 15 + [[1]] * 10
    followed = tracker.followed.track_ids
    assert followed is not None
    assert followed.tolist() == [1]


def test_zones_follow_a_track_of_low_scores_for_a_second() -> None:
    tracker = Tracker(confidence=0.4)
    found = []
    for t in range(60):
        assert len(tracker.update(frame([(100, 100, 0.9 if t < 5 else 0.2, 0)]), t / 30)) == (2 <= t < 5)
        found.append(len(tracker.followed))
    assert found == [0] * 2 + [1] * 33 + [0] * 25


@pytest.mark.parametrize(("floor", "kept"), [(0.1, [1]), (0.3, [2])])
def test_the_floor_is_the_minimum_score_that_keeps_a_track(floor: float, kept: list[int]) -> None:
    frames: list[list[Seen]] = [[(100 + 3.0 * t, 100.0, 0.2 if 5 <= t < 40 else 0.9, 0)] for t in range(50)]
    assert follow(Tracker(confidence=0.4, floor=floor, buffer_s=0.5), frames)[-1] == kept


def test_a_score_below_the_low_one_keeps_nothing() -> None:
    frames: list[list[Seen]] = [[(100.0, 100.0, 0.9 if t < 5 else 0.05, 0)] for t in range(10)]
    assert follow(Tracker(), frames)[5:] == [[]] * 5


def test_an_object_is_one_track_whose_class_is_decided_by_vote() -> None:
    frames: list[list[Seen]] = [[(100.0 + 2 * t, 100.0, 0.9 if t % 3 else 0.8, int(t % 3 == 0))] for t in range(30)]
    tracker = Tracker()
    found = [tracker.update(frame(seen), t / 30) for t, seen in enumerate(frames)]
    assert [one.track_ids.tolist() for one in found[2:] if one.track_ids is not None] == [[1]] * 28
    assert [one.class_ids.tolist() for one in found[2:]] == [[0]] * 28


def test_only_tracks_of_the_requested_classes_are_reported() -> None:
    frames: list[list[Seen]] = [[(100.0, 100.0, 0.9, int(t % 3 == 0)), (300.0, 100.0, 0.8, 1)] for t in range(9)]
    assert follow(Tracker(classes={1}), frames)[2:] == [[2]] * 7


def test_classes_are_kept_apart_on_request() -> None:
    frames: list[list[Seen]] = [[(100.0, 100.0, 0.9, int(t >= 10))] for t in range(20)]
    found = follow(Tracker(agnostic=False), frames)
    assert found[9:13] == [[1], [], [], [2]]
    together = follow(Tracker(agnostic=False), [[(100.0, 100.0, 0.9, 1), (100.0, 100.0, 0.8, 0)]] * 4)
    assert together[2:] == [[1, 2]] * 2


def test_a_person_on_a_bicycle_are_two_tracks() -> None:
    frames: list[list[Seen]] = [[(100.0 + 3 * t, 100.0, 0.9, 0), (100.0 + 3 * t, 125.0, 0.8, 1)] for t in range(20)]
    frames[10].pop(0)  # the bicycle alone must not take over the track of the person
    assert follow(Tracker(), frames)[2:] == [[1, 2]] * 8 + [[2]] + [[1, 2]] * 9


def test_a_rider_and_the_motorcycle_stay_two_tracks_after_a_missed_detection() -> None:
    frames: list[list[Seen]] = [[(100.0 + 3 * t, 100.0, 0.9, 0), (100.0 + 3 * t, 102.0, 0.8, 1)] for t in range(20)]
    frames[1].pop(0)  # the motorcycle alone, on the track of the person
    assert sorted(follow(Tracker(groups={}), frames)[-1]) == [1, 2]


def test_one_box_with_two_unlike_classes_is_one_track() -> None:
    """A person who enters at the lower edge is also seen as a dog."""
    dog, person = 1, 0
    frames: list[list[Seen]] = [[(100.0, 100.0, 0.6, dog)]] * 4 + [[(100.0, 100.0, 0.8, person)]] * 2
    frames += [[(100.0, 100.0, 0.6, person), (100.0, 100.0, 0.5, dog)]] * 10
    assert follow(Tracker(groups={}), frames)[2:] == [[1]] * 14


def test_a_second_box_of_an_object_starts_no_track() -> None:
    whole, part = (100, 60, 180, 100), (100, 60, 145, 100)  # IoU 0.56
    tracker = Tracker()
    for t in range(10):
        boxes = np.array([[x + 3 * t, y, right + 3 * t, bottom] for x, y, right, bottom in (whole, part)], np.float32)
        found = tracker.update(Detections(boxes, np.array([0.9, 0.7], np.float32), np.zeros(2, np.int32)), t / 30)
        assert len(found) == (t >= 2)


@pytest.mark.parametrize("step", [30, 60, 90])
def test_fast_objects_at_a_low_rate_are_tracked_without_overlap(step: float) -> None:
    frames: list[list[Seen]] = [[(100 + step * t, 100.0, 0.9, 0), (900 - step * t, 250.0, 0.9, 0)] for t in range(8)]
    assert follow(Tracker(), frames, fps=5)[1:] == [[1, 2]] * 7


@pytest.mark.parametrize("every", [1, 2, 3, 6])
def test_skipped_frames_are_bridged_by_time(every: int) -> None:
    tracker = Tracker()
    found = []
    for t in range(0, 120, every):
        result = tracker.update(frame([(100 + 4.0 * t, 100.0, 0.9, 0)], width=60), t / 30)
        assert result.track_ids is not None
        found.append(result.track_ids.tolist())
    assert found[2:] == [[1]] * (len(found) - 2)


def test_a_gap_in_time_longer_than_the_buffer_ends_all_tracks() -> None:
    tracker = Tracker(buffer_s=1.0)
    follow(tracker, [[(100.0, 100.0, 0.9, 0)]] * 10)
    ids = [tracker.update(frame([(100.0, 100.0, 0.9, 0)]), 60 + t / 30).track_ids for t in range(3)]
    assert [None if one is None else one.tolist() for one in ids] == [[], [], [2]]


def test_a_stream_slower_than_the_buffer_is_tracked() -> None:
    seen: list[list[Seen]] = [[(100.0 + t, 100.0, 0.9, 0)] if t != 5 else [] for t in range(8)]
    assert follow(Tracker(buffer_s=1.0), seen, fps=0.2) == [[], [1], [1], [1], [1], [], [1], [1]]


@pytest.mark.parametrize("strange", [0.0, -5.0, float("nan"), float("inf"), float("-inf"), None])
def test_strange_times_count_as_one_step(strange: float | None) -> None:
    tracker = Tracker()
    times: list[float | None] = [5.0, 5.03, strange, 5.1, 5.13]
    found = [tracker.update(frame([(100 + 3.0 * t, 100.0, 0.9, 0)]), pts) for t, pts in enumerate(times)]
    if strange in (0.0, -5.0):  # the time then jumps five seconds: a gap
        found = found[:3]
    assert [one.track_ids.tolist() for one in found[1:] if one.track_ids is not None][1:] == [[1]] * (len(found) - 2)


def test_empty_frames_do_no_harm() -> None:
    tracker = Tracker()
    for number in range(5):
        result = tracker.update(Detections.empty(("person",)), number / 30)
        assert len(result) == 0
        assert result.track_ids is not None
        assert result.track_ids.shape == (0,)
    assert follow(tracker, [[(100.0, 100.0, 0.9, 0)]] * 3) == [[], [], [1]]


def test_an_object_with_two_tracks_keeps_the_older_number() -> None:
    frames: list[list[Seen]] = [[(100.0, 100.0, 0.9, 0)]] * 40
    frames += [[(190.0 - 3 * t, 100.0, 0.9, 0)] for t in range(34)]  # it jumps away, then moves back over its old position
    found = follow(Tracker(), frames)
    assert found[44] == [2]
    assert found[-1] == [1]


def random_frames(seed: int, count: int) -> Iterable[Detections]:
    """Random detections: up to 30 boxes anywhere."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        amount = int(random.integers(0, 31))
        low = random.uniform(0, 600, (amount, 2))
        boxes = np.concatenate((low, low + random.uniform(0, 200, (amount, 2))), axis=1).astype(np.float32)
        scores = random.uniform(0, 1, amount).astype(np.float32)
        yield Detections(boxes, scores, random.integers(0, 3, amount).astype(np.int32))


@pytest.mark.slow
def test_memory_is_bounded_and_numbers_are_unique_over_ten_thousand_frames() -> None:
    tracker = Tracker(buffer_s=100.0, max_lost=50)
    highest = 0
    for number, detections in enumerate(random_frames(1, 10_000)):
        result = tracker.update(detections, number / 30)
        assert result.track_ids is not None
        given = result.track_ids[result.track_ids > 0].tolist()
        assert len(set(given)) == len(given)
        assert len(tracker._tracks.ids) <= 50 + 30 * 30
        for one in sorted(given):
            assert one <= highest + 1  # numbers increase by one, so none is used twice
            highest = max(highest, one)
    assert highest > 200
    assert np.isfinite(tracker._tracks.motion).all()


def test_lost_tracks_expire() -> None:
    tracker = Tracker(buffer_s=0.5)
    follow(tracker, [[(100.0 * n, 100.0, 0.9, 0) for n in range(9)]] * 3 + [[]] * 5)
    assert len(tracker._tracks.ids) == 9
    follow(tracker, [[]] * 20)
    assert len(tracker._tracks.ids) == 0


def test_the_same_detections_give_the_same_numbers() -> None:
    runs = []
    for _ in range(2):
        tracker = Tracker()
        results = [tracker.update(one, number / 30).track_ids for number, one in enumerate(random_frames(5, 200))]
        runs.append([one.tolist() for one in results if one is not None])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"confidence": 1.1},
        {"floor": -0.1},
        {"buffer_s": 0.0},
        {"buffer_s": float("nan")},
        {"max_lost": -1},
    ],
)
def test_inconsistent_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Tracker(**wrong)  # type: ignore[arg-type]


def test_a_class_with_a_higher_minimum_begins_no_track_below_it_but_is_followed() -> None:
    tracker = Tracker(confidence=0.3, per_class={1: 0.7})
    frames = [[(100.0 + t, 100.0, 0.5, 1), (400.0 + t, 100.0, 0.5, 0)] for t in range(4)]
    assert follow(tracker, frames) == [[], [], [1], [1]]  # of class 0 only
    frames = [[(100.0 + t, 300.0, score, 1)] for t, score in enumerate((0.8, 0.8, 0.8, 0.5, 0.15, 0.8))]
    assert follow(Tracker(confidence=0.3, per_class={1: 0.7}), frames) == [[], [], [1], [], [], [1]]


def test_a_class_with_a_lower_minimum_begins_tracks_there() -> None:
    frames = [[(100.0 + t, 100.0, 0.25, 1), (400.0 + t, 100.0, 0.25, 0)] for t in range(4)]
    assert follow(Tracker(confidence=0.5, per_class={1: 0.2}), frames) == [[], [], [1], [1]]
    with pytest.raises(ValueError, match="per_class"):
        Tracker(per_class={0: -0.1})
