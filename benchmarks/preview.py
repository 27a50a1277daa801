"""The browser's preview: what it shows, how late, and what its viewers cost.

    python -m benchmarks.preview [--only ROW] [--quick]

Real cameras, the service as a process of its own, chromium without a window. Each row is measured beside its own control where it
has one, and told with what must be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import preview_browser, preview_load
from benchmarks.machine import describe_machine
from benchmarks.preview_load import Length, Rows
from benchmarks.verdict import Check, conclude
from tests.support.cameras import missing


class Row(NamedTuple):
    """How a row is measured, and for how long."""

    measure: Callable[[Length], Rows]
    length: Length


ROWS = {
    "glass": Row(preview_browser.glass, Length(8, 3)),
    "first": Row(preview_browser.first, Length(10, 1)),
    "overlay": Row(preview_browser.overlay, Length(10, 1)),
    "loss": Row(preview_browser.loss, Length(15, 1)),
    "viewers": Row(preview_load.viewers, Length(6, 2)),
    "beside": Row(preview_load.beside, Length(10, 3)),
    "vanish": Row(preview_load.vanish, Length(0, 3)),
}
QUICK_S = 4.0


def main() -> int:
    """Measure, print, and write ``preview.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=ROWS, help="this row (again for more)")
    parser.add_argument("--quick", action="store_true", help="does it all still run? its figures mean little")
    args = parser.parse_args()
    if missing():
        sys.exit(f"{missing()}: make cameras")
    machine = describe_machine()
    checks: list[Check] = []
    measured: list[dict[str, Any]] = []
    for name in args.only or ROWS:
        row = ROWS[name]
        length = Length(min(row.length.seconds, QUICK_S), 1) if args.quick else row.length
        found, times = row.measure(length)
        print(f"{name}:", *times, *found, sep="\n", flush=True)
        checks += found
        measured += [{"row": name, **one} for one in times]
    return conclude("preview", machine, checks, measured)


if __name__ == "__main__":
    sys.exit(main())
