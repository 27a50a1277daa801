"""Degradation under overload: which streams reduce their load, in which order, and when they recover.

Under overload the engine's time is still shared by weight. The first step of a stream is that it gets fewer results than it
wants; this is only reported. The configured steps come next: the smaller image (substream) of the stream, then its cheaper
model. All streams take the smaller image before any takes the cheaper model. Of several streams, those with the lowest weight go
first, and only a fraction at a time, because the load that they shed may be enough for the others. Steps are undone in reverse
order, once there has been capacity for long enough. A stream that meets overload again soon after its recovery waits twice as
long the next time.

The decisions are pure: rates and times are arguments.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

SECOND = 1_000_000_000
WINDOW_NS = 10 * SECOND
"""The time over which rates are measured."""
MIN_WINDOW_NS = 5 * SECOND
"""The minimum time for a rate."""
SHORT = 0.9
"""A stream with less than this fraction of the rate that it wants is short."""
ENOUGH = 0.95
"""A stream with at least this fraction has enough; in between, its state does not change."""
FULL = 0.85
"""The fraction in use above which a machine is overloaded: a stream that is short there is short because of it."""
ROOM = 0.7
"""The fraction in use below which there is capacity to undo a step."""
AFTER_NS = 15 * SECOND
"""The time for which a stream is short before each step."""
SETTLE_NS = 15 * SECOND
"""The time to wait for the effect of the last steps before other streams take theirs."""
BACK_NS = 60 * SECOND
"""The time for which there is capacity before a step is undone."""
MAX_BACK_NS = 960 * SECOND
_AT_ONCE = 4
"""A quarter of the streams that can take a step does so at the same time."""
_SAMPLES = 32


class DegradationStep(IntEnum):
    """How far a stream is degraded."""

    NONE = 0
    """The stream gets the rate that it wants."""
    RATE = 1
    """The stream gets fewer results than it wants: its share of the engine by weight."""
    SUBSTREAM = 2
    """The smaller image of the stream is inferred."""
    MODEL = 3
    """The cheaper model infers the stream."""

    @property
    def word(self) -> str:
        """The name of the step in events and statuses."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """The load of a stream at one moment."""

    step: DegradationStep
    """The current step of the stream."""
    steps: frozenset[DegradationStep]
    """The steps beyond ``RATE`` that the stream can take."""
    live: bool
    """Whether frames arrive; otherwise its rate is not known."""
    wanted_fps: float
    """The number of results per second that the stream wants."""
    weight: float
    results: int
    """The number of results so far."""
    lost: int
    """The number of frames so far that were not inferred because the machine was too slow."""
    busy: float
    """The fraction in use of what limits the stream: the machine, the engine, or its own thread; the largest, 0–1."""


@dataclass(frozen=True, slots=True)
class Change:
    """A step that a stream takes or undoes."""

    stream: str
    before: DegradationStep
    step: DegradationStep
    got_fps: float
    """The number of results per second, over the last ten seconds or so."""
    load: StreamLoad


@dataclass(slots=True)
class _DegradationState:
    step: DegradationStep
    since_ns: int
    counts: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    """Samples: the time, and the number of results and lost frames until then."""
    short_since: int | None = None
    room_since: int | None = None
    back_ns: int = BACK_NS
    went_back_ns: int | None = None
    got_fps: float = 0.0


class Degradation:
    """Decides which streams take or undo a step. The caller carries the changes out, and reports the step of each stream with the
    next :class:`StreamLoad`.

    It is for one thread at a time.
    """

    def __init__(self) -> None:
        self._states: dict[str, _DegradationState] = {}
        self._settled_ns: int | None = None
        """The time when the last step beyond ``RATE`` was taken or undone."""

    def look(self, now_ns: int, streams: Mapping[str, StreamLoad]) -> list[Change]:
        """Look at all streams; call it about once a second.

        Args:
            now_ns: The time now, monotonic.
            streams: The loads of all streams that want a rate, by name; other streams are forgotten.

        Returns:
            The changes to carry out now, at most one for each stream.
        """
        for name in self._states.keys() - streams.keys():
            del self._states[name]
        for name, load in streams.items():
            self._measure(self._state(name, load, now_ns), load, now_ns)
        changes = self._down(now_ns, streams)
        far = self._has_settled(now_ns) and all(change.step <= DegradationStep.RATE for change in changes)
        changes += self._back(now_ns, streams, far)
        for change in changes:
            self._note(change, now_ns)
        return changes

    def _state(self, name: str, load: StreamLoad, now_ns: int) -> _DegradationState:
        state = self._states.get(name)
        # The stream is new, has other settings, or the step could not be carried out.
        if state is None or state.step is not load.step:
            patience = BACK_NS if state is None else state.back_ns
            state = self._states[name] = _DegradationState(load.step, now_ns, back_ns=patience)
        return state

    def _measure(self, state: _DegradationState, load: StreamLoad, now_ns: int) -> None:
        """Update since when a stream is short, and since when there is capacity for it."""
        counts = state.counts
        restarted = bool(counts) and (load.results < counts[-1][1] or load.lost < counts[-1][2])
        if not load.live or restarted:  # earlier samples say nothing about the rate now
            counts.clear()
            state.short_since = state.room_since = None
        if not load.live:
            return
        span_ns = _sample(counts, load, now_ns)
        if span_ns < MIN_WINDOW_NS:
            return
        state.got_fps = (load.results - counts[0][1]) * SECOND / span_ns
        lost_fps = (load.lost - counts[0][2]) * SECOND / span_ns
        # A camera may deliver less than the stream wants: then the stream cannot get more.
        wanted = min(load.wanted_fps, state.got_fps + lost_fps)
        state.short_since = _since(state.short_since, _is_short(state.got_fps, wanted, load), now_ns)
        has_room = state.got_fps >= ENOUGH * wanted and (load.step <= DegradationStep.RATE or load.busy < ROOM)
        state.room_since = _since(state.room_since, has_room, now_ns)

    def _was_short(self, name: str, now_ns: int) -> bool:
        state = self._states[name]
        return state.short_since is not None and now_ns - max(state.short_since, state.since_ns) >= AFTER_NS

    def _down(self, now_ns: int, streams: Mapping[str, StreamLoad]) -> list[Change]:
        short = [name for name in streams if self._was_short(name, now_ns) and streams[name].busy >= FULL]
        changes = [
            self._change(name, streams[name], DegradationStep.RATE)
            for name in short
            if streams[name].step is DegradationStep.NONE
        ]
        if not self._has_settled(now_ns):
            return changes
        following = {name: _following(streams[name]) for name in short if streams[name].step >= DegradationStep.RATE}
        first = min((step for step in following.values() if step is not None), default=None)
        if first is None:
            return changes
        able = sorted((name for name, step in following.items() if step is first), key=lambda name: (streams[name].weight, name))
        return changes + [self._change(name, streams[name], first) for name in able[: _some(able)]]

    def _back(self, now_ns: int, streams: Mapping[str, StreamLoad], far: bool) -> list[Change]:
        able = [name for name in streams if streams[name].step and self._has_room(name, now_ns)]
        changes = [
            self._change(name, streams[name], DegradationStep.NONE) for name in able if streams[name].step is DegradationStep.RATE
        ]
        last = max((streams[name].step for name in able), default=DegradationStep.NONE)
        if last <= DegradationStep.RATE or not far:
            return changes
        back = sorted((name for name in able if streams[name].step is last), key=lambda name: (-streams[name].weight, name))
        return changes + [self._change(name, streams[name], _preceding(streams[name])) for name in back[: _some(back)]]

    def _has_room(self, name: str, now_ns: int) -> bool:
        state = self._states[name]
        return state.room_since is not None and now_ns - max(state.room_since, state.since_ns) >= state.back_ns

    def _has_settled(self, now_ns: int) -> bool:
        return self._settled_ns is None or now_ns - self._settled_ns >= SETTLE_NS

    def _change(self, name: str, load: StreamLoad, step: DegradationStep) -> Change:
        return Change(name, load.step, step, self._states[name].got_fps, load)

    def _note(self, change: Change, now_ns: int) -> None:
        old = self._states[change.stream]
        new = _DegradationState(change.step, now_ns, back_ns=old.back_ns, went_back_ns=old.went_back_ns)
        self._states[change.stream] = new
        if change.step < change.before:
            new.went_back_ns = now_ns
        elif old.went_back_ns is not None:
            in_vain = now_ns - old.went_back_ns < 2 * BACK_NS
            new.back_ns = min(2 * old.back_ns, MAX_BACK_NS) if in_vain else BACK_NS
            new.went_back_ns = None
        if max(change.before, change.step) > DegradationStep.RATE:
            self._settled_ns = now_ns


def _sample(counts: deque[tuple[int, int, int]], load: StreamLoad, now_ns: int) -> int:
    """Add a sample if the last one is old enough, drop samples outside the window, and return the time since the first one."""
    if not counts or now_ns - counts[-1][0] >= WINDOW_NS // (_SAMPLES - 1):
        counts.append((now_ns, load.results, load.lost))
    while len(counts) > 1 and now_ns - counts[1][0] >= WINDOW_NS:
        counts.popleft()
    return now_ns - counts[0][0]


def _is_short(got_fps: float, wanted_fps: float, load: StreamLoad) -> bool | None:
    """Return whether a stream is short because of an overload; None if its state does not change."""
    if got_fps >= SHORT * wanted_fps or load.busy < ROOM:
        return False
    return True if load.busy >= FULL else None


def _since(since_ns: int | None, holds: bool | None, now_ns: int) -> int | None:
    """Return since when a condition holds, or None. ``holds`` is None when nothing has changed."""
    if holds is None:
        return since_ns
    if not holds:
        return None
    return now_ns if since_ns is None else since_ns


def _following(load: StreamLoad) -> DegradationStep | None:
    return min((step for step in load.steps if step > load.step), default=None)


def _preceding(load: StreamLoad) -> DegradationStep:
    return max((step for step in load.steps if step < load.step), default=DegradationStep.RATE)


def _some(names: list[str]) -> int:
    return math.ceil(len(names) / _AT_ONCE)
