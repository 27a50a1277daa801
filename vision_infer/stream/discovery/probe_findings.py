"""Converts the probe of a camera into findings for the doctor: what it sends, and which camera settings to change."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vision_infer.core.finding import Finding, Severity
from vision_infer.stream.discovery.probe import STEPS, Probe, ProbeError

MAX_KEY_INTERVAL_S = 4.0
MAX_JITTER_MS = 100.0
MIN_RATE = 0.8
"""The minimum frame rate relative to the one that the camera announces."""
MAX_DECODE = 0.5
"""The maximum CPU share of decoding, in CPUs."""
_LARGE = 2_500_000
"""More pixels than 1080p has."""
_LOSS_HINT = "Use transport: tcp, or check the network."
_SECOND_STREAM = "Use the camera's second stream for detection (detect:)."


def find_in_probe(found: Probe) -> list[Finding]:
    """Return what the camera sends, and the settings that should change."""
    return [Finding("camera", "ok", _summary(found), facts=_facts(found)), *_problems(found)]


def find_in_failure(url: str, error: ProbeError) -> Finding:
    """Return why a camera delivers no frame, for its URL without secrets and the error of its probe."""
    message = error.message.removeprefix(f"{url}: ")
    facts = {"url": url, "failed_at": error.step, "refused": error.refused}
    return Finding("camera", "error", f"{url}: no frame: failed {STEPS[error.step]}: {message}", error.hint, facts)


def _summary(found: Probe) -> str:
    rate = f"{found.frame_rate:.3g} frames/s" if found.frame_rate else "rate unknown"
    bits = f", {found.bit_rate / 1e6:.2g} Mbit/s" if found.bit_rate else ""
    key = "" if found.key_interval_s is None else f", a key frame every {found.key_interval_s:.2g} s"
    jitter = "" if found.jitter_ms is None else f", jitter {found.jitter_ms:.0f} ms"
    decode = "" if found.decode_ms is None else f", {found.decode_ms:.2g} ms of CPU time to decode a frame"
    codec = " ".join(filter(None, (found.codec, found.profile)))
    players = found.passthrough_players
    browser = f"unmodified for {players}" if players else "it must be transcoded for browsers"
    first = f"first frame after {found.first_frame_ms:.0f} ms"
    by = {"rtp": " over RTP", "ffmpeg": " by FFmpeg"}[found.ingest] if found.kind == "rtsp" and found.ingest else ""
    return f"{found.url}: {codec} {found.size}{by and f', read{by}'}, {rate}{bits}; {first}{key}{jitter}{decode}; {browser}"


def _problems(found: Probe) -> list[Finding]:
    problems: list[tuple[Severity, str, str]] = []
    if not found.passthrough_players and found.kind != "test":
        text = f"the preview must transcode it: {found.passthrough_problem}"
        problems.append(("note", text, "Set the camera to H.264 without B-frames."))
    if found.ingest_reason:
        delay = ", which delays each frame by one frame interval" if found.ingest_delays else ""
        text = f"it is read by FFmpeg{delay}: {found.ingest_reason}"
        problems.append(("note", text, "Set the camera to H.264 or H.265, and its sound to AAC or G.711, or switch it off."))
    if found.b_frames:
        text = "it sends B-frames, so each frame waits for later ones"
        problems.append(("warning", text, "Turn B-frames off, or set the profile to baseline."))
    apart_s, known = _key_frames_apart_s(found)
    if apart_s > MAX_KEY_INTERVAL_S:
        apart = f"{'' if known else 'at least '}{apart_s:.0f} s apart"
        text = f"its key frames are {apart}, so a new connection waits up to that long for its first frame"
        problems.append(("warning", text, "Set the key-frame (I-frame, GOP) interval to 1–2 s."))
    if found.jitter_ms is not None and found.jitter_ms > MAX_JITTER_MS:
        text = f"its packets arrive up to {found.jitter_ms:.0f} ms late"
        problems.append(("warning", text, "Check the network, for example Wi-Fi or a busy switch."))
    if found.frame_rate and found.nominal_rate and found.frame_rate < MIN_RATE * found.nominal_rate:
        text = f"it announces {found.nominal_rate:.3g} frames/s and sends {found.frame_rate:.3g}"
        hint = "Many cameras send fewer frames in the dark; otherwise, check the load of the camera and the network."
        problems.append(("note", text, hint))
    if found.packets_lost:
        sent = found.packets_received + found.packets_lost
        text = f"{found.packets_lost} of {sent} RTP packets were lost, and {found.damaged} of {found.frames} frames are damaged"
        problems.append(("warning", text, _LOSS_HINT))
    elif found.damaged:
        problems.append(("warning", f"{found.damaged} of {found.frames} frames are damaged", f"Packets are lost. {_LOSS_HINT}"))
    if found.decode_ms is not None and found.frame_rate and found.decode_ms * found.frame_rate / 1000 > MAX_DECODE:
        share = found.decode_ms * found.frame_rate / 1000
        problems.append(("warning", f"decoding it uses {share:.1f} CPUs", _SECOND_STREAM))
    elif found.size.width * found.size.height > _LARGE:
        problems.append(("note", f"{found.size} is larger than detection models use", _SECOND_STREAM))
    if found.interlaced:
        problems.append(("note", "it is interlaced, so moving edges look combed", "Set the camera to progressive scan."))
    return [Finding("camera", severity, f"{found.url}: {text}", hint, {"url": found.url}) for severity, text, hint in problems]


def _key_frames_apart_s(found: Probe) -> tuple[float, bool]:
    """Return the distance of key frames, and whether it is known; if not, the longest wait for one."""
    if found.key_interval_s is not None:
        return found.key_interval_s, True
    if found.kind in ("test", "file"):
        return 0.0, False
    return max((found.first_frame_ms - found.opened_ms) / 1000, found.since_key_s or 0.0), False


def _facts(found: Probe) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(found).items()}
