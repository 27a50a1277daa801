"""Explain why a stream had results at a given time, or none, from the data of the flight recorder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import Flight, StreamEvent, StreamState
from vision_infer.telemetry.flight_recorder import RESULT, FrameOutcome, Minute

AROUND_NS = 2_000_000_000
"""The time before and after the moment in which frames are considered, in nanoseconds."""
MAX_FRAMES = 400

_LOSS_HINT = (
    "If the camera is read over UDP, set transport: tcp. Otherwise, check the cable, the Wi-Fi and the switch, or lower the bit "
    "rate of the camera."
)
_MEANINGS: Mapping[str, tuple[str, str]] = {
    DropReason.GATED.value: (
        "the motion gate found no motion, and their rows repeat the previous detections",
        "If there was motion, it was too small or too faint for the motion gate. Remove gate from this stream's settings.",
    ),
    DropReason.PACED.value: ("they exceeded the configured rate", "Raise fps to infer more frames."),
    DropReason.SUPERSEDED.value: (
        "newer frames replaced them while they waited for the engine",
        "The engine is busy. Check its utilization, lower the fps of some streams, or use a faster engine.",
    ),
    DropReason.OUTDATED.value: (
        "they waited for the engine for longer than max_age_ms",
        "The engine is overloaded. Lower the fps of some streams, or use a faster engine.",
    ),
    DropReason.STALE.value: (
        "they arrived or were decoded too late and were older than max_age_ms",
        "The network or the decoder is too slow for the camera. Check the CPU load, or use the camera's substream.",
    ),
    DropReason.DAMAGED.value: ("packets of them were lost or damaged, and they could not be decoded", _LOSS_HINT),
    DropReason.LATE.value: (
        "all frames were older than max_age_ms for longer than the stall timeout",
        "The network is too slow for the camera, or the camera's clock is wrong. Try clock: arrival, or the camera's substream.",
    ),
    DropReason.NO_KEYFRAME.value: (
        "keyframes_only is set, and the camera sent no key frame",
        "Configure a shorter key frame interval in the camera, or turn keyframes_only off.",
    ),
    DropReason.NOT_REFERENCED.value: (
        "decoding fell behind, and frames that no other frame refers to were skipped",
        "The CPU is too slow for the camera. Use the camera's substream.",
    ),
    DropReason.TO_KEYFRAME.value: (
        "nothing could be decoded until the next key frame",
        "This is normal after connecting; otherwise configure a shorter key frame interval in the camera.",
    ),
    DropReason.UNDECODED.value: ("the stream's settings exclude them from decoding", "Check keyframes_only and skip_nonref."),
    DropReason.BACKLOGGED.value: (
        "too many frames were already in the pipeline: the stages after the engine were too slow",
        "Check the hook, the secondary model and the sinks.",
    ),
    DropReason.STOPPED.value: ("the service was stopping", ""),
    DropReason.FAILED.value: ("the engine failed", "Check the engine's error and the log."),
    DropReason.HOOK.value: ("the hook discarded their rows after inference", "Check the hook."),
}
_CONFIGURED = frozenset(reason.value for reason in (DropReason.PACED, DropReason.UNDECODED))
"""The outcomes that the settings ask for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The explanation of the results at a given time."""

    text: str
    """The explanation in one or two sentences."""
    hint: str
    """The recommended action; empty if there is none."""
    state: StreamEvent | None
    """The stream's state at that time; None if unknown."""
    until: StreamEvent | None
    """The next change of state; None if the state still applies."""
    frames: tuple[FrameOutcome, ...]
    """The frames captured around that time, at most 400."""
    minute: Minute | None
    """The outcomes of that minute; None if it has no recorded frames."""


def explain(flight: Flight, at_ns: int, now_ns: int) -> Verdict:
    """Explain why a stream had results at a given time, or none; the times are monotonic nanoseconds."""
    state = next((event for event in reversed(flight.changes) if event.at_ns <= at_ns), None)
    until = next((event for event in flight.changes if event.at_ns > at_ns), None)
    known = flight.frames.frames(at_ns - AROUND_NS, at_ns + AROUND_NS, MAX_FRAMES)
    frames = tuple(sorted(known, key=lambda frame: frame.at_ns if frame.captured_ns is None else frame.captured_ns))
    minute = next(iter(flight.frames.minutes(at_ns, at_ns)), None)
    text, hint = _explain(flight, at_ns, now_ns, state, until, frames, minute)
    if minute is not None and minute.packets_lost:
        sent = minute.packets_received + minute.packets_lost
        text += f" In this minute, {minute.packets_lost} of {sent} packets were lost ({minute.packets_lost / sent:.1%})."
        hint = hint if hint.endswith(_LOSS_HINT) else f"{hint} {_LOSS_HINT}".lstrip()
    return Verdict(text, hint, state, until, frames, minute)


