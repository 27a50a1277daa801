"""RTP times for one viewer: they always increase, and the anchors convert them back to presentation times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vision_infer.preview.media import MASK, MediaImage, Timeline, ticks_of

MS = 1_000_000


def image(pts_ns: int, key: bool = False) -> MediaImage:
    return MediaImage(((b"x",),), pts_ns, None, key, "pts", 1)


def after(later: int, earlier: int) -> bool:
    """Return whether one RTP time is after another, in serial number arithmetic (RFC 1982)."""
    return 0 < (later - earlier) & MASK < 1 << 31


@given(st.integers(0, MASK), st.lists(st.integers(1, 2000), min_size=2, max_size=50), st.integers(0, 10**15))
def test_presentation_times_can_be_computed_from_rtp_times(origin: int, steps: list[int], begin: int) -> None:
    line = Timeline(origin)
    pts = begin
    rtp = line.live(image(pts))
    assert bool(line.restarted)
    anchor = (rtp, pts)
    for step in steps:
        pts += step * MS
        before, rtp = rtp, line.live(image(pts))
        assert after(rtp, before)
        assert not line.restarted
        shown = anchor[1] + ((rtp - anchor[0]) & MASK) * 100_000 / 9
        assert abs(shown - pts) < 12_000  # half a tick at each end


@given(st.integers(0, MASK), st.lists(st.integers(-(10**13), 10**13), min_size=1, max_size=30))
def test_rtp_times_always_increase(origin: int, jumps: list[int]) -> None:
    line = Timeline(origin)
    pts = 0
    rtp = line.live(image(pts))
    for jump in jumps:
        pts += jump
        before, rtp = rtp, line.live(image(pts))
        assert after(rtp, before)
        assert line.restarted == (jump < 0 or jump >= 10**10)


@given(st.integers(0, MASK), st.integers(0, 600), st.integers(1, 9000))
def test_a_repeated_group_ends_before_the_next_frame(origin: int, frames: int, interval: int) -> None:
    line = Timeline(origin)
    last = line.live(image(10**9))
    times = line.compressed(frames, interval)
    for time in (*times, line.live(image(10**9))):
        assert after(time, last)
        last = time
    assert not line.restarted
    following = line.live(image(10**9 + interval * 100_000 // 9))
    assert after(following, last)
    if interval > 2 * (frames + 2):  # else the interval is too short for the group, and its frames are a few ticks late
        assert (following - ticks_of(10**9 + interval * 100_000 // 9) - (origin - ticks_of(10**9))) & MASK == 3000 & MASK
