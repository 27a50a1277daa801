"""Measure the preview in the browser: latency, boxes, packet loss, and the cost of viewers.

    python -m benchmarks.preview [--only ROW] [--quick]

It uses real cameras, the service as a separate process, and headless Chromium. A row with a control measures both at the same
time. Each row prints its measurement and target.
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
    """The function that measures a row, and its duration."""

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
    parser.add_argument("--only", action="append", choices=ROWS, help="Run this row only; may be repeated.")
    parser.add_argument("--quick", action="store_true", help="Check that everything runs; the figures mean little.")
    args = parser.parse_args()
    if missing():
        sys.exit(f"{missing()}; run: make cameras")
    machine = describe_machine()
    checks: list[Check] = []
    measured: list[dict[str, Any]] = []
    for name in args.only or ROWS:
        row = ROWS[name]
        length = Length(min(row.length.seconds, QUICK_S), 1) if args.quick else row.length
        found, times = row.measure(length)
        print(f"{name}:", *times, *found, sep="\n", flush=True)
        checks += found
        measured += [{"row": name, **values} for values in times]
    return conclude("preview", machine, checks, measured)


if __name__ == "__main__":
    sys.exit(main())
