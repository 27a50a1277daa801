"""The smoke test of a runtime: a child process opens a small deployment graph, runs one image, and prints the result.

It runs in a child process because a runtime that was built for another CPU, or a broken driver, crashes its process.

    python -m vision_infer.engine.smoke_test GRAPH RUNTIME DEVICE < image
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
from vision_infer.engine.registry import find_runtime

LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class SmokeTestResult:
    """The result of a runtime that ran an image."""

    engine: str
    """The full name of the engine."""
    version: str
    """The version of the runtime; empty if it is not known."""
    class_id: int | None
    """The class of the best detection; None: there was none."""
    ready_s: float
    """The time from the start of the process until the engine was ready, seconds."""
    run_ms: float


def run_smoke_test(
    graph: Path,
    runtime: str,
    image: NDArray[np.uint8],
    device: str = "auto",
    limit_s: float = LIMIT_S,
    program: Sequence[str] = (sys.executable, "-m", "vision_infer.engine.smoke_test"),
) -> SmokeTestResult:
    """Run an image in a runtime, in a child process.

    Args:
        graph: A deployment graph of a detector.
        image: uint8 [H, W, 3] RGB of the graph's input size.

    Raises:
        EngineError: The runtime cannot be opened, fails, hangs or crashes.
    """
    command = [*program, str(graph), runtime, device]
    began = time.monotonic()
    try:
        done = subprocess.run(command, input=image.tobytes(), capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{runtime} hangs: no answer within {limit_s:g} s", "Choose another one with --engine.") from None
    except OSError as error:
        raise EngineError(f"{runtime} cannot be tested: {error.strerror}") from None
    try:
        answer = json.loads(done.stdout.decode().strip().splitlines()[-1])
        if "error" in answer:
            raise EngineError(str(answer["error"]), str(answer["hint"]))
        ready_s = time.monotonic() - began - answer["run_ms"] / 1000
        return SmokeTestResult(answer["engine"], answer["version"], answer["class_id"], ready_s, answer["run_ms"])
    except (ValueError, IndexError, KeyError, TypeError):
        raise _crashed(runtime, done.returncode, done.stderr.decode("utf-8", "replace")) from None


def _crashed(runtime: str, status: int, stderr: str) -> EngineError:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        hint = "It was built for another CPU." if -status == signal.SIGILL else "Reinstall it, or install another version."
        return EngineError(f"{runtime} crashed ({name})", hint)
    lines = stderr.strip().splitlines()
    return EngineError(f"{runtime} ended with status {status}: {lines[-1][:200] if lines else 'no message'}")


def _run(graph: Path, runtime: str, device: str, image: bytes) -> dict[str, object]:
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
    modules = [sys.modules[name] for name in find_runtime(runtime).modules if name in sys.modules]
    return str(getattr(modules[0], "__version__", "")) if modules else ""


def main() -> None:
    """Run the test that the arguments describe, and print one line of JSON."""
    graph, runtime, device = sys.argv[1:4]
    try:
        answer = _run(Path(graph), runtime, device, sys.stdin.buffer.read())
    except VisionInferError as error:
        answer = {"error": error.message, "hint": error.hint}
    print(json.dumps(answer), flush=True)  # noqa: T201 - the parent process reads it


if __name__ == "__main__":
    main()
