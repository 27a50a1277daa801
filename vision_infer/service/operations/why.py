"""Why a stream had results at a moment, or had none: the verdict of whoever is on call, from what the flight recorder kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import Flight, StreamEvent, StreamState
from vision_infer.telemetry.flight_recorder import EMITTED, FrameOutcome, Minute

AROUND_NS = 2_000_000_000
"""frames captured so long before and after the moment are looked at"""
MAX_FRAMES = 400

_MEANINGS: Mapping[str, tuple[str, str]] = {
    DropReason.GATED.value: (
        "nothing moved in them: their rows repeat what was found last",
        "if something did move, it was too small or too faint for the motion gate: leave gate out for this camera",
    ),
    DropReason.PACED.value: ("the wanted rate left them out", "raise fps to have more of them inferred"),
    DropReason.SUPERSEDED.value: (
        "newer frames took their place while they waited for the engine",
        "the engine is busy: see its utilisation; lower fps of some streams, or take a cheaper engine",
    ),
    DropReason.OUTDATED.value: (
        "they waited for the engine until they were older than max_age_ms",
        "the engine is overloaded: lower fps of some streams, or take a cheaper engine",
    ),
    DropReason.STALE.value: (
        "they arrived or were decoded too late, older than max_age_ms",
        "the network or the decoder is too slow for the camera: look at the CPU, or detect on its smaller stream",
    ),
    DropReason.LATE.value: (
        "all that came was too old, older than max_age_ms, for longer than a stall lasts",
        "the network is too slow for the camera, or its clock is wrong: try clock: arrival, or its smaller stream",
    ),
    DropReason.NO_KEYFRAME.value: (
        "keyframes_only is set, and the camera sent no key frame",
        "let the camera send key frames more often, or turn keyframes_only off",
    ),
    DropReason.NOT_REFERENCED.value: (
        "decoding fell behind, and frames that no other needs were left out",
        "the CPU is too slow for the camera: detect on its smaller stream",
    ),
    DropReason.TO_KEYFRAME.value: (
        "nothing could be decoded until the next key frame came",
        "after a connection this is normal; else let the camera send key frames more often",
    ),
    DropReason.UNDECODED.value: ("the stream's settings want them not decoded", "see keyframes_only and skip_nonref"),
    DropReason.BACKLOGGED.value: (
        "too many frames were on their way already: what follows the engine was too slow",
        "look at the hook, the second network and the sinks",
    ),
    DropReason.STOPPED.value: ("the service was stopping", ""),
    DropReason.FAILED.value: ("the engine failed on them", "see the engine's error, and the log"),
    DropReason.HOOK.value: ("they were inferred, and the hook wanted no row of them", "see the hook"),
}
_LEFT_OUT = frozenset(reason.value for reason in (DropReason.PACED, DropReason.UNDECODED))
"""what the settings want so"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about a moment."""

    says: str
    """why, in one sentence or two"""
    hint: str
    """what to do; empty where there is nothing to do"""
    state: StreamEvent | None
    """the state in which the stream was then; None where that is not known"""
    until: StreamEvent | None
    """what came after that state; None: it still is in it"""
    frames: tuple[FrameOutcome, ...]
    """captured around the moment, at most 400"""
    minute: Minute | None
    """the account of the minute; None where no frame is known in it"""


def explain(flight: Flight, at_ns: int, now_ns: int) -> Verdict:
    """Say why a stream had results at a moment, or had none.

    Args:
        flight: what was kept.
        at_ns: the moment, monotonic.
        now_ns: likewise.
    """
    state, until = _state_at(flight.changes, at_ns)
    frames = tuple(flight.frames.frames(at_ns - AROUND_NS, at_ns + AROUND_NS, MAX_FRAMES))
    minute = next(iter(flight.frames.minutes(at_ns, at_ns)), None)
    says, hint = _says(flight, at_ns, now_ns, state, until, frames, minute)
    return Verdict(says, hint, state, until, frames, minute)


