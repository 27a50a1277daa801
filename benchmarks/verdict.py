"""Compare measurements with targets: a table for the terminal, a JSON file, and an exit status."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.inputs import RESULTS
from benchmarks.machine import source_line


@dataclass(frozen=True, slots=True)
class Check:
    """A measurement and its target."""

    what: str
    measured: float
    limit: float
    unit: str
    at_most: bool = True
    """Whether the limit is a maximum; otherwise it is a minimum."""

    @property
    def good(self) -> bool:
        """Whether the target is met."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        figures = f"{self.measured:10.3f} {sign} {self.limit:.3f} {self.unit}"
        return f"  {'good' if self.good else 'MISSED':7}{self.what:58}{figures}"


def quantile(values: Sequence[float], part: float) -> float:
    """Return a quantile of the values (0–1); NaN without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Return the growth of the values per second (least squares); NaN with fewer than two different times."""
    if len(set(times_s)) < 2:
        return float("nan")
    return statistics.linear_regression(times_s, values).slope


def conclude(
    name: str, machine: dict[str, object], checks: Sequence[Check], rounds: Sequence[object], more: object = None
) -> int:
    """Print the verdict, and write ``NAME.json`` with every round.

    Args:
        name: The name of the benchmark.
        machine: The description of the machine.
        checks: The measurements with their targets.
        rounds: The measurements of each round, as JSON values.
        more: Additional JSON values to store.

    Returns:
        The exit status: 0 if all targets are met.
    """
    instructions = machine["instructions"]
    assert isinstance(instructions, list)
    print(f"\n{name}: {' '.join(instructions)}; {source_line(machine)}")
    for check in checks:
        print(check)
    good = all(check.good for check in checks)
    print(f"  {'all targets are met' if good else 'NOT ALL TARGETS ARE MET'} ({len(rounds)} measurements)")
    content = {
        "machine": machine,
        "checks": [asdict(check) | {"good": check.good} for check in checks],
        "rounds": list(rounds),
        "more": more,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if good else 1
