"""Chooses an engine by passports: the fastest whose loss of accuracy is within the budget, and the reason in one line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.selection.candidates import EngineCandidate, this_device
from vision_infer.engine.selection.tuning_store import EngineChoice
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import DeviceFacts, Passport, passports_beside

REFERENCE = "onnxruntime-cpu-fp32"
"""The engine to which the ratios of passports refer, installed or not."""
BUDGET_POINTS = 1.0
"""The accepted loss of accuracy by default, points."""
CLEARLY_FASTER = 1.05
"""The speed ratio that justifies another engine than FP32 in the first runtime (at the lower end of a measured interval)."""


MeasuredCandidate = tuple[EngineCandidate, Passport]
"""A candidate with the passport that counts for it on this machine."""


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
            if _ratio(passport) and (not here or passport.measured_here(device, candidate.key().runtime_version)):
                found.append((candidate, passport))
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
    ratios = [(candidate, passport, _ratio(passport)) for candidate, passport in measured]
    good = [one for one in ratios if within_budget(one[0], one[1], budget)]
    candidate, passport, ratio = max(good, key=lambda one: one[2], default=(reference, measured[0][1], 0.0))
    if candidate == reference or ratio < CLEARLY_FASTER:
        others = [one for one in ratios if one[0] != reference]
        faster = [one for one in others if one[2] >= CLEARLY_FASTER]
        texts = ", ".join(f"{other.engine} {times:.1f}×" for other, _, times in faster or others)
        if not faster:
            return EngineChoice(reference, f"{reference.engine}: FP32 is fastest here ({texts or 'nothing else'}, by passports)")
        where = f"'vision-infer engine list {reference.facts.card.name}' has the reasons"
        return EngineChoice(reference, f"{reference.engine}: nothing faster is within the budget ({texts}); {where}")
    loss, details = passport.loss(), ""
    if loss is not None:
        change = f"{0 - loss.value:+.2f}".replace("-", "−")
        details = f", {change} points on {loss.frames} frames of {loss.data}"
    if passport.accepted:
        details += ", loss accepted"
    if not passport.measured_here(this_device(), candidate.key().runtime_version):
        details += f" (as on {passport.device.name}, {passport.runtime} {passport.runtime_version})"
    return EngineChoice(candidate, f"{candidate.engine}: {ratio:.1f}× as fast as {REFERENCE}{details}")


def _passports_of(candidate: EngineCandidate, passports: Sequence[Passport], device: DeviceFacts) -> list[Passport]:
    wanted = (candidate.engine, candidate.compute)
    sha256 = candidate.key().graph_sha256
    return [entry for entry in passports if (entry.engine, entry.compute) == wanted and entry.holds_for(sha256, device)]


def _ratio(passport: Passport) -> float:
    """Return the highest measured ratio to the speed of FP32; 0 if there is none."""
    return max((speed.fp32_ratio or 0.0 for speed in passport.speed), default=0.0)