def _state_at(changes: Sequence[StreamEvent], at_ns: int) -> tuple[StreamEvent | None, StreamEvent | None]:
    before = [event for event in changes if event.at_ns <= at_ns]
    after = [event for event in changes if event.at_ns > at_ns]
    return (before[-1] if before else None), (after[0] if after else None)


def _says(
    flight: Flight,
    at_ns: int,
    now_ns: int,
    state: StreamEvent | None,
    until: StreamEvent | None,
    frames: Sequence[FrameOutcome],
    minute: Minute | None,
) -> tuple[str, str]:
    if at_ns > now_ns:
        return "This is still to come.", "give a time that has passed"
    if state is not None and state.state is not StreamState.LIVE:
        reason = f": {state.reason}" if state.reason else ""
        back = "" if until is None else f" That ended {_span(until.at_ns - at_ns)} later: {until.state.value}."
        says = f"The stream was {state.state.value}, for {_span(at_ns - state.at_ns)} then{reason}.{back}"
        return (f"{says} {_of_frames(frames)[0]}" if frames else says), ""
    if frames:
        return _of_frames(frames)
    kept = flight.frames.frames_since_ns
    if kept is not None and kept <= at_ns:
        return "No frame came then: the camera sent nothing that could be seen.", "look at the camera and the network"
    if minute is not None:
        return _of_minute(minute)
    if state is None:
        return "Nothing is known of this time: the stream did not run yet, or it is longer ago than a day.", ""
    return "No frame came in this minute, though the stream was connected.", "look at the camera and the network"


def _of_frames(frames: Sequence[FrameOutcome]) -> tuple[str, str]:
    outcomes = Counter(frame.outcome for frame in frames)
    emitted = [frame for frame in frames if frame.outcome == EMITTED]
    if not emitted:
        return _without_results(outcomes, f"{_count(len(frames), 'frame')} came around this moment, and none gave a result")
    ages = sorted((frame.times or {}).get("emitted_ns", 0) - (frame.captured_ns or 0) for frame in emitted)
    found = sum(1 for frame in emitted if frame.detections)
    says = (
        f"There were results: {len(emitted)} of {_count(len(frames), 'frame')}, {ages[len(ages) // 2] / 1e6:.0f} ms old "
        f"at the median and {ages[-1] / 1e6:.0f} ms at most; objects were found in {found} of them."
    )
    hint = ""
    if not found:
        hint = "nothing was found above the stream's confidence, in its classes and regions"
    lost = Counter({outcome: count for outcome, count in outcomes.items() if outcome != EMITTED})
    if lost:
        outcome, count = _commonest(lost)
        says += f" Of the others, {count} gave none: {_MEANINGS[outcome][0]}."
    return says, hint


def _of_minute(minute: Minute) -> tuple[str, str]:
    total = sum(minute.outcomes.values())
    emitted = minute.outcomes.get(EMITTED, 0)
    if emitted:
        lost = Counter({outcome: count for outcome, count in minute.outcomes.items() if outcome != EMITTED})
        others = "".join(f", {count} {outcome}" for outcome, count in lost.most_common())
        return (
            f"It is too long ago for single frames. In this minute {emitted} of {_count(total, 'frame')} gave results, "
            f"{minute.max_age_ms} ms old at most{others}.",
            "",
        )
    return _without_results(Counter(minute.outcomes), f"In this minute {_count(total, 'frame')} came, and none gave a result")


def _without_results(outcomes: Counter[str], begin: str) -> tuple[str, str]:
    outcome, count = _commonest(outcomes)
    meaning, hint = _MEANINGS[outcome]
    share = "" if count == outcomes.total() else f" ({count} of them)"
    return f"{begin}: {meaning}{share}.", hint


def _commonest(outcomes: Counter[str]) -> tuple[str, int]:
    """The commonest fate and its number; what the settings leave out explains nothing where other frames were lost."""
    lost = Counter({outcome: count for outcome, count in outcomes.items() if outcome not in _LEFT_OUT})
    return (lost or outcomes).most_common(1)[0]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _span(ns: int) -> str:
    seconds = ns / 1e9
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
