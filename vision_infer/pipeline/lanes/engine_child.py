"""The child process that makes a better engine for a lane: ``python -m vision_infer.pipeline.lanes.engine_child``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from vision_infer.core.errors import VisionInferError
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.auto import AutotuneOptions, autotune_model
from vision_infer.engine.selection.warm_start import compile_engine


class Autotune(Protocol):
    """Times the engines of a deployment graph, and stores which one is best. It judges their accuracy on frames."""

    def __call__(
        self,
        path: Path,
        request: EngineRequest,
        data: Sequence[str],
        /,
        *,
        samples: BinaryIO | None,
        on_message: Callable[[str], None],
    ) -> object: ...


def autotune(arguments: Sequence[str], work: Autotune) -> None:
    """Parse the command line of :func:`vision_infer.pipeline.lanes.upgrade.autotune_command` and do the work.

    On a GPU the frames come from standard input, and the progress goes to standard output.

    Raises:
        VisionInferError: The work failed.
    """
    graph, device, folder, batch, workers, threads, *data = arguments
    profile = (int(workers) or None, int(threads) or None, int(batch) or None)
    request = EngineRequest("auto", device, *profile, engine_dir=Path(folder))
    on_gpu = device != "cpu"
    work(
        Path(graph),
        request,
        () if on_gpu else data,
        samples=sys.stdin.buffer if on_gpu else None,
        on_message=_print_line if on_gpu else (lambda _: None),
    )


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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
        autotune(
            arguments,
            lambda path, request, _, samples, on_message: autotune_model(  # noqa: ARG005
                path, request, AutotuneOptions(), on_message
            ),
        )


if __name__ == "__main__":
    run_main(_main)
