"""Run parts of the tests or of the benchmark: ``python -m benchmarks.gpu tests|bench FILE.jsonl [--parts a,b] [--minutes 9]``.

``make test-gpu`` and ``make bench-gpu`` call it with a Python that has the requirements.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from benchmarks.gpu import bench, testing
from benchmarks.gpu.parts import PARTS, files_by_part
from benchmarks.gpu.plan import Part, Rows, run_parts, tables
from benchmarks.machine import describe_machine


def parts_of(what: str) -> dict[str, Part]:
    """Return the parts by name, in order."""
    if what == "tests":
        return {name: partial(testing.steps, [file]) for name, file in files_by_part().items()}
    return {name: getattr(bench, name) for name in PARTS}


def main(words: list[str] | None = None) -> int:
    """Run the parts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tests", "bench"))
    parser.add_argument("result", type=Path)
    parser.add_argument("--parts", default="")
    parser.add_argument("--minutes", type=float)
    given = parser.parse_args(words)
    known = parts_of(given.what)
    wanted = given.parts.split(",") if given.parts else known
    rows = Rows(given.result)
    rows.add({"part": "machine", "step": "host", **describe_machine()})
    failed = run_parts({name: part for name, part in known.items() if name in wanted}, rows, given.minutes)
    print(f"\n{tables(rows.written[1:])}\n\nwritten: {given.result}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
