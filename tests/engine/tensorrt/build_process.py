"""``vision-infer engine build`` in a process of its own, that says each phase of the build on standard output.

python -m tests.engine.tensorrt.build_process GRAPH --engine-dir DIR …
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import vision_infer.cli.engines.build_progress
from vision_infer.cli.main import main
from vision_infer.engine.tensorrt.build_progress import BuildProgress, Report

COMPILES = "Computing profile costs"
"""the phase in which most of the time is spent"""


@contextmanager
def told_phases(what: str) -> Iterator[Report]:
    """Tells each phase once, in the order in which they begin."""
    seen: set[str] = set()

    def report(now: BuildProgress) -> None:
        if now.phase not in seen:
            seen.add(now.phase)
            print(now.phase, flush=True)

    yield report


if __name__ == "__main__":
    vision_infer.cli.engines.build_progress.open_build_progress = told_phases
    sys.argv[1:1] = ["engine", "build"]
    main()
