"""The process of a candidate: ``python -m vision_infer.service.shadow.candidate_child FD``.

It has the lowest priority. A candidate that crashes, hangs or takes much memory costs only this process.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.select import Selector, select
from vision_infer.core.card import ModelCard
from vision_infer.core.detections import Detections
from vision_infer.core.errors import VisionInferError
from vision_infer.core.geometry import Letterbox, Size, letterbox
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.stream.image import ArrayImage
from vision_infer.telemetry.process import cpu_ns


@dataclass(frozen=True, slots=True)
class LoadedCandidate:
    """The engine of a candidate that is ready."""

    engine: str
    card: ModelCard
    input_size: Size


@dataclass(frozen=True, slots=True)
class CandidateFrame:
    """A frame for a candidate."""

    pixels: NDArray[np.uint8]
    """The pixels as they are written into the engine's slot, uint8 [H, W, 3] RGB."""
    letterbox: Letterbox
    """The position of the image in the slot."""
    selector: Selector


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """The detections of a candidate."""

    detections: Detections
    engine_ns: int
    """The engine time of the frame, which ran alone."""
    cpu_ns: int
    """The CPU time of the process so far."""


def serve(connection: Connection, path: Path, request: EngineRequest) -> None:
    """Load an engine, and answer frames until the connection ends. A failure is sent as text; a frame may fail.

    Raises:
        VisionInferError: The engine cannot be loaded.
    """
    with open_engine(path, request) as engine:
        if engine.card.task != "detect":
            raise VisionInferError(f"{engine.card.name} is a model for '{engine.card.task}'", "Choose a model for 'detect'.")
        engine.warm_up()
        connection.send(LoadedCandidate(engine.name, engine.card, engine.input_size))
        while True:
            frame: CandidateFrame = connection.recv()
            try:
                connection.send(_infer(engine, frame))
            except Exception as error:  # noqa: BLE001 - the parent counts failures and reports them
                connection.send(str(error) or type(error).__name__)


def _infer(engine: Engine, frame: CandidateFrame) -> CandidateResult:
    size = engine.input_size
    loan = engine.lend(engine.batch_sizes[0])
    ArrayImage(frame.pixels).write_into(loan.slots[0], letterbox(size, size, "stretch", (0, 0, 0)))
    raw = engine.collect(engine.submit(loan))
    detections = select(raw.outputs, [frame.letterbox], frame.selector)[0]
    return CandidateResult(replace(detections, details=None), raw.ended_ns - raw.started_ns, cpu_ns())


def main() -> None:
    """Run the process."""
    os.nice(19)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends it
    with Connection(int(sys.argv[1])) as connection:
        try:
            serve(connection, *connection.recv())
        except EOFError:  # the service has ended the trial
            return
        except Exception as error:  # noqa: BLE001 - the boundary of a process: every error must be reported
            connection.send(str(error) or type(error).__name__)


if __name__ == "__main__":
    main()
