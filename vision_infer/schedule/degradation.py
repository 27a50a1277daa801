"""What gives way when a machine is too small for its streams, in which order, and when that is taken back.

Under overload the engine's time is shared by weight, as always: that a stream gets less than it wants is the first step, and is
only told. What is configured comes next: the stream's smaller picture, then its cheaper network. Everywhere the smaller picture
comes first; of several streams the lightest goes first, and only some at a time, since what they give up may be enough for the
others. Steps are taken back in the reverse order, once there is room for long enough. Whoever comes back and meets overload again
at once waits twice as long the next time.

Plain decisions: rates and times are passed in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

SECOND = 1_000_000_000
WINDOW_NS = 10 * SECOND
"""over which rates are measured"""
MIN_WINDOW_NS = 5 * SECOND
"""a shorter time says nothing about a rate"""
SHORT = 0.9
"""a stream with less than this part of what it wants is short"""
ENOUGH = 0.95
"""and with this part it is not; in between it stays as it is"""
FULL = 0.85
"""so much of a machine may be used before ages rise: above, what is short is short because of it"""
ROOM = 0.7
"""below this there is room to take a step back"""
AFTER_NS = 15 * SECOND
"""so long a stream is short before it takes a step, and before it takes another"""
SETTLE_NS = 15 * SECOND
"""so long what the last steps have gained is waited for, before other streams take theirs"""
BACK_NS = 60 * SECOND
"""so long there is room before a step is taken back"""
MAX_BACK_NS = 960 * SECOND
_AT_ONCE = 4
"""of the streams that could take a step, the fourth part does"""
_SAMPLES = 32


class Step(IntEnum):
    """How far a stream gives way."""

    NONE = 0
    """it has what it wants"""
    RATE = 1
    """it gets fewer results than it wants: its share of the engine by weight"""
    SUBSTREAM = 2
    """its smaller picture is inferred"""
    MODEL = 3
    """its cheaper network infers"""

    @property
    def word(self) -> str:
        """As it is told."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Seen:
    """A stream as it is now."""

    step: Step
    """where it is"""
    steps: frozenset[Step]
    """beyond ``RATE``, those that it may take"""
    live: bool
    """frames come; else nothing is known about its rate"""
    wanted_fps: float
    """results a second that it wants"""
    weight: float
    results: int
    """so far"""
    lost: int
    """frames that were to be inferred, and were not because the machine was too slow, so far"""
    busy: float
    """the largest part in use of what the stream needs: the machine, the engine, its own thread, 0–1"""


@dataclass(frozen=True, slots=True)
class Change:
    """A stream takes a step, or takes one back."""

    stream: str
    before: Step
    step: Step
    got_fps: float
    """results a second, over the last ten seconds or so"""
    seen: Seen


@dataclass(slots=True)
class _State:
    step: Step
    since_ns: int
    counts: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    """when, results and lost frames until then"""
    short_since: int | None = None
    room_since: int | None = None
    back_ns: int = BACK_NS
    went_back_ns: int | None = None
    got_fps: float = 0.0


