"""Passports as text: on one line, on a page, and the reasons why 'auto' does not select an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_infer.engine.selection.candidates import EngineCandidate
    from vision_infer.engine.selection.tuning_store import EngineChoice
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


def engine_row(
    candidate: EngineCandidate, passport: Passport | None, choice: EngineChoice | None, why_not: Sequence[str]
) -> tuple[str, ...]:
    """Return the cells of an engine for :func:`engine_table`."""
    chosen = choice is not None and choice.candidate == candidate
    speed, loss = (None, None) if passport is None else (passport.fastest(), passport.loss())
    times = "" if speed is None or speed.fp32_ratio is None else f"{speed.fp32_ratio:.2f}"
    cells = [
        f"{'*' if chosen else ' '} {candidate.engine}",
        times,
        "" if speed is None else f"{speed.fps:.1f}",
        "" if speed is None else f"{speed.p95_ms:.1f}",
        "" if loss is None else f"{loss.value:.2f}",
        "" if loss is None or loss.drift is None else f"{loss.drift.count:+.1f} %".replace("-", "−"),
    ]
    if chosen and choice is not None:
        return (*cells, f"selected: {choice.reason.partition(': ')[2]}")
    reason = "; ".join(why_not)
    if not reason and passport is None:
        reason = "not measured"
    elif not reason and loss is None and not candidate.lossless:
        reason = "not selected: its accuracy is not verified"
    elif not reason:
        reason = "not selected: slower, or less than 5 % faster than FP32" if choice is not None else "not selected"
    return (*cells, f"{reason}, loss accepted" if passport is not None and passport.accepted else reason)


def engine_table(size: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table of the engines for one input size; the last column is as wide as its text."""
    headings = ("  ENGINE", "× FP32", "FPS", "P95 MS", "POINTS LOST", "DETECTIONS", "'AUTO'")
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings) - 1)]
    lines = [f"{size} input (width x height)"]
    for row in (headings, *rows):
        first, *figures = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append("  ".join([first, *(cell.strip().rjust(len(cell)) for cell in figures), row[-1]]).rstrip())
    return [*lines, ""]


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
            again += "" if drift.details is None else f", details {drift.details:.3f}"
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
