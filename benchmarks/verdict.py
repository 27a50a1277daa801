"""What was measured against what must be: a table for the terminal, JSON to keep, an exit status."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.inputs import RESULTS


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be."""

    what: str
    measured: float
    limit: float
    unit: str
    at_most: bool = True
    """False: at least"""

    @property
    def good(self) -> bool:
        """Whether it is so."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        told = f"{self.measured:10.3f} {sign} {self.limit:.3f} {self.unit}"
        return f"  {'good' if self.good else 'MISSED':7}{self.what:58}{told}"


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that this part of all (0–1) does not exceed; nan where there is none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """By how much the values grow each second (least squares); nan where that cannot be told."""
    if len(set(times_s)) < 2:
        return float("nan")
    return statistics.linear_regression(times_s, values).slope


def conclude(
    name: str, machine: dict[str, object], checks: Sequence[Check], rounds: Sequence[object], more: object = None
) -> int:
    """Print the verdict, and write ``NAME.json`` with every round.

    Args:
        name: of the benchmark.
        machine: what it ran on.
        checks: what must be.
        rounds: what was measured each time, as it goes into JSON.
        more: what else is worth keeping.

    Returns:
        The exit status: 0 where all is as it must be.
    """
    instructions = machine["instructions"]
    assert isinstance(instructions, list)
    print(f"\n{name}: {machine['cpu']}, {machine['cores']} cores, {' '.join(instructions)}")
    for check in checks:
        print(check)
    good = all(check.good for check in checks)
    print(f"  {'all is as it must be' if good else 'NOT ALL IS AS IT MUST BE'} ({len(rounds)} measured)")
    content = {
        "machine": machine,
        "checks": [asdict(check) | {"good": check.good} for check in checks],
        "rounds": list(rounds),
        "more": more,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if good else 1
