"""An engine that computes nothing: it shows the cost of the pipeline alone, and gives tests results of their choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.engine.engine import Engine, Loan, RawResults, Ticket
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.host_engine import HostEngine
from vision_infer.engine.runtime import EngineSettings, Runtime
from vision_infer.engine.store.cache import EngineCache, OnMessage

CANDIDATES = 300


class NullEngine(HostEngine):
    """Returns the same detections for every image.

    Args:
        card: The card of the model that it replaces (task ``detect``).
        boxes: float32 [N, 4] xyxy in input pixels, N ≤ 300.
        scores: float32 [N].
        class_ids: int32 [N].
        device_name: The device that it replaces.
    """

    def __init__(
        self,
        card: ModelCard,
        boxes: NDArray[np.float32] | None = None,
        scores: NDArray[np.float32] | None = None,
        class_ids: NDArray[np.int32] | None = None,
        batch_sizes: tuple[int, ...] = (1,),
        in_flight: int = 1,
        clock: Clock = SYSTEM_CLOCK,
        device_name: str = "cpu",
    ) -> None:
        self.device_name = device_name
        super().__init__("null-cpu-none", card, batch_sizes, in_flight, {})
        self._clock = clock
        count = 0 if boxes is None else len(boxes)
        if count > CANDIDATES:
            raise ValueError(f"at most {CANDIDATES} boxes, got {count}")
        self._outputs: dict[str, NDArray[Any]] = {
            "boxes": np.zeros((batch_sizes[-1], CANDIDATES, 4), np.float32),
            "scores": np.zeros((batch_sizes[-1], CANDIDATES), np.float32),
            "class_ids": np.zeros((batch_sizes[-1], CANDIDATES), np.int32),
        }
        for name, given in (("boxes", boxes), ("scores", scores), ("class_ids", class_ids)):
            if given is not None:
                self._outputs[name][:, :count] = given

    def submit(self, loan: Loan) -> Ticket:
        """Start nothing."""
        return Ticket(loan, self._clock.monotonic_ns())

    def collect(self, ticket: Ticket) -> RawResults:
        """Return the same results for every image."""
        count = len(ticket.loan.slots)
        self._pool.release(ticket.loan)
        outputs = {name: array[:count] for name, array in self._outputs.items()}
        return RawResults(outputs, ticket.state, self._clock.monotonic_ns())

    def warm_up(self) -> None:
        """Do nothing."""


def _open(path: Path, settings: EngineSettings, _: EngineCache | None, on_message: OnMessage) -> Engine:  # noqa: ARG001
    sizes = tuple(range(1, settings.batch + 1))
    device = "cpu" if settings.device == "cpu" else f"cuda:{settings.device_index}"
    return NullEngine(read_graph_facts(path).card, batch_sizes=sizes, in_flight=settings.workers, device_name=device)


RUNTIME = Runtime("null", "the null engine", _open, devices=("cpu", "cuda"), smoke_tested=False)
