"""Whether a runtime works: a child process opens a small deployment graph in it, runs one picture, and tells what came out.

In a process of its own: a runtime that was built for another processor, or meets a broken driver, takes its process with it.

    python -m vision_infer.engine.trial GRAPH RUNTIME DEVICE < picture
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError, VisionInferError
from vision_infer.engine.open import EngineRequest, open_engine

LIMIT_S = 60.0
_ILLEGAL = signal.SIGILL


@dataclass(frozen=True, slots=True)
class Trial:
    """A runtime that ran a picture."""

    engine: str
    """its full name"""
    version: str
    """of the runtime; empty where it is not known"""
    class_id: int | None
    """of the best detection; None: there was none"""
    ready_s: float
    """from the start of the process until it could have taken a picture"""
    run_ms: float
    """of the picture"""


def try_runtime(
    graph: Path,
    runtime: str,
    image: NDArray[np.uint8],
    device: str = "auto",
    limit_s: float = LIMIT_S,
    program: Sequence[str] = (sys.executable, "-m", "vision_infer.engine.trial"),
) -> Trial:
    """Run a picture in a runtime, in a child process.

    Args:
        graph: a deployment graph of a detector.
        runtime: one of :data:`vision_infer.engine.open.RUNTIMES`.
        picture: uint8 [H, W, 3] RGB of the graph's input size.
        device: as for an engine.
        limit_s: how long it may take, seconds.
        program: what is started.

    Raises:
        EngineError: it cannot be opened, fails, hangs, or takes its process with it.
    """
    words = [*program, str(graph), runtime, device]
    began = time.monotonic()
    try:
        done = subprocess.run(words, input=image.tobytes(), capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{runtime} hangs: no answer within {limit_s:g} s", "leave it out with --engine") from None
    except OSError as error:
        raise EngineError(f"{runtime} cannot be tried: {error.strerror}") from None
    try:
        told = json.loads(done.stdout.decode().strip().splitlines()[-1])
        if "error" in told:
            raise EngineError(str(told["error"]), str(told["hint"]))
        passed_s = time.monotonic() - began
        return Trial(told["engine"], told["version"], told["class_id"], passed_s - told["run_ms"] / 1000, told["run_ms"])
    except (ValueError, IndexError, KeyError, TypeError):
        raise _crashed(runtime, done.returncode, done.stderr.decode("utf-8", "replace")) from None


def _crashed(runtime: str, status: int, said: str) -> EngineError:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        hint = "it was built for another processor" if -status == _ILLEGAL else "install it anew, or another version of it"
        return EngineError(f"{runtime} crashed, and took its process with it ({name})", hint)
    lines = said.strip().splitlines()
    return EngineError(f"{runtime} ended with status {status}: {lines[-1][:200] if lines else 'without a word'}")


def _try_here(graph: Path, runtime: str, device: str, image: bytes) -> dict[str, object]:
    request = EngineRequest(runtime, device, workers=1, threads=1, batch=1)
    with open_engine(graph, request) as engine:
        engine.warm_up()
        size = engine.input_size
        loan = engine.lend(1)
        loan.slots[0].pixels[:] = np.frombuffer(image, np.uint8).reshape(size.height, size.width, 3)
        before = time.monotonic()
        results = engine.collect(engine.submit(loan))
        run_ms = (time.monotonic() - before) * 1000
        scores, classes = results.outputs["scores"][0], results.outputs["class_ids"][0]
        best = int(np.argmax(scores))
        found = int(classes[best]) if scores[best] >= engine.card.confidence else None
        return {"engine": engine.name, "version": _version(runtime), "class_id": found, "run_ms": round(run_ms, 3)}


def _version(runtime: str) -> str:
    module = sys.modules.get({"torchcompile": "torch"}.get(runtime, runtime))
    return str(getattr(module, "__version__", ""))


def main() -> None:
    """Run what the arguments say, and print one line of JSON."""
    graph, runtime, device = sys.argv[1:4]
    try:
        told = _try_here(Path(graph), runtime, device, sys.stdin.buffer.read())
    except VisionInferError as error:
        told = {"error": error.message, "hint": error.hint}
    print(json.dumps(told), flush=True)  # noqa: T201 - it is for the process that started this one


if __name__ == "__main__":
    main()
