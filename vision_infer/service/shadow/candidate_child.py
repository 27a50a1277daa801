"""The process of a candidate: ``python -m vision_infer.service.shadow.candidate_child FD``.

It has the lowest priority. A candidate that crashes, hangs or takes much memory costs only this process.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from vision_infer.analyze.select import select
from vision_infer.core.errors import VisionInferError
from vision_infer.core.geometry import letterbox
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.service.shadow.candidate import CandidateFrame, CandidateResult, LoadedCandidate
from vision_infer.stream.image import ArrayImage
from vision_infer.telemetry.process import cpu_ns


def serve(connection: Connection, path: Path, request: EngineRequest) -> None:
    """Load an engine, and answer frames until the connection ends. A failure is sent as text; a frame may fail.

    Raises:
        VisionInferError: The engine cannot be loaded.
    """
    with ExitStack() as stack:
        engines: dict[Path, Engine] = {}

        def engine_for(graph: Path) -> Engine:
            if graph not in engines:
                engines[graph] = stack.enter_context(open_engine(graph, request))
                engines[graph].warm_up()
            return engines[graph]

        first = engine_for(path)
        if first.card.task != "detect":
            raise VisionInferError(f"{first.card.name} is a model for '{first.card.task}'", "Choose a model for 'detect'.")
        connection.send(LoadedCandidate(first.name, first.card))
        while True:
            frame: CandidateFrame = connection.recv()
            try:
                connection.send(_infer(engine_for(frame.graph), frame))
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
