"""The child process that compiles an engine for a lane: ``python -m vision_infer.pipeline.lanes.engine_child``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vision_infer.core.errors import VisionInferError
from vision_infer.engine.open import EngineRequest, open_engine


def parse_words(words: Sequence[str]) -> tuple[Path, EngineRequest, Sequence[str]]:
    """Parse a command line of :mod:`vision_infer.pipeline.lanes.upgrade`; return the graph, the request and the other words."""
    graph, engine, device, folder, batch, workers, threads, *others = words
    profile = (int(workers) or None, int(threads) or None, int(batch) or None)
    return Path(graph), EngineRequest(engine, device, *profile, engine_dir=Path(folder)), others


def compile_engine(words: Sequence[str]) -> None:
    """Compile an engine into the cache.

    Raises:
        EngineError: It cannot be compiled.
        ModelError: The graph cannot be loaded.
    """
    graph, request, _ = parse_words(words)
    with open_engine(graph, request):
        pass


def run_main(work: Callable[[Sequence[str]], object]) -> None:
    """Do the work of a child process. When it fails, exit with a status and one line on standard error."""
    try:
        work(sys.argv[1:])
    except VisionInferError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    run_main(compile_engine)
