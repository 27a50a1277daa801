"""The batcher in single cases: waiting to fill, padding, ties, joining and leaving, and invalid arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.schedule.batcher import Batch, Batcher
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.schedule.queues import BoundedQueue, Mailbox, QueuedItem
from vision_infer.schedule.shares import FairShares


def frame(sequence: int, arrived_ns: int = 0) -> QueuedItem[int]:
    return QueuedItem(sequence, sequence, arrived_ns)


def one_lane(sizes: tuple[int, ...] = (1, 2, 4), in_flight: int = 1, max_wait_ns: int = 0) -> Batcher[int]:
    batcher: Batcher[int] = Batcher(in_flight)
    batcher.add_lane(LaneSettings("lane", sizes, in_flight, max_wait_ns))
    return batcher


def taken(batch: Batch[int] | None) -> list[tuple[str, int]]:
    assert batch is not None
    return [(entry.stream, entry.queued.item) for entry in batch.entries]


def virtual_ns(shares: FairShares, stream: str) -> float:
    return shares.next_of({stream: 0})[0]


def test_a_batch_goes_as_soon_as_there_is_capacity() -> None:
    batcher = one_lane()
    assert batcher.take(0) is None
    assert batcher.wake_at_ns() is None
    batcher.join("a", "lane", BoundedQueue(8))
    batcher.offer("a", "lane", frame(0))
    first = batcher.take(0)
    assert taken(first) == [("a", 0)]
    batcher.offer("a", "lane", frame(1))
    assert batcher.take(10**9) is None
    assert batcher.wake_at_ns() is None
    assert first is not None
    batcher.done(first, 5)
    assert taken(batcher.take(0)) == [("a", 1)]


def test_a_live_streams_older_frame_is_returned_once() -> None:
    batcher = one_lane()
    batcher.join("live", "lane", Mailbox())
    assert batcher.offer("live", "lane", frame(0)) is None
    assert batcher.offer("live", "lane", frame(1)) == frame(0)
    assert batcher.waiting == 1
    assert taken(batcher.take(0)) == [("live", 1)]
    assert batcher.waiting == 0


@pytest.mark.parametrize(("frames", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (6, 4)])
def test_a_batch_is_padded_to_the_next_size_that_the_engine_runs(frames: int, size: int) -> None:
    batcher = one_lane()
    batcher.join("a", "lane", BoundedQueue(8))
    for number in range(frames):
        batcher.offer("a", "lane", frame(number))
    batch = batcher.take(0)
    assert batch is not None
    assert batch.size == size
    assert len(batch.entries) == min(frames, 4)
    assert batch.padding == batcher.padded == size - min(frames, 4)


def test_a_waiting_lane_goes_when_full_or_when_the_wait_runs_out() -> None:
    batcher = one_lane(max_wait_ns=100, in_flight=4)
    batcher.join("a", "lane", BoundedQueue(8))
    batcher.join("b", "lane", BoundedQueue(8))
    batcher.offer("a", "lane", frame(0, 1000))
    batcher.offer("b", "lane", frame(0, 1060))
    assert batcher.take(1099) is None
    assert batcher.wake_at_ns() == 1100
    assert taken(batcher.take(1100)) == [("a", 0), ("b", 0)]
    assert batcher.wake_at_ns() is None
    for number in range(1, 6):
        batcher.offer("a", "lane", frame(number, 1200 + number))
    assert [item for _, item in taken(batcher.take(1206))] == [1, 2, 3, 4]
    assert batcher.take(1206) is None
    assert batcher.wake_at_ns() == 1305, "the wait of the frame that is left"


def test_a_newer_frame_in_the_mailbox_does_not_restart_the_wait() -> None:
    """Frames arrive faster than the wait runs out: if each restarted it, none would ever go."""
    batcher = one_lane(max_wait_ns=100)
    batcher.join("live", "lane", Mailbox())
    for number in range(4):
        batcher.offer("live", "lane", frame(number, 30 * number))
        assert batcher.take(30 * number) is None
        assert batcher.wake_at_ns() == 100
    assert taken(batcher.take(100)) == [("live", 3)]


def test_the_stream_that_has_waited_longest_breaks_a_tie() -> None:
    batcher = one_lane(sizes=(1,))
    for name in ("a", "b", "c"):
        batcher.join(name, "lane", Mailbox())
    batcher.offer("c", "lane", frame(0, 5))
    batcher.offer("a", "lane", frame(0, 6))
    batcher.offer("b", "lane", frame(0, 4))
    batcher.offer("b", "lane", frame(1, 7))
    order: list[str] = []
    for _ in range(3):
        batch = batcher.take(10)
        assert batch is not None
        order += [entry.stream for entry in batch.entries]
        batcher.done(batch, 0)
    assert order == ["b", "c", "a"]


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 1.0, 1.0, 3.0]), st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=6),
    st.sampled_from([1, 3, 8]),
)
def test_each_slot_of_a_batch_goes_to_the_next_stream(streams: list[tuple[float, int, int]], most: int) -> None:
    batcher = one_lane((1, most) if most > 1 else (1,), in_flight=100)
    left = {f"s{number}": frames for number, (_, frames, _) in enumerate(streams)}
    for name, (weight, frames, arrived_ns) in zip(left, streams, strict=True):
        batcher.join(name, "lane", BoundedQueue(8), weight)
        for number in range(frames):
            batcher.offer(name, "lane", frame(number, arrived_ns))
    weights = {name: weight for name, (weight, _, _) in zip(left, streams, strict=True)}
    since = {name: arrived_ns for name, (_, _, arrived_ns) in zip(left, streams, strict=True)}
    charged = dict.fromkeys(left, 0.0)
    expected: list[str] = []
    for _ in range(sum(left.values())):
        name = min((charged[name], since[name], name) for name, frames in left.items() if frames)[2]
        expected.append(name)
        charged[name] += 1 / weights[name]
        left[name] -= 1
    found: list[str] = []
    while batcher.due:
        found += [stream for stream, _ in taken(batcher.take(10))]
    assert found == expected
    assert batcher.take(10) is None


def test_due_counts_the_waiting_batches_up_to_the_capacity() -> None:
    batcher: Batcher[int] = Batcher(3)
    batcher.add_lane(LaneSettings("large", (1, 4), 2))
    batcher.add_lane(LaneSettings("small", (1,), 2))
    for lane in ("large", "small"):
        batcher.join(lane, lane, BoundedQueue(20))
    assert batcher.due == 0
    for number, due in enumerate([1, 1, 1, 1, 2, 2, 2, 2, 2]):  # at most two batches of the lane at a time
        batcher.offer("large", "large", frame(number))
        assert batcher.due == due
    for number, due in enumerate([3, 3]):
        batcher.offer("small", "small", frame(number))
        assert batcher.due == due
    batches = [batcher.take(0) for _ in range(3)]
    assert all(batches)
    assert batcher.waiting
    assert batcher.due == 0
    assert batcher.take(0) is None


def test_a_full_lane_leaves_the_device_to_the_others() -> None:
    batcher: Batcher[int] = Batcher(3)
    batcher.add_lane(LaneSettings("x", (1,), 1))
    batcher.add_lane(LaneSettings("y", (1,), 2))
    batcher.join("a", "x", BoundedQueue(4))
    batcher.join("b", "y", BoundedQueue(4))
    for number in range(4):
        batcher.offer("a", "x", frame(number))
        batcher.offer("b", "y", frame(number))
    lanes = [batch.lane for _ in range(3) if (batch := batcher.take(0)) is not None]
    assert sorted(lanes) == ["x", "y", "y"]
    assert batcher.flying == 3


def test_a_batch_that_failed_before_it_ran_is_charged_as_estimated() -> None:
    """If it were free, the stream whose frames fail would always be next."""
    batcher = one_lane(sizes=(1,))
    for name in ("good", "broken"):
        batcher.join(name, "lane", BoundedQueue(100))
        for number in range(100):
            batcher.offer(name, "lane", frame(number))
    order: list[str] = []
    for _ in range(40):
        batch = batcher.take(0)
        assert batch is not None
        order += [entry.stream for entry in batch.entries]
        batcher.done(batch, 0 if order[-1] == "broken" else 1000)
    assert 18 <= order.count("good") <= 22
    assert batcher.shares.engine_ns("broken") == 0
    assert batcher.shares.engine_ns("good") == 1000 * order.count("good")


def test_a_stream_in_two_lanes_has_one_account() -> None:
    batcher: Batcher[int] = Batcher(1)
    for lane in ("x", "y"):
        batcher.add_lane(LaneSettings(lane, (1,), 1))
        batcher.join("both", lane, BoundedQueue(200))
    batcher.join("single", "x", BoundedQueue(200))
    for number in range(200):
        for stream, lane in (("both", "x"), ("both", "y"), ("single", "x")):
            batcher.offer(stream, lane, frame(number))
    for _ in range(200):
        batch = batcher.take(0)
        assert batch is not None
        batcher.done(batch, 10)
    assert batcher.shares.engine_ns("both") == pytest.approx(batcher.shares.engine_ns("single"), rel=0.02)


def test_a_stream_with_frames_in_another_lane_has_not_been_idle() -> None:
    """The stream is behind the others: a frame in its second lane must not change that."""
    batcher: Batcher[int] = Batcher(2)
    batcher.add_lane(LaneSettings("x", (1,), 1))
    batcher.add_lane(LaneSettings("y", (1,), 2))
    batcher.join("both", "x", BoundedQueue(4))
    batcher.join("both", "y", BoundedQueue(4))
    batcher.join("other", "y", BoundedQueue(9))
    batcher.offer("both", "x", frame(0))
    held = batcher.take(0)
    for number in range(3):
        batcher.offer("both", "x", frame(1 + number))
        batcher.offer("other", "y", frame(number))
    for _ in range(2):
        batch = batcher.take(0)
        assert batch is not None
        batcher.done(batch, 10)
    behind = virtual_ns(batcher.shares, "both")
    assert held is not None
    assert behind < batcher.shares.now_ns
    batcher.offer("both", "y", frame(0))
    assert virtual_ns(batcher.shares, "both") == behind


def test_leaving_returns_waiting_frames_and_forgets_those_in_flight() -> None:
    batcher = one_lane(sizes=(1,))
    batcher.join("a", "lane", BoundedQueue(4))
    batcher.join("b", "lane", Mailbox())
    for number in range(3):
        batcher.offer("a", "lane", frame(number))
    batch = batcher.take(0)
    assert batch is not None
    assert batcher.leave("a") == [frame(1), frame(2)]
    assert batcher.leave("nobody") == []
    assert batcher.streams == {"b"}
    assert batcher.waiting == 0
    batcher.done(batch, 10)
    assert batcher.flying == 0
    batcher.join("a", "lane", BoundedQueue(4))
    assert batcher.shares.engine_ns("a") == 0


@pytest.mark.parametrize("sizes", [(), (0, 1), (2, 1), (1, 1)])
def test_batch_sizes_must_be_ascending(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="batch_sizes must be ascending"):
        LaneSettings("lane", sizes, 1)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="in_flight must be at least 1, got 0"):
        LaneSettings("lane", (1,), 0)
    with pytest.raises(ValueError, match="max_wait_ns must not be negative, got -1"):
        LaneSettings("lane", (1,), 1, -1)
    with pytest.raises(ValueError, match="in_flight must be at least 1, got 0"):
        Batcher(0)
    batcher = one_lane()
    with pytest.raises(ValueError, match="lane 'lane' exists already"):
        batcher.add_lane(LaneSettings("lane", (1,), 1))
    batcher.join("a", "lane", Mailbox())
    with pytest.raises(ValueError, match="stream 'a' is in lane 'lane' already"):
        batcher.join("a", "lane", Mailbox())
    used: Mailbox[int] = Mailbox()
    used.put(frame(0))
    with pytest.raises(ValueError, match="queue of stream 'b' must be empty"):
        batcher.join("b", "lane", used)


def test_a_stream_that_could_not_join_can_join_later() -> None:
    batcher = one_lane()
    with pytest.raises(KeyError):
        batcher.join("a", "nowhere", Mailbox())
    with pytest.raises(ValueError, match="weight"):
        batcher.join("a", "lane", Mailbox(), 0.0)
    assert batcher.streams == frozenset()
    batcher.join("a", "lane", Mailbox())


def test_a_frame_that_the_queue_refuses_changes_nothing() -> None:
    batcher = one_lane()
    batcher.join("a", "lane", BoundedQueue(1))
    batcher.offer("a", "lane", frame(3))
    with pytest.raises(OverflowError):
        batcher.offer("a", "lane", frame(4))
    assert batcher.waiting == 1
    assert taken(batcher.take(0)) == [("a", 3)]
    with pytest.raises(ValueError, match="not newer"):
        batcher.offer("a", "lane", frame(3))
    assert batcher.waiting == 0
    assert batcher.take(0) is None


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_a_number_above_zero(weight: float) -> None:
    shares = FairShares()
    with pytest.raises(ValueError, match="the weight must be a number above 0"):
        shares.join("a", weight)
    shares.join("a")
    with pytest.raises(ValueError, match="stream 'a' has joined already"):
        shares.join("a")
    with pytest.raises(ValueError, match="the weight must be a number above 0"):
        shares.set_weight("a", weight)


def test_virtual_time_is_engine_time_by_weight() -> None:
    shares = FairShares()
    shares.join("a", 2.0)
    shares.charge("a", 10)
    assert virtual_ns(shares, "a") == 5
    assert shares.now_ns == 0, "where it stood when it was served"
    shares.correct("a", 10, 30, 30)
    assert (virtual_ns(shares, "a"), shares.engine_ns("a")) == (15, 30)
    shares.charge("a", 30)
    shares.join("b")
    assert virtual_ns(shares, "b") == shares.now_ns == 15, "no credit for the time before"
    shares.wake("b", lane_ns=4)
    assert virtual_ns(shares, "b") == 15, "a stream never goes back"
    shares.leave("a")
    shares.correct("a", 30, 40, 40)


def test_a_lane_without_an_open_engine_is_skipped() -> None:
    batcher: Batcher[int] = Batcher(2)
    batcher.add_lane(LaneSettings("later", (1, 2), 2, max_wait_ns=100, ready=False))
    batcher.add_lane(LaneSettings("lane", (1, 2), 2))
    for stream, lane in (("a", "later"), ("b", "lane")):
        batcher.join(stream, lane, BoundedQueue(4))
    batcher.offer("a", "later", frame(0, 0))
    assert batcher.take(1000) is None
    assert batcher.wake_at_ns() is None, "nothing but its engine changes that"
    batcher.offer("b", "lane", frame(1, 0))
    other = batcher.take(1000)
    assert taken(other) == [("b", 1)]
    batcher.change_lane(LaneSettings("later", (1, 2), 2, max_wait_ns=100))
    assert taken(batcher.take(1000)) == [("a", 0)]


def test_a_frame_with_six_tiles_costs_six_times_as_much() -> None:
    """Its stream gets the same engine time as one with single images, and so a sixth of the frames."""
    batcher = one_lane(sizes=(1, 2, 4, 8))
    for name in ("tiled", "single"):
        batcher.join(name, "lane", BoundedQueue(8))
    waiting = {"tiled": 0, "single": 0}
    slots = {"tiled": 6, "single": 1}
    taken_slots = {"tiled": 0, "single": 0}
    for turn in range(400):
        for name, count in waiting.items():
            while not batcher._lanes["lane"].queues[name].full:
                batcher.offer(name, "lane", QueuedItem(count, waiting[name], turn, slots[name]))
                waiting[name] += 1
        batch = batcher.take(turn)
        assert batch is not None
        assert batch.slots == sum(entry.queued.slots for entry in batch.entries) <= batch.size <= 8
        assert batch.padding == batch.size - batch.slots
        for entry in batch.entries:
            taken_slots[entry.stream] += entry.queued.slots
        batcher.done(batch, 1000 * batch.slots)
    assert batcher.shares.engine_ns("tiled") == pytest.approx(batcher.shares.engine_ns("single"), rel=0.05)
    assert taken_slots["tiled"] == pytest.approx(taken_slots["single"], rel=0.05)


@pytest.mark.parametrize(("sizes", "size", "padding"), [((1,), 1, 0), ((1, 2, 4), 2, 0), ((4,), 4, 2), ((1, 8), 8, 2)])
def test_the_tiles_of_a_frame_can_be_more_than_the_largest_batch(sizes: tuple[int, ...], size: int, padding: int) -> None:
    batcher = one_lane(sizes=sizes)
    batcher.join("tiled", "lane", Mailbox())
    batcher.offer("tiled", "lane", QueuedItem(0, 0, 0, 6))
    batch = batcher.take(0)
    assert batch is not None
    assert (batch.slots, batch.size, batch.padding) == (6, size, padding)
    assert batcher.padded == padding
    batcher.done(batch, 600)
    assert batcher.shares.engine_ns("tiled") == 600
    assert batcher.waiting == 0