def _explain(
    flight: Flight,
    at_ns: int,
    now_ns: int,
    state: StreamEvent | None,
    until: StreamEvent | None,
    frames: Sequence[FrameOutcome],
    minute: Minute | None,
) -> tuple[str, str]:
    if at_ns > now_ns:
        return "This time is in the future.", "Choose a time in the past."
    if state is not None and state.state is not StreamState.LIVE:
        reason = f": {state.reason.removesuffix('.')}" if state.reason else ""
        after = "" if until is None else f" The state changed to {until.state.value} {_span(until.at_ns - at_ns)} later."
        text = f"The stream had been {state.state.value} for {_span(at_ns - state.at_ns)}{reason}.{after}"
        return (f"{text} {_of_frames(frames)[0]}" if frames else text), ""
    if frames:
        return _of_frames(frames)
    kept = flight.frames.frames_since_ns
    if kept is not None and kept <= at_ns:
        return "No frames arrived: the camera sent no usable video.", "Check the camera and the network."
    if minute is not None and minute.outcomes:
        return _of_minute(minute)
    if state is None:
        return "No data for this time: the stream was not running yet, or it was more than a day ago.", ""
    return "No frames arrived in this minute, although the stream was connected.", "Check the camera and the network."


def _of_frames(frames: Sequence[FrameOutcome]) -> tuple[str, str]:
    outcomes = Counter(frame.outcome for frame in frames)
    emitted = [frame for frame in frames if frame.outcome == RESULT]
    if not emitted:
        return _without_results(outcomes, f"{_count(len(frames), 'frame')} around this time, none with a result")
    ages = sorted((frame.times or {}).get("emitted_ns", 0) - (frame.captured_ns or 0) for frame in emitted)
    with_objects = sum(1 for frame in emitted if frame.detections)
    text = (
        f"{len(emitted)} of {_count(len(frames), 'frame')} had results, with a median age of "
        f"{ages[len(ages) // 2] / 1e6:.0f} ms and a maximum of {ages[-1] / 1e6:.0f} ms; {with_objects} of them contained objects."
    )
    hint = ""
    if not with_objects:
        hint = "No detection matched the stream's confidence, classes and regions."
    lost = Counter({outcome: count for outcome, count in outcomes.items() if outcome != RESULT})
    if lost:
        outcome, count = _commonest(lost)
        text += f" {_count(count, 'frame')} had no result: {_MEANINGS[outcome][0]}."
    return text, hint


def _of_minute(minute: Minute) -> tuple[str, str]:
    total = sum(minute.outcomes.values())
    emitted = minute.outcomes.get(RESULT, 0)
    if emitted:
        lost = Counter({outcome: count for outcome, count in minute.outcomes.items() if outcome != RESULT})
        others = "".join(f", {count} {outcome}" for outcome, count in lost.most_common())
        return (
            f"Individual frames of this time are no longer recorded. In this minute, {emitted} of {_count(total, 'frame')} "
            f"had results, with a maximum age of {minute.max_age_ms} ms{others}.",
            "",
        )
    return _without_results(Counter(minute.outcomes), f"{_count(total, 'frame')} in this minute, none with a result")


def _without_results(outcomes: Counter[str], begin: str) -> tuple[str, str]:
    outcome, count = _commonest(outcomes)
    meaning, hint = _MEANINGS[outcome]
    share = "" if count == outcomes.total() else f" ({count} of them)"
    return f"{begin}: {meaning}{share}.", hint


def _commonest(outcomes: Counter[str]) -> tuple[str, int]:
    """Return the most common outcome and its count, ignoring outcomes that the settings ask for if there are others."""
    lost = Counter({outcome: count for outcome, count in outcomes.items() if outcome not in _CONFIGURED})
    return (lost or outcomes).most_common(1)[0]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _span(ns: int) -> str:
    seconds = ns / 1e9
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
