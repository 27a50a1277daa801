"""Objects that come back get the identity that they had, by their appearance."""

from __future__ import annotations

import gc
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.analyze.identity.gallery import Appearance, Galleries, Gallery
from vision_infer.analyze.identity.identities import HELD_S, LOOKS, Identities
from vision_infer.core.description import Description
from vision_infer.core.detections import Detections

FPS = 10.0
RED, GREEN, BLUE = np.eye(3, dtype=np.float32)


def frame(objects: dict[int, NDArray[np.float32] | None]) -> Detections:
    """Return detections with these tracks and embeddings; None: the secondary model did not look at it."""
    count = len(objects)
    return Detections(
        np.tile(np.array([0, 0, 10, 20], np.float32), (count, 1)),
        np.full(count, 0.9, np.float32),
        np.zeros(count, np.int32),
        track_ids=np.array(list(objects), np.int32),
        descriptions=tuple(None if one is None else Description(embedding=one) for one in objects.values()),
    )


def watch(
    identities: Identities, objects: dict[int, NDArray[np.float32] | None], start_s: float, frames: int = LOOKS
) -> dict[int, int]:
    """Show the same objects in some frames; return their identities in the last one, by track."""
    found = Detections.empty()
    for number in range(frames):
        found = identities.assign(frame(objects), start_s + number / FPS)
    assert found.identities is not None
    return dict(zip(objects, found.identities.tolist(), strict=True))


def near(embedding: NDArray[np.float32], seed: int, far: float = 0.1) -> NDArray[np.float32]:
    changed = embedding + np.random.default_rng(seed).normal(0, far, embedding.shape).astype(np.float32)
    unit: NDArray[np.float32] = changed / np.linalg.norm(changed)
    return unit


def test_an_object_that_comes_back_as_another_track_keeps_its_identity() -> None:
    identities = Identities(Gallery())
    assert watch(identities, {1: RED, 2: GREEN}, 0) == {1: 1, 2: 2}
    assert watch(identities, {7: near(GREEN, 0), 8: BLUE, 9: near(RED, 1)}, 60) == {7: 2, 8: 3, 9: 1}


def test_an_identity_is_known_after_some_embeddings_and_does_not_change_in_a_track() -> None:
    identities, chance = Identities(Gallery()), np.random.default_rng(0)
    numbers = []
    for number in range(50):  # the later ones do not resemble the first ones
        found = identities.assign(frame({1: near(RED if number < 10 else BLUE, int(chance.integers(1000)))}), number / FPS)
        assert found.identities is not None
        numbers.append(int(found.identities[0]))
    assert numbers == [0] * (LOOKS - 1) + [1] * (50 - LOOKS + 1)


def test_results_have_no_embeddings() -> None:
    assert Identities(Gallery()).assign(frame({1: RED}), 0).descriptions is None


def test_the_embeddings_of_a_track_are_averaged() -> None:
    identities = Identities(Gallery())
    mixed = [RED, GREEN, RED, GREEN]
    for number, embedding in enumerate(mixed):
        identities.assign(frame({1: embedding}), number / FPS)
    half = (RED + GREEN) / np.float32(np.sqrt(2))
    assert watch(identities, {2: half}, 10) == {2: 1}
    assert identities.gallery.appearance(1).mean == pytest.approx((RED + GREEN) / 2, abs=0.15)


def test_only_what_is_nearer_than_the_threshold_is_the_same() -> None:
    distance = 0.3
    other = np.array([1 - distance, np.sqrt(1 - (1 - distance) ** 2), 0], np.float32)
    for threshold, expected in ((0.29, 2), (0.31, 1)):
        identities = Identities(Gallery())
        identities.threshold = threshold
        watch(identities, {1: RED}, 0)
        assert watch(identities, {2: other}, 10) == {2: expected}


def test_the_time_out_is_in_the_time_of_the_stream() -> None:
    identities = Identities(Gallery())
    identities.timeout_s = 20
    watch(identities, {1: RED}, 0, frames=1 + round(10 * FPS))  # it is seen until 10 s
    assert watch(identities, {2: RED}, 29) == {2: 1}
    assert watch(identities, {3: RED}, 60) == {3: 2}
    assert len(identities.gallery) == 1  # the first one is not in memory any longer


def test_an_object_that_stays_is_known_longer_than_the_time_out() -> None:
    identities = Identities(Gallery())
    identities.timeout_s = 5
    watch(identities, {1: RED}, 0)
    for second in range(1, 30):  # the motion gate skips the frames
        identities.stay(float(second))
    assert watch(identities, {1: RED, 2: BLUE}, 30) == {1: 1, 2: 2}
    assert watch(identities, {3: RED}, 33) == {3: 1}


