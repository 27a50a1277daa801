"""Passports as text: on one line, on a page, and the reasons why 'auto' does not select an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_infer.engine.store.passport import Passport


def notes(passport: Passport | None, failure: str, budget: float) -> list[str]:
    """Return the reasons why 'auto' does not select an engine."""
    from vision_infer.engine.selection.candidates import this_device

    found = []
    if passport is not None and not passport.holds_for(passport.sources.graph, this_device()):
        kind = passport.engine.rpartition("-")[2]
        found.append(f"its accuracy must be measured again, because this CPU has other instructions for {kind}")
    if passport is not None and (why := passport.shortfall(budget)):
        found.append(f"not selected: {why}")
    if failure:
        found.append(f"failed in autotune: {failure} (engine choose --again tries it again)")
    return found


def passport_line(passport: Passport | None) -> str:
    """Return the main figures of a passport on one line."""
    if passport is None:
        return "not measured"
    speed, loss = passport.fastest(), passport.loss()
    parts = []
    if speed is not None:
        parts.append(f"{speed.fps:.1f} fps ({speed.workers} × {speed.threads} threads), p95 {speed.p95_ms:.1f} ms")
        if speed.fp32_ratio is not None:
            parts.append(f"{speed.fp32_ratio:.2f}× FP32")
    if loss is not None:
        parts.append(f"{-loss.value:+.2f} points on {loss.frames} frames".replace("-", "−"))
        if loss.drift is not None:
            parts.append(f"{loss.drift.count:+.1f} % detections".replace("-", "−"))
    elif passport.accuracy:
        parts.append("accuracy not verified")
    if passport.accepted:
        parts.append("loss accepted")
    return ", ".join(parts) or "not measured"


def page(passport: Passport) -> str:
    """Return all figures of a passport, line by line."""
    card, device = passport.card, passport.device
    gpu = device.kind == "cuda"
    lines = [
        f"{passport.engine} of {card.name}",
        f"  model      {card.task}, {card.width}x{card.height}, {card.labels} labels, {card.license or 'no license'}",
        f"  graph      sha256 {passport.sources.graph}",
        f"  runtime    {passport.runtime} {passport.runtime_version}" + ("" if gpu else f", computes in {passport.compute}"),
        f"  device     {device.name}" + ("" if gpu else f" ({' '.join(device.instructions)}), {device.cores} cores"),
        f"  precision  {', '.join(f'{group}: {kind}' for group, kind in passport.precision.items()) or 'unknown'}",
    ]
    for entry in passport.accuracy:
        interval = f"{-entry.value:+.2f} points (95 % {-entry.high:+.2f} to {-entry.low:+.2f})".replace("-", "−")
        lines.append(f"  accuracy   {interval}, {entry.metric}, {entry.frames} frames of {entry.data}: {entry.judged}")
        if (drift := entry.drift) is not None:
            count = f"{drift.count:+.1f} % detections (95 % {drift.count_low:+.1f} to {drift.count_high:+.1f}) of {drift.objects}"
            again = f"{drift.found:.1f} % detected again, IoU {drift.iou:.3f}"
            lines.append(f"  at {drift.threshold:<7g} {count}, scores {drift.score:+.3f}, {again}")
    if not passport.accuracy:
        lines.append("  accuracy   not measured")
    if passport.accepted:
        lines.append("  accepted   by the user, with --accept-loss")
    lines += [
        f"  speed      batch {speed.batch}, {speed.workers} × {speed.threads} threads: {speed.fps:.1f} fps "
        f"(95 % {speed.fps_low:.1f}–{speed.fps_high:.1f}), p50 {speed.p50_ms:.1f} ms, p95 {speed.p95_ms:.1f} ms, "
        f"{speed.cpu_ms:.1f} ms of CPU per image, {speed.fp32_ratio or 0:.2f}× FP32"
        for speed in passport.speed
    ]
    if passport.memory_bytes is not None:
        lines.append(f"  memory     {passport.memory_bytes / 1e6:.0f} MB")
    lines.append(f"  built      {passport.date:%Y-%m-%d}, in {passport.build_seconds or 0:.2f} s")
    return "\n".join(lines)
