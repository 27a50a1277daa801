"""Count fabricated scenes of known truth: labels that flicker, several boxes of one object, hidden objects, a weak detector.

The scenes are those of the tests; the steps from the detector's candidates to the events are those of a real stream. Exits with
status 1 if more than 5 % of the crossings of a scene are wrong, or if an occupancy is wrong by more than 0.1 objects on average.

    python -m benchmarks.counting [--fps 5 10 15 30]
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.machine import describe_machine
from tests.support.traffic import CLASSES, LIMIT, scenes, watch

COLUMNS = "| Scene | Results/s | Classes | Crossings | Counted | Wrong | Wrong, % | Occupancy error | Rows below the confidence |"


def main() -> int:
    """Print a table of all scenes, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fps", nargs="+", type=float, default=[5, 10, 15, 30], help="The rates of results.")
    wanted = parser.parse_args()
    print(describe_machine())
    print(COLUMNS)
    print("| --- " * COLUMNS.count(" |") + "|")
    missed = 0
    for scene in scenes():
        for fps in wanted.fps:
            for classes in filter(scene.has, CLASSES):
                count = watch(scene, fps, classes)
                wrong = count.wrong / count.expected
                missed += wrong > LIMIT or count.occupancy_error > 0.1
                names = "all" if classes is None else ", ".join(classes)
                print(
                    f"| {scene.name} | {fps:g} | {names} | {count.expected} | {count.crossed} | {count.wrong} | {wrong:.1%} "
                    f"| {count.occupancy_error:.2f} | {count.weak_rows} |",
                    flush=True,
                )
    print(f"{missed} rows miss the target" if missed else "all rows are within the target")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
