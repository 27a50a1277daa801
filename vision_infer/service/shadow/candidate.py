"""A candidate in its own process, as the service uses it."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.select import Selector
from vision_infer.core.card import ModelCard
from vision_infer.core.detections import Detections
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Letterbox
from vision_infer.engine.open import EngineRequest
from vision_infer.pipeline.lanes.child_process import start_connected

CHILD = "vision_infer.service.shadow.candidate_child"
LOAD_S = 1800.0
"""The time limit for loading an engine, seconds: a plan for a GPU is built in minutes, and slowly at the lowest priority."""
ANSWER_S = 30.0
"""The time limit for a frame, seconds; a candidate that takes longer counts as hanging."""


@dataclass(frozen=True, slots=True)
class LoadedCandidate:
    """A candidate that is ready."""

    engine: str
    card: ModelCard


@dataclass(frozen=True, slots=True)
class CandidateFrame:
    """A frame for a candidate."""

    graph: Path
    """The deployment graph for the size of the image; the candidate loads it if it has not done so."""
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


Answer = TypeVar("Answer", LoadedCandidate, CandidateResult)


class FrameFailedError(EngineError):
    """A candidate failed on a frame, and may be able to infer others."""


class Candidate:
    """A candidate's process. One thread uses it; :meth:`kill` is safe from any thread.

    The thread that makes it must remain until it is closed: the kernel ends the process with that thread.

    Args:
        path: The deployment graph that it loads first.
        request: Which engine to open.
    """

    def __init__(self, path: Path, request: EngineRequest) -> None:
        self._graphs = {path}
        try:
            self._connection, self._process = start_connected(CHILD)
        except OSError as error:
            raise EngineError(f"the candidate's process cannot start: {error.strerror}") from error
        self._connection.send((path, request))

    def loaded(self) -> LoadedCandidate:
        """Wait until the engine is loaded.

        Raises:
            EngineError: It cannot be loaded in time, or the process has ended.
        """
        try:
            return self._receive(LoadedCandidate, LOAD_S, "loaded no engine")
        except FrameFailedError as error:
            raise EngineError(error.message) from None

    def infer(self, frame: CandidateFrame) -> CandidateResult:
        """Infer a frame.

        Raises:
            FrameFailedError: The frame failed.
            EngineError: There is no answer in time, or the process has ended.
        """
        try:
            self._connection.send(frame)
        except OSError:
            raise self._ended() from None
        timeout_s = ANSWER_S if frame.graph in self._graphs else LOAD_S
        self._graphs.add(frame.graph)
        return self._receive(CandidateResult, timeout_s, "did not return a frame")

    def kill(self) -> None:
        """End the process; a call that waits for an answer fails."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for its end."""
        self.kill()
        self._process.wait()
        self._connection.close()

    def _receive(self, kind: type[Answer], timeout_s: float, problem: str) -> Answer:
        try:
            if not self._connection.poll(timeout_s):
                raise EngineError(f"the candidate hangs: it {problem} within {timeout_s:g} s")
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, str):
            raise FrameFailedError(answer)
        assert isinstance(answer, kind)
        return answer

    def _ended(self) -> EngineError:
        status = self._process.wait(ANSWER_S)
        with suppress(ValueError):
            return EngineError(f"the candidate's process crashed: {signal.Signals(-status).name}")
        return EngineError(f"the candidate's process ended with status {status}")
