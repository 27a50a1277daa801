"""Several devices for one lane: none is idle while a frame waits, and streams share all of them by weight."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule.device import MS, Device, Network
from vision_infer.schedule.batcher import Batch, Batcher
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.schedule.queues import BoundedQueue, QueuedItem

SMALL = Network(2 * MS, 1 * MS, (1, 2, 4))
NUMBERS = itertools.count()
ONE, TWO = (LaneSettings("lane", (1, 2), 1, device=f"cuda:{gpu}", gpu=gpu) for gpu in (0, 1))


def batcher_of(*replicas: LaneSettings, homes: dict[str, int | None] | None = None) -> Batcher[str]:
    """Return a batcher of one lane; the images of a stream are on its home, and the items are the names of their streams."""
    batcher: Batcher[str] = Batcher(max(one.in_flight for one in replicas), (homes or {}).get)
    batcher.add_lane(replicas[0])
    for settings_ in replicas[1:]:
        batcher.add_replica(settings_)
    return batcher


def offer(batcher: Batcher[str], stream: str, count: int = 1) -> None:
    if stream not in batcher.streams:
        batcher.join(stream, "lane", BoundedQueue(64))
    for _ in range(count):
        batcher.offer(stream, "lane", QueuedItem(stream, next(NUMBERS), 0))


def taken(batcher: Batcher[str]) -> Batch[str]:
    batch = batcher.take(0)
    assert batch is not None
    return batch


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2, max_size=5),
    slower=st.lists(st.sampled_from([1.0, 1.5, 6.0]), min_size=1, max_size=3),
    in_flight=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_streams_share_devices_of_different_speed_by_weight(
    weights: list[float], slower: list[float], in_flight: int, seed: int
) -> None:
    device = Device(in_flight, {"small": replace(SMALL, spread=0.3)}, seed, slower=slower)
    for number, weight in enumerate(weights):
        device.join(f"s{number}", "small", weight, backlogged=True)
    device.run(lambda: device.now_ns > 8_000 * MS)
    served = [stream.served / weight for stream, weight in zip(device.streams.values(), weights, strict=True)]
    assert max(served) < 1.05 * min(served), "a stream does not choose its device, and does not pay for a slow one"


@pytest.mark.parametrize("factor", [1.0, 2.0, 8.0])
def test_each_device_takes_what_it_can(factor: float) -> None:
    device = Device(1, {"small": SMALL}, 0, slower=[factor])
    for number in range(3):
        device.join(f"s{number}", "small", 1.0, backlogged=True)
    device.run(lambda: device.now_ns > 4_000 * MS)
    full_ns = SMALL.full_ns
    assert device.batches == pytest.approx([4_000 * MS / full_ns, 4_000 * MS / full_ns / factor], rel=0.02)


def test_a_slow_device_gets_no_frame_that_a_fast_one_takes_at_once() -> None:
    device = Device(1, {"small": SMALL}, 0, slower=[8.0])
    device.join("live", "small", 1.0, live=True)
    for number in range(100):
        device.at(number * 20 * MS, lambda: device.offer("live"))
    device.run(lambda: False)
    assert sum(device.batches) == 100
    assert device.batches[1] == 1, "once, to measure it"


def test_an_image_goes_to_its_own_gpu_if_that_is_free() -> None:
    batcher = batcher_of(ONE, TWO, homes={"a": 1, "b": 0})
    offer(batcher, "a")
    offer(batcher, "b")
    first, second = taken(batcher), taken(batcher)
    assert [(one.entries[0].stream, one.replica) for one in (first, second)] == [("a", 1), ("b", 0)]


def test_an_image_goes_to_another_device_instead_of_waiting_for_its_own() -> None:
    batcher = batcher_of(ONE, TWO, homes={"a": 1})
    offer(batcher, "a", 3)
    assert [taken(batcher).replica for _ in range(2)] == [1, 0]
    assert batcher.take(0) is None


def test_each_replica_has_its_own_batch_sizes() -> None:
    batcher = batcher_of(LaneSettings("lane", (1, 4), 1, device="cuda:0"), LaneSettings("lane", (2,), 1, device="cpu"))
    offer(batcher, "a", 7)
    first, second = taken(batcher), taken(batcher)
    assert [(one.replica, one.size, len(one.entries)) for one in (first, second)] == [(0, 4, 4), (1, 2, 2)]
    batcher.done(first, 5)
    batcher.done(second, 100)
    third = taken(batcher)
    assert (third.replica, third.size, third.padding) == (0, 1, 0)


def test_replicas_of_two_lanes_share_the_capacity_of_their_device() -> None:
    batcher = batcher_of(ONE, TWO)
    other = replace(ONE, name="other")
    batcher.add_lane(other)
    batcher.add_replica(replace(other, device="cuda:1", gpu=1))
    batcher.join("b", "other", BoundedQueue(64))
    offer(batcher, "a", 8)
    for number in range(8):
        batcher.offer("b", "other", QueuedItem("b", number, 0))
    devices = sorted(taken(batcher).replica for _ in range(2))
    assert devices == [0, 1]
    assert (batcher.take(0), batcher.due, batcher.room) == (None, 0, False)


def test_a_device_without_a_replica_has_no_capacity() -> None:
    batcher = batcher_of(replace(ONE, device="cpu", gpu=None), TWO)
    batcher.change_lane(ONE)
    batcher.add_lane(LaneSettings("other", (1,), 1, device="cuda:2"))
    batcher.remove_lane("other")
    offer(batcher, "a", 8)
    assert [taken(batcher).replica for _ in range(2)] == [0, 1]
    assert (batcher.take(0), batcher.room) == (None, False)


@pytest.mark.parametrize(("frames", "due"), [(0, 0), (1, 1), (2, 1), (3, 2), (9, 2)])
def test_one_frame_is_due_once_although_two_devices_are_free(frames: int, due: int) -> None:
    batcher = batcher_of(ONE, TWO)
    offer(batcher, "a", frames)
    assert batcher.due == due


def test_a_replica_that_is_not_ready_takes_nothing() -> None:
    batcher = batcher_of(ONE, TWO)
    batcher.change_lane(replace(ONE, ready=False))
    offer(batcher, "a", 4)
    assert taken(batcher).replica == 1
    assert batcher.take(0) is None
    batcher.change_lane(ONE)
    assert taken(batcher).replica == 0