class Degradation:
    """Decides who takes a step. Whoever carries it out says with the next :class:`Seen` where the stream is.

    Not for several threads at once.
    """

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}
        self._settled_ns: int | None = None
        """when the last step beyond ``RATE`` was taken, or taken back"""

    def look(self, now_ns: int, streams: Mapping[str, Seen]) -> list[Change]:
        """Look at all streams, about once a second.

        Args:
            now_ns: monotonic.
            streams: those that want a rate, by name; those that are left out are forgotten.

        Returns:
            The steps that are to be taken now, at most one for each stream.
        """
        for name in self._states.keys() - streams.keys():
            del self._states[name]
        for name, seen in streams.items():
            self._measure(self._state(name, seen, now_ns), seen, now_ns)
        changes = self._down(now_ns, streams)
        far = self._has_settled(now_ns) and all(change.step <= Step.RATE for change in changes)
        changes += self._back(now_ns, streams, far)
        for change in changes:
            self._note(change, now_ns)
        return changes

    def _state(self, name: str, seen: Seen, now_ns: int) -> _State:
        state = self._states.get(name)
        if state is None or state.step is not seen.step:  # it is new, has other settings, or the step could not be taken
            patience = BACK_NS if state is None else state.back_ns
            state = self._states[name] = _State(seen.step, now_ns, back_ns=patience)
        return state

    def _measure(self, state: _State, seen: Seen, now_ns: int) -> None:
        counts = state.counts
        if not seen.live or (counts and (seen.results < counts[-1][1] or seen.lost < counts[-1][2])):  # or it began anew
            counts.clear()
            state.short_since = state.room_since = None
        if not seen.live:
            return
        if not counts or now_ns - counts[-1][0] >= WINDOW_NS // (_SAMPLES - 1):
            counts.append((now_ns, seen.results, seen.lost))
        while len(counts) > 1 and now_ns - counts[1][0] >= WINDOW_NS:
            counts.popleft()
        span_ns = now_ns - counts[0][0]
        if span_ns < MIN_WINDOW_NS:
            return
        state.got_fps = (seen.results - counts[0][1]) * SECOND / span_ns
        lost_fps = (seen.lost - counts[0][2]) * SECOND / span_ns
        wanted = min(seen.wanted_fps, state.got_fps + lost_fps)  # a camera that gives less gets no more
        if state.got_fps < SHORT * wanted and seen.busy >= FULL:
            state.short_since = now_ns if state.short_since is None else state.short_since
        elif state.got_fps >= SHORT * wanted or seen.busy < ROOM:
            state.short_since = None
        room = state.got_fps >= ENOUGH * wanted and (seen.step <= Step.RATE or seen.busy < ROOM)
        state.room_since = None if not room else now_ns if state.room_since is None else state.room_since

    def _is_short(self, name: str, now_ns: int) -> bool:
        state = self._states[name]
        return state.short_since is not None and now_ns - max(state.short_since, state.since_ns) >= AFTER_NS

    def _down(self, now_ns: int, streams: Mapping[str, Seen]) -> list[Change]:
        short = [name for name in streams if self._is_short(name, now_ns) and streams[name].busy >= FULL]
        changes = [self._change(name, streams[name], Step.RATE) for name in short if streams[name].step is Step.NONE]
        if not self._has_settled(now_ns):
            return changes
        following = {name: _following(streams[name]) for name in short if streams[name].step >= Step.RATE}
        least = min((step for step in following.values() if step is not None), default=None)
        if least is None:
            return changes
        able = sorted((name for name, step in following.items() if step is least), key=lambda one: (streams[one].weight, one))
        return changes + [self._change(name, streams[name], least) for name in able[: _some(able)]]

    def _back(self, now_ns: int, streams: Mapping[str, Seen], far: bool) -> list[Change]:
        able = [name for name in streams if streams[name].step and self._has_room(name, now_ns)]
        changes = [self._change(name, streams[name], Step.NONE) for name in able if streams[name].step is Step.RATE]
        most = max((streams[name].step for name in able), default=Step.NONE)
        if most <= Step.RATE or not far:
            return changes
        last = sorted((name for name in able if streams[name].step is most), key=lambda one: (-streams[one].weight, one))
        return changes + [self._change(name, streams[name], _preceding(streams[name])) for name in last[: _some(last)]]

    def _has_room(self, name: str, now_ns: int) -> bool:
        state = self._states[name]
        return state.room_since is not None and now_ns - max(state.room_since, state.since_ns) >= state.back_ns

    def _has_settled(self, now_ns: int) -> bool:
        return self._settled_ns is None or now_ns - self._settled_ns >= SETTLE_NS

    def _change(self, name: str, seen: Seen, step: Step) -> Change:
        return Change(name, seen.step, step, self._states[name].got_fps, seen)

    def _note(self, change: Change, now_ns: int) -> None:
        old = self._states[change.stream]
        new = self._states[change.stream] = _State(change.step, now_ns, back_ns=old.back_ns, went_back_ns=old.went_back_ns)
        if change.step < change.before:
            new.went_back_ns = now_ns
        elif old.went_back_ns is not None:
            in_vain = now_ns - old.went_back_ns < 2 * BACK_NS
            new.back_ns = min(2 * old.back_ns, MAX_BACK_NS) if in_vain else BACK_NS
            new.went_back_ns = None
        if max(change.before, change.step) > Step.RATE:
            self._settled_ns = now_ns


def _following(seen: Seen) -> Step | None:
    return min((step for step in seen.steps if step > seen.step), default=None)


def _preceding(seen: Seen) -> Step:
    return max((step for step in seen.steps if step < seen.step), default=Step.RATE)


def _some(names: list[str]) -> int:
    return math.ceil(len(names) / _AT_ONCE)
