"""What becomes of a packet that comes late.

A picture older than its stream allows is never inferred. Whether its packet is decoded is another matter: the pictures that
follow need it. After a stall, decoding what waited is nearly always the quickest way to the newest picture (a second of video
takes 15 to 150 ms); to skip to the next key frame may cost two seconds of results. So late packets are decoded while that makes
the stream younger. Where it does not, since decoding itself is too slow, packets that no other frame needs are left out; and
where that does not help, or there are none, everything up to the newest key frame that is there.

Where packets are waited for, nothing of ours holds them up, and leaving out any of them would gain nothing.
"""

from __future__ import annotations

from enum import Enum

MS = 1_000_000
SECOND = 1_000_000_000

_WATCH_NS = 200 * MS
"""so long one way of catching up is watched before it is judged"""
_CATCHES_UP = 0.5
"""seconds younger in each second: then it goes on"""
_KEY_PATIENCE_NS = 10 * SECOND
"""some streams have no key frames but the first: they refresh a strip at a time"""


class Action(Enum):
    """What to do with a packet."""

    INFER = "infer"
    """decode it; its picture is young enough"""
    DECODE = "decode"
    """decode it, for the pictures after it; its own is too old"""
    SKIP = "skip"
    """leave it out: no other frame needs it"""
    DISCARD = "discard"
    """leave it out, on the way to the next key frame"""


class Backlog:
    """Decides packet by packet, for one connection.

    Reading begins on the way to a key frame: without one, nothing can be decoded.

    Args:
        max_age_ns: a picture that is older is not inferred.
    """

    def __init__(self, max_age_ns: int) -> None:
        self._max_age_ns = max_age_ns
        self._discarding_since: int | None = None
        self._begun = False
        self._skipping = False
        self._unneeded_seen = False
        self._key_ns: int | None = None
        self._key_interval_ns = 0
        self._key_came_ns: int | None = None
        self._watched: tuple[int, int] | None = None
        """since when the way of catching up is watched, and the age then; None while packets are young"""
        self._waited = False

    def packet(self, now_ns: int, age_ns: int | None, key: bool, disposable: bool, waited: bool) -> Action:
        """Decide; packets in the order in which they come.

        Args:
            now_ns: monotonic.
            age_ns: of the packet's picture; None where it is not known but old: packets come faster than real time.
            key: it begins anew, no earlier frame is needed.
            disposable: no other frame needs it.
            waited: it was not there yet when we asked for it.
        """
        if not self._begun:
            self._begun, self._discarding_since = True, now_ns
        late = age_ns is None or age_ns > self._max_age_ns
        if key:
            self._key_came_ns = now_ns
            if age_ns is not None:
                self._see_key(now_ns - age_ns)
        if self._discarding_since is not None:
            without_key = max(self._discarding_since, self._key_came_ns or 0)
            impatient = now_ns - without_key >= _KEY_PATIENCE_NS
            if not (self._is_newest(age_ns, waited) if key else impatient and not late):
                return Action.DISCARD
            self._discarding_since, self._skipping, self._watched = None, False, None
        if not late:
            self._skipping, self._watched = False, None
            return Action.INFER
        if age_ns is None:
            return Action.DECODE
        self._unneeded_seen = self._unneeded_seen or disposable
        if self._too_slow(now_ns, age_ns, waited):
            if self._skipping or not self._unneeded_seen:
                self._discarding_since = now_ns
                if not key or not self._is_newest(age_ns, waited):
                    return Action.DISCARD
                self._discarding_since = None
            self._skipping, self._watched = True, (now_ns, age_ns)
        return Action.SKIP if self._skipping and disposable else Action.DECODE

    def _see_key(self, taken_ns: int) -> None:
        if self._key_ns is not None:
            self._key_interval_ns = max(0, taken_ns - self._key_ns)
        self._key_ns = taken_ns

    def _is_newest(self, age_ns: int | None, waited: bool) -> bool:
        """Whether no newer key frame is there yet, as far as can be told; decoding begins at this one then."""
        if waited or age_ns is None:
            return True
        return age_ns <= self._max_age_ns and (not self._key_interval_ns or age_ns <= self._key_interval_ns)

    def _too_slow(self, now_ns: int, age_ns: int, waited: bool) -> bool:
        """Whether it is time to leave out more."""
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
