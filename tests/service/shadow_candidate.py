"""The process of a candidate whose engine is a fake, chosen by the name of the model."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.pipeline.fakes import LONG_S, EchoEngine
from vision_infer.core.errors import EngineError
from vision_infer.engine.open import EngineRequest
from vision_infer.service.shadow import candidate_child

Outputs = dict[str, NDArray[Any]]


def misses_one_of_four(outputs: Outputs) -> Outputs:
    """Find nothing in the frames 3, 7, 11 and so on; scores are lower."""
    found = outputs["boxes"][:, :, 0] % 4 != 3
    return {**outputs, "scores": np.where(found, np.float32(0.8), np.float32(0))}


def crash(batch: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(batch: object) -> None:
    threading.Event().wait(10 * LONG_S)


def fail(batch: object) -> None:
    raise EngineError("there is no memory left")


def open_engine(path: Path, request: EngineRequest) -> EchoEngine:
    if path.name == "broken":
        raise EngineError("broken: cannot be loaded", "Choose another.")
    run = {"crashing": crash, "hanging": hang, "failing": fail}.get(path.name, lambda batch: None)
    engine = EchoEngine(1, (1,), run, misses_one_of_four)
    engine.card = engine.card.model_copy(update={"name": path.name, "labels": ("person", "car")})
    return engine


if __name__ == "__main__":
    os.nice = lambda _: 0  # see the fixture ``fakes``
    candidate_child.open_engine = open_engine  # type: ignore[assignment, attr-defined]
    candidate_child.main()
