"""Times in decoding order are assigned to frames in presentation order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vision_infer.stream.files.ordered_times import OrderedTimes


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 6))
def test_frames_get_their_times_sorted(steps: list[int], delay: int) -> None:
    """The decoder delays some frames, in any order within the delay."""
    sent = [number + step for number, step in zip(range(0, 10 * len(steps), 10), steps, strict=True)]
    times, seen = OrderedTimes(), []
    for number, pts in enumerate(sent):
        times.sent(pts)
        if number >= delay:
            seen.append(times.of(None, key=False))
    seen += [times.of(None, key=False) for _ in range(min(delay, len(sent)))]
    assert seen == sorted(sent)


def test_a_lost_packet_does_not_shift_times_after_a_key_frame() -> None:
    times = OrderedTimes()
    for pts in (0, 3, 1):
        times.sent(pts)
    times.lost(1)
    assert [times.of(None, key=False), times.of(None, key=False)] == [0, 3]
    for pts in (5, 6, 7, 12):
        times.sent(pts)
    assert times.of(12, key=True) == 12, "5, 6 and 7 gave no frame, and this was not reported"
    assert times.of(9, key=False) == 9


def test_the_memory_is_bounded() -> None:
    times = OrderedTimes()
    for pts in range(10_000):
        times.sent(pts)
    assert times.of(None, key=False) == 10_000 - 64
