"""Chooses an engine by passports: the fastest whose loss of accuracy is within the budget, and the reason in one line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.selection.candidates import EngineCandidate, this_device
from vision_infer.engine.selection.tuning_store import EngineChoice
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import DeviceFacts, MeasuredSpeed, Passport, passports_beside

REFERENCE = "onnxruntime-cpu-fp32"
"""The engine to which the ratios of passports refer, installed or not."""
BUDGET_POINTS = 1.0
"""The accepted loss of accuracy by default, points."""
CLEARLY_FASTER = 1.05
"""The speed ratio that justifies another engine than FP32 in the first runtime (at the lower end of a measured interval)."""


@dataclass(frozen=True, slots=True)
class MeasuredCandidate:
    """A candidate with the passport that counts for it on this machine."""

    candidate: EngineCandidate
    passport: Passport
    speed: MeasuredSpeed
    """The passport's speed with the highest ratio to FP32."""


def within_budget(candidate: EngineCandidate, passport: Passport | None, budget: float) -> bool:
    """Return whether a loss is verified to be within the budget, or accepted; float32 counts unless a passport objects."""
    if passport is None or not (passport.accepted or passport.loss() is not None):
        return candidate.lossless
    return not passport.shortfall(budget)


def find_passports(possible: Sequence[EngineCandidate], engine_dir: Path) -> list[Passport]:
    """Return all passports of some engines, those of the cache first; skips those that cannot be read or are not trusted."""
    found: list[Passport] = []
    if engine_dir.is_dir():
        with suppress(EngineError):  # other users could have written there
            cache = EngineCache(engine_dir)
            cached = (cache.passport(candidate.key()) for candidate in possible)
            found += [passport for passport in cached if passport is not None]
    for graph in dict.fromkeys(candidate.graph for candidate in possible):
        found += passports_beside(graph)
    return found


def with_passports(
    candidates: Sequence[EngineCandidate], passports: Sequence[Passport], device: DeviceFacts, here: bool = True
) -> list[MeasuredCandidate]:
    """Return the candidates for which a passport counts.

    Args:
        here: Whether only measurements on this very device with this version of the runtime count; False: on any device that
            computes alike. There, accuracy counts as well, and speed is an estimate.
    """
    found = []
    for candidate in candidates:
        for passport in _passports_of(candidate, passports, device):
            if here and not passport.measured_here(device, candidate.key().runtime_version):
                continue
            speed = max((speed for speed in passport.speed if speed.fp32_ratio), key=_ratio, default=None)
            if speed is not None:
                found.append(MeasuredCandidate(candidate, passport, speed))
                break
    return found


def verified_passport(candidate: EngineCandidate, passports: Sequence[Passport], device: DeviceFacts) -> Passport | None:
    """Return the passport for a candidate's accuracy on a device that computes alike; None if none is verified or accepted."""
    known = _passports_of(candidate, passports, device)
    return next((passport for passport in known if passport.accepted or passport.loss() is not None), None)


def choose_by_passports(
    reference: EngineCandidate, measured: Sequence[MeasuredCandidate], budget: float = BUDGET_POINTS
) -> EngineChoice | None:
    """Return the fastest engine within the budget; None if no passport has a speed.

    Args:
        reference: FP32, which is chosen if nothing is better.
        budget: The accepted loss of accuracy, points; the upper end of the loss's interval has to be within it.
    """
    if not measured:
        return None
    good = [entry for entry in measured if within_budget(entry.candidate, entry.passport, budget)]
    best = max(good, key=lambda entry: _ratio(entry.speed), default=None)
    if best is None or best.candidate == reference or _ratio(best.speed) < CLEARLY_FASTER:
        others = [entry for entry in measured if entry.candidate != reference]
        faster = [entry for entry in others if _ratio(entry.speed) >= CLEARLY_FASTER]
        texts = ", ".join(f"{entry.candidate.engine} {entry.speed.fp32_ratio:.1f}×" for entry in faster or others)
        if not faster:
            return EngineChoice(reference, f"{reference.engine}: FP32 is fastest here ({texts or 'nothing else'}, by passports)")
        where = f"'vision-infer engine list {reference.facts.card.name}' has the reasons"
        why = f"nothing faster is within the budget ({texts}); {where}"
        return EngineChoice(reference, f"{reference.engine}: {why}")
    passport, loss = best.passport, best.passport.loss()
    details = ""
    if loss is not None:
        change = f"{0 - loss.value:+.2f}".replace("-", "−")
        details = f", {change} points on {loss.frames} frames of {loss.data}"
    if passport.accepted:
        details += ", loss accepted"
    if not passport.measured_here(this_device(), best.candidate.key().runtime_version):
        details += f" (as on {passport.device.name}, {passport.runtime} {passport.runtime_version})"
    reason = f"{best.candidate.engine}: {best.speed.fp32_ratio:.1f}× as fast as {REFERENCE}{details}"
    return EngineChoice(best.candidate, reason)


def _passports_of(candidate: EngineCandidate, passports: Sequence[Passport], device: DeviceFacts) -> list[Passport]:
    wanted = (candidate.engine, candidate.compute)
    sha256 = candidate.key().graph_sha256
    return [entry for entry in passports if (entry.engine, entry.compute) == wanted and entry.holds_for(sha256, device)]


def _ratio(speed: MeasuredSpeed) -> float:
    return speed.fp32_ratio or 0
