"""An engine that computes nothing: what remains is our own cost, and what tests need to decide what the results are."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import BufferPool
from vision_infer.engine.engine import Loan, RawResults, Ticket

CANDIDATES = 300


class NullEngine:
    """Gives the same detections for every picture.

    Args:
        card: what it pretends to be (task ``detect``).
        boxes: float32 [N, 4] xyxy in input pixels, N ≤ 300.
        scores: float32 [N].
        class_ids: int32 [N].
        batch_sizes: the batch sizes that it takes, ascending.
        in_flight: batches at the same time.
        clock: source of the times in its results.
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
    ) -> None:
        self.card = card
        self.batch_sizes = batch_sizes
        self.in_flight = in_flight
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
        self._pool = BufferPool(card.input_size, batch_sizes, in_flight, {})

    name = "null-cpu-none"

    @property
    def input_size(self) -> Size:
        """As the card says."""
        return self.card.input_size

    @property
    def buffer_bytes(self) -> int:
        """Size of its input buffers, bytes."""
        return self._pool.nbytes

    def lend(self, count: int) -> Loan:
        """Slots for a batch."""
        return self._pool.lend(count)

    def release(self, loan: Loan) -> None:
        """Take slots back."""
        self._pool.release(loan)

    def submit(self, loan: Loan) -> Ticket:
        """Nothing to start."""
        return Ticket(loan, self._clock.monotonic_ns())

    def collect(self, ticket: Ticket) -> RawResults:
        """The same results for every picture."""
        count = len(ticket.loan.slots)
        self._pool.release(ticket.loan)
        outputs = {name: array[:count] for name, array in self._outputs.items()}
        return RawResults(outputs, ticket.state, self._clock.monotonic_ns())

    def warm_up(self) -> None:
        """Nothing to warm."""

    def __enter__(self) -> NullEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass
