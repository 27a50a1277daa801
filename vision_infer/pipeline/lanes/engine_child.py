"""The child process that makes a better engine for a lane: ``python -m vision_infer.pipeline.lanes.engine_child``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vision_infer.core.errors import VisionInferError
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.auto import AutotuneOptions, autotune_model
from vision_infer.engine.selection.warm_start import compile_engine

Autotune = Callable[[Path, EngineRequest, Sequence[str]], object]
"""Times the engines of a deployment graph, judges their accuracy on some videos, and stores which one is best."""


def autotune(arguments: Sequence[str], work: Autotune) -> None:
    """Parse the command line of :func:`vision_infer.pipeline.lanes.upgrade.autotune_command` and do the work.

    Raises:
        VisionInferError: The work failed.
    """
    graph, folder, batch, workers, threads, *data = arguments
    profile = (int(workers) or None, int(threads) or None, int(batch) or None)
    work(Path(graph), EngineRequest("auto", "cpu", *profile, engine_dir=Path(folder)), data)


def run_main(work: Callable[[Sequence[str]], None]) -> None:
    """Do the work of a child process. When it fails, exit with a status and one line on standard error."""
    try:
        work(sys.argv[1:])
    except VisionInferError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)


def _main(arguments: Sequence[str]) -> None:
    if arguments[0] == "compile":
        compile_engine(*arguments[1:])
    else:
        # Accuracy is not judged here: engines whose accuracy is not known are not tried.
        autotune(arguments, lambda path, request, _: autotune_model(path, request, AutotuneOptions()))


if __name__ == "__main__":
    run_main(_main)
