"""What a camera's probe means for whoever wants its results soon and its picture in a browser, and what to set on the camera."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vision_infer.core.finding import Finding, Severity
from vision_infer.stream.discovery.probe import STEPS, Probe, ProbeError

KEY_INTERVAL_MOST_S = 4.0
JITTER_MOST_MS = 100.0
MIN_RATE = 0.8
"""of what the camera says that it sends"""
MAX_DECODE = 0.5
"""of a CPU"""
_LARGE = 2_500_000
"""pixels; more than 1080p"""


def find_in_probe(found: Probe) -> list[Finding]:
    """What was seen, and what is to be minded."""
    return [Finding("camera", "ok", _seen(found), facts=_facts(found)), *_minded(found)]


def find_in_failure(url: str, error: ProbeError) -> Finding:
    """Why a camera gives no picture.

    Args:
        url: without secrets.
        error: of :func:`vision_infer.stream.discovery.probe.probe`.
    """
    message = error.message.removeprefix(f"{url}: ")
    facts = {"url": url, "failed_at": error.step, "refused": error.refused}
    return Finding("camera", "error", f"{url}: no picture: failed {STEPS[error.step]}: {message}", error.hint, facts)


def _seen(found: Probe) -> str:
    rate = f"{found.frame_rate:.3g} frames/s" if found.frame_rate else "rate unknown"
    bits = f", {found.bit_rate / 1e6:.2g} Mbit/s" if found.bit_rate else ""
    key = "" if found.key_interval_s is None else f", a key frame each {found.key_interval_s:.2g} s"
    jitter = "" if found.jitter_ms is None else f", jitter {found.jitter_ms:.0f} ms"
    decode = "" if found.decode_ms is None else f", {found.decode_ms:.2g} ms of CPU to decode each"
    codec = " ".join(filter(None, (found.codec, found.profile)))
    browser = "a browser plays it as it comes" if found.untouched else "it is encoded again for a browser"
    first = f"first picture after {found.first_frame_ms:.0f} ms"
    return f"{found.url}: {codec} {found.size}, {rate}{bits}; {first}{key}{jitter}{decode}; {browser}"


def _minded(found: Probe) -> list[Finding]:
    said: list[tuple[Severity, str, str]] = []
    if not found.untouched and found.kind != "test":
        said.append(("note", f"viewers cost encoding: {found.not_untouched}", "set it to H.264 without B-frames for a preview"))
    if found.b_frames:
        said.append(
            (
                "warning",
                "it sends B-frames: each picture waits for later ones",
                "turn B-frames off, or set its profile to baseline",
            )
        )
    apart_s, known = _key_frames_apart_s(found)
    if apart_s > KEY_INTERVAL_MOST_S:
        apart = f"{'' if known else 'at least '}{apart_s:.0f} s apart"
        text = f"its key frames are {apart}: who connects waits up to so long for a picture"
        said.append(("warning", text, "set its key-frame (I-frame, GOP) interval to 1 or 2 s"))
    if found.jitter_ms is not None and found.jitter_ms > JITTER_MOST_MS:
        said.append(
            ("warning", f"its packets come up to {found.jitter_ms:.0f} ms late", "look at the network: Wi-Fi, a busy switch")
        )
    if found.frame_rate and found.said_rate and found.frame_rate < MIN_RATE * found.said_rate:
        text = f"it says {found.said_rate:.3g} frames/s and sends {found.frame_rate:.3g}"
        said.append(("note", text, "in the dark, many cameras send fewer; else its network or the camera is overloaded"))
    if found.damaged:
        text = f"{found.damaged} of {found.pictures} packets were damaged"
        said.append(("warning", text, "packets are lost: use transport: tcp, or look at the network"))
    if found.decode_ms is not None and found.frame_rate and found.decode_ms * found.frame_rate / 1000 > MAX_DECODE:
        share = found.decode_ms * found.frame_rate / 1000
        said.append(("warning", f"decoding it takes {share:.1f} CPUs", "use the camera's second stream for detection (detect:)"))
    elif found.size.width * found.size.height > _LARGE:
        said.append(
            ("note", f"{found.size} is more than a network looks at", "use the camera's second stream for detection (detect:)")
        )
    if found.interlaced:
        said.append(("note", "it is interlaced: moving things have combs", "set it to progressive"))
    return [Finding("camera", severity, f"{found.url}: {text}", hint, {"url": found.url}) for severity, text, hint in said]


def _key_frames_apart_s(found: Probe) -> tuple[float, bool]:
    """How far apart, and whether that is known; where it is not, at least what was waited for the first one, or after it."""
    if found.key_interval_s is not None:
        return found.key_interval_s, True
    if found.kind in ("test", "file"):
        return 0.0, False
    return max((found.first_frame_ms - found.opened_ms) / 1000, found.since_key_s or 0.0), False


def _facts(found: Probe) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(found).items()}
