"""Decides what happens to packets that arrive late.

A frame older than the stream's limit is never inferred, but its packet may still be needed to decode later frames. After a stall,
decoding the backlog is nearly always the fastest way to the newest frame: a second of video takes 15–150 ms, while skipping to
the next key frame may cost two seconds of results. So late packets are decoded as long as this reduces the delay. If decoding is
too slow for that, packets that no other frame references are skipped. If this does not help either, or there are no such packets,
everything up to the newest available key frame is discarded.

If reads have to wait for packets, the delay is not caused by this process, and skipping packets would gain nothing.
"""

from __future__ import annotations

from enum import Enum

MS = 1_000_000
SECOND = 1_000_000_000

_WATCH_NS = 200 * MS
"""The period after which a way of catching up is evaluated, nanoseconds."""
_CATCHES_UP = 0.5
"""The minimum reduction of the delay, in seconds per second, for a way of catching up to continue."""
_KEY_PATIENCE_NS = 10 * SECOND
"""The maximum wait for a key frame, nanoseconds. With intra refresh, a stream has no key frames after the first."""


class Action(Enum):
    """What to do with a packet."""

    INFER = "infer"
    """Decode it; its frame is recent enough."""
    DECODE = "decode"
    """Decode it for later frames; its own frame is too old."""
    SKIP = "skip"
    """Skip it: no other frame references it."""
    DISCARD = "discard"
    """Skip it, on the way to the next key frame."""


class Backlog:
    """Decides packet by packet, for one connection.

    It starts by waiting for a key frame, since nothing can be decoded without one.

    Args:
        max_age_ns: The maximum age of a frame that is inferred.
    """

    def __init__(self, max_age_ns: int) -> None:
        self._max_age_ns = max_age_ns
        self._discarding_since: int | None = None
        self._begun = False
        self._skipping = False
        self._disposable_seen = False
        self._key_ns: int | None = None
        self._key_interval_ns = 0
        self._key_came_ns: int | None = None
        self._watched: tuple[int, int] | None = None
        """The start of the current evaluation and the age at that time; None while packets are recent enough."""
        self._waited = False

    def packet(self, now_ns: int, age_ns: int | None, key: bool, disposable: bool, waited: bool) -> Action:
        """Return what to do with the next packet in arrival order.

        Args:
            now_ns: The monotonic time.
            age_ns: The age of the packet's frame; None if it is unknown but old, because packets arrive faster than real time.
            key: Whether decoding can start with it.
            disposable: Whether no other frame references it.
            waited: Whether the read had to wait for it.
        """
        if not self._begun:
            self._begun, self._discarding_since = True, now_ns
        late = age_ns is None or age_ns > self._max_age_ns
        if key:
            self._key_came_ns = now_ns
            if age_ns is not None:
                self._key_seen(now_ns - age_ns)
        # Waiting for a key frame: at the start, or because catching up failed. A stream with intra refresh sends none; there,
        # decoding starts anyway after 10 s.
        if self._discarding_since is not None:
            without_key = max(self._discarding_since, self._key_came_ns or 0)
            impatient = now_ns - without_key >= _KEY_PATIENCE_NS
            if not (self._is_newest(age_ns, waited) if key else impatient and not late):
                return Action.DISCARD
            self._discarding_since, self._skipping, self._watched = None, False, None
        # Recent enough: any way of catching up has done its work.
        if not late:
            self._skipping, self._watched = False, None
            return Action.INFER
        # The connection starts with a backlog of unknown age: decode it without evaluating the speed.
        if age_ns is None:
            return Action.DECODE
        # Late: decode while this reduces the delay; else skip disposable packets; else discard up to the next key frame.
        self._disposable_seen = self._disposable_seen or disposable
        if self._too_slow(now_ns, age_ns, waited):
            if self._skipping or not self._disposable_seen:
                self._discarding_since = now_ns
                if not key or not self._is_newest(age_ns, waited):
                    return Action.DISCARD
                self._discarding_since = None
            self._skipping, self._watched = True, (now_ns, age_ns)
        return Action.SKIP if self._skipping and disposable else Action.DECODE

    def _key_seen(self, taken_ns: int) -> None:
        if self._key_ns is not None:
            self._key_interval_ns = max(0, taken_ns - self._key_ns)
        self._key_ns = taken_ns

    def _is_newest(self, age_ns: int | None, waited: bool) -> bool:
        """Return whether this is probably the newest key frame that has arrived; decoding starts with it then."""
        if waited or age_ns is None:
            return True
        return age_ns <= self._max_age_ns and (not self._key_interval_ns or age_ns <= self._key_interval_ns)

    def _too_slow(self, now_ns: int, age_ns: int, waited: bool) -> bool:
        """Return whether the current way of catching up does not reduce the delay, so that more has to be skipped."""
        if self._watched is None:
            self._watched, self._waited = (now_ns, age_ns), False
            return False
        self._waited = self._waited or waited
        since_ns, previous_age_ns = self._watched
        passed = now_ns - since_ns
        if passed < _WATCH_NS:
            return False
        catches_up = previous_age_ns - age_ns >= _CATCHES_UP * passed
        if catches_up or self._waited:
            self._watched, self._waited = (now_ns, age_ns), False
            return False
        return True