def test_two_tracks_that_are_visible_together_never_have_one_identity() -> None:
    identities = Identities(Gallery())
    assert watch(identities, {1: RED, 2: RED}, 0) == {1: 1, 2: 2}
    assert watch(identities, {1: RED, 2: RED, 3: RED}, 10) == {1: 1, 2: 2, 3: 3}


def test_two_new_tracks_share_no_identity_and_the_nearest_gets_it() -> None:
    identities = Identities(Gallery())
    watch(identities, {1: RED}, 0)
    far = np.array([0.9, 0.43589, 0], np.float32)
    assert watch(identities, {2: far, 3: RED}, 10) == {2: 2, 3: 1}


def test_a_lost_track_that_returns_after_another_one_has_its_identity_gets_another() -> None:
    identities = Identities(Gallery())
    watch(identities, {1: RED}, 0)
    assert watch(identities, {2: RED}, 1) == {2: 1}  # the tracker has begun a new track
    seen = [identities.assign(frame({1: RED, 2: RED}), 1.3 + number / FPS).identities for number in range(6)]
    assert [None if one is None else one.tolist() for one in seen] == [[0, 1]] * 2 + [[2, 1]] * 4


def test_a_track_that_is_missing_in_single_frames_keeps_its_identity_from_others() -> None:
    identities = Identities(Gallery())
    watch(identities, {1: RED, 2: RED}, 0, LOOKS - 1)
    watch(identities, {1: RED}, 0.2, 1)
    assert watch(identities, {2: RED}, 0.2 + HELD_S / 2, 1) == {2: 2}


def test_a_track_without_embeddings_has_no_identity_until_it_gets_some() -> None:
    """The secondary model looks at a limited number of detections, and may fail."""
    identities = Identities(Gallery())
    assert watch(identities, {1: None}, 0, frames=20) == {1: 0}
    assert watch(identities, {1: RED, 0: RED}, 3) == {1: 1, 0: 0}
    assert watch(identities, {1: None}, 4) == {1: 1}


def test_frames_without_a_time_count_as_steps() -> None:
    identities = Identities(Gallery())
    seen = [identities.assign(frame({1: RED}), None).identities for _ in range(LOOKS)]
    assert seen[-1] is not None
    assert seen[-1].tolist() == [1]


def test_a_very_low_frame_rate_is_followed() -> None:
    identities = Identities(Gallery())
    identities.timeout_s = 1
    found = [identities.assign(frame({1: RED}), 10.0 * number).identities for number in range(8)]
    assert [None if one is None else one.tolist() for one in found[LOOKS - 1 :]] == [[1]] * (9 - LOOKS)


def test_a_gallery_is_bounded_and_forgets_what_was_not_seen_for_the_longest_time() -> None:
    gallery = Gallery(limit=3)
    for identity in (1, 2, 3, 1, 4):
        gallery.see(identity, Appearance(RED), 100)
    known, distances = gallery.compare([Appearance(RED)], {3})
    assert (known, distances.tolist()) == ([1, 4], [[0, 0]])


def test_a_visible_object_outlives_a_full_gallery() -> None:
    identities = Identities(Gallery(limit=2))
    objects = {number: np.eye(8, dtype=np.float32)[number] for number in range(1, 6)}
    assert watch(identities, objects, 0, 10) == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}


def test_a_mean_follows_an_object_that_changes() -> None:
    appearance = Appearance(RED)
    distances = []
    for _ in range(400):
        appearance.add(BLUE)
        distances.append(float(np.linalg.norm(appearance.mean - BLUE)))
    assert all(later < earlier for earlier, later in pairwise(distances))
    assert distances[-1] < 0.02


def test_cameras_of_a_group_share_a_gallery_while_one_uses_it() -> None:
    galleries = Galleries()
    first, second = (Identities(galleries.of("", "m")) for _ in range(2))
    others = [galleries.of(None, "m"), galleries.of("yard", "m"), galleries.of("", "other")]
    assert all(one is not first.gallery for one in others)
    assert watch(first, {1: RED}, 0) == {1: 1}
    assert watch(second, {1: BLUE, 2: RED}, 10) == {1: 2, 2: 1}  # it may also be visible in both at once
    assert watch(first, {1: RED}, 10) == {1: 1}
    del first, second
    gc.collect()
    assert len(galleries.of("", "m")) == 0


def test_embeddings_of_another_length_are_not_compared() -> None:
    identities = Identities(Gallery())
    watch(identities, {1: RED}, 0)
    assert watch(identities, {2: np.array([1, 0], np.float32)}, 10) == {2: 2}
