"""``vision-infer engine build`` in a child process that prints each phase of the build.

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
"""The longest phase of a build."""


@contextmanager
def print_phases(what: str) -> Iterator[Report]:
    """Print each phase once, in the order in which they begin."""
    seen: set[str] = set()

    def report(now: BuildProgress) -> None:
        if now.phase not in seen:
            seen.add(now.phase)
            print(now.phase, flush=True)

    yield report


if __name__ == "__main__":
    vision_infer.cli.engines.build_progress.open_build_progress = print_phases
    sys.argv[1:1] = ["engine", "build"]
    main()
