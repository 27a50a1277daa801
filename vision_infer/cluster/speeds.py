"""The speed of each kind of machine, from the costs of the cameras that it runs: pure, like :mod:`placement`.

A camera that uses 0.4 cores on one kind of CPU may use 0.2 on another. Costs and capacities are compared in cores of the kind
that was measured first, which has the speed 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from statistics import fmean


class Speeds:
    """Learns speeds. One thread uses it."""

    def __init__(self) -> None:
        self._speeds: dict[str, float] = {}

    def of(self, kind: str) -> float | None:
        """Return the speed of a kind of machine; None if nothing was measured on it, but on others."""
        return self._speeds.get(kind, None if self._speeds else 1.0)

    def learn(self, costs: Iterable[tuple[str, str, float]]) -> None:
        """Take over measurements.

        Args:
            costs: The kind of machine, the work (cameras of the same work are compared), and the cores of each measured camera.
        """
        measured: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for kind, work, cores in costs:
            measured[kind][work].append(cores)
        if measured and not measured.keys() & self._speeds.keys():  # the first measurements, or nothing to compare them with
            first = max(sorted(measured), key=lambda kind: sum(map(len, measured[kind].values())))
            self._speeds = {first: 1.0}
        known = self._known(measured)
        for kind in sorted(measured.keys() - self._speeds.keys()):
            works = known.keys() & measured[kind].keys()
            if works:
                expected, found = [fmean(known[work]) for work in works], [fmean(measured[kind][work]) for work in works]
            else:  # different work: a rough estimate is better than one camera for ever
                expected, found = [fmean(chain(*known.values()))], [fmean(chain(*measured[kind].values()))]
            if sum(found) > 0:
                self._speeds[kind] = sum(expected) / sum(found)

    def _known(self, measured: Mapping[str, Mapping[str, list[float]]]) -> dict[str, list[float]]:
        """Return the costs of each work on kinds with a known speed, in cores of the first kind."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for kind in measured.keys() & self._speeds.keys():
            for work, costs in measured[kind].items():
                found[work] += [cores * self._speeds[kind] for cores in costs]
        return found
