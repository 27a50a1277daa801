"""Mailbox, bounded queue and re-ordering, each alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.schedule.queues import BoundedQueue, Mailbox, QueuedItem
from vision_infer.schedule.reorder import Reorder


def frame(sequence: int) -> QueuedItem[str]:
    return QueuedItem(f"frame {sequence}", sequence, 100 * sequence)


def test_mailbox_keeps_the_newest() -> None:
    box: Mailbox[str] = Mailbox()
    assert len(box) == 0
    assert box.oldest() is None
    assert box.clear() == []
    with pytest.raises(IndexError):
        box.pop()
    assert box.put(frame(0)) is None
    assert box.put(frame(2)) == frame(0)
    assert not box.full
    assert len(box) == 1
    assert box.oldest() == frame(2)
    assert box.pop() == frame(2)
    assert box.put(frame(3)) is None
    assert box.clear() == [frame(3)]
    with pytest.raises(ValueError, match="sequence 3 is not newer than 3"):
        box.put(frame(3))


def test_bounded_queue_keeps_all_in_order() -> None:
    queue: BoundedQueue[str] = BoundedQueue(2)
    assert queue.oldest() is None
    with pytest.raises(IndexError):
        queue.pop()
    full = []
    for sequence in (0, 1):
        queue.put(frame(sequence))
        full.append(queue.full)
    assert full == [False, True]
    with pytest.raises(OverflowError, match="holds 2 items already"):
        queue.put(frame(2))
    assert queue.pop() == frame(0)
    with pytest.raises(ValueError, match="sequence 1 is not newer than 1"):
        queue.put(frame(1))
    queue.put(frame(2))
    assert queue.oldest() == frame(1)
    assert queue.clear() == [frame(1), frame(2)]
    assert len(queue) == 0
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        BoundedQueue(0)


@given(st.lists(st.booleans(), max_size=60).flatmap(lambda kept: st.tuples(st.just(kept), st.permutations(range(len(kept))))))
def test_results_leave_in_order_whatever_the_order_of_completion(case: tuple[list[bool], list[int]]) -> None:
    kept, completions = case
    order: Reorder[int] = Reorder(limit=max(1, len(kept)))
    left: list[int] = []
    came: set[int] = set()
    for sequence in completions:
        left += order.put(sequence, sequence) if kept[sequence] else order.skip(sequence)
        came.add(sequence)
        first_missing = next(number for number in range(len(kept) + 1) if number not in came)
        assert left == [number for number in range(first_missing) if kept[number]]
        with pytest.raises(ValueError, match=f"sequence {sequence} came twice"):
            order.put(sequence, sequence)
        with pytest.raises(ValueError, match=f"sequence {sequence} came twice"):
            order.skip(sequence)
    assert len(order) == 0


def test_any_number_of_frames_may_be_dropped_while_one_is_stuck() -> None:
    order: Reorder[str] = Reorder(limit=3)
    assert order.put(5000, "after") == []
    for sequence in range(1, 5000):
        assert order.skip(sequence) == []
    assert len(order) == 2
    assert order.put(0, "stuck") == ["stuck", "after"]


def test_too_many_held_results_raise_an_error() -> None:
    order: Reorder[str] = Reorder(limit=2)
    order.put(1, "one")
    order.put(2, "two")
    with pytest.raises(OverflowError, match="2 results wait for sequence 0"):
        order.put(4, "four")
    with pytest.raises(OverflowError, match="2 results wait for sequence 0"):
        order.skip(4)
    assert order.put(0, "zero") == ["zero", "one", "two"]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        Reorder(limit=0)


def test_a_result_may_be_any_value() -> None:
    order: Reorder[None] = Reorder()
    assert order.put(0, None) == [None]
