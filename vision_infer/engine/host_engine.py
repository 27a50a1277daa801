"""What all engines with slots in host memory have in common: the pool of buffers, and how results leave it."""

from __future__ import annotations

from typing import Self

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import Allocate, BufferPool, zeroed
from vision_infer.engine.contract import OutputShapes
from vision_infer.engine.engine import Loan, RawResults, Ticket


class HostEngine:
    """The base of engines on the CPU; a runtime adds ``submit``, and ``collect`` where it works asynchronously."""

    def __init__(
        self,
        name: str,
        card: ModelCard,
        batch_sizes: tuple[int, ...],
        in_flight: int,
        outputs: OutputShapes,
        allocate: Allocate = zeroed,
    ) -> None:
        self.name = name
        self.card = card
        self.batch_sizes = batch_sizes
        self.in_flight = in_flight
        self._pool = BufferPool(card.input_size, batch_sizes, in_flight, outputs, allocate)
        self._warm_up_sizes: tuple[int, ...] = tuple(dict.fromkeys((batch_sizes[0], batch_sizes[-1])))

    @property
    def input_size(self) -> Size:
        """The width and height of a slot, pixels."""
        return self.card.input_size

    @property
    def buffer_bytes(self) -> int:
        """The size of all buffers, bytes."""
        return self._pool.nbytes

    def lend(self, count: int) -> Loan:
        """Lend the slots of a batch."""
        return self._pool.lend(count)

    def release(self, loan: Loan) -> None:
        """Take slots back that are not submitted."""
        self._pool.release(loan)

    def submit(self, loan: Loan) -> Ticket:
        """Run or start the batch; the ticket's state is (started, ended) unless the engine has its own ``collect``."""
        raise NotImplementedError

    def collect(self, ticket: Ticket) -> RawResults:
        """Copy the results out of the buffer (a few kilobytes) and release it."""
        count = len(ticket.loan.slots)
        outputs = {name: array[:count].copy() for name, array in ticket.loan.buffer.outputs.items()}
        self._pool.release(ticket.loan)
        started, ended = ticket.state
        return RawResults(outputs, started, ended)

    def warm_up(self) -> None:
        """Run the smallest and the largest batch, on a GPU every batch size, in every buffer, all at once."""
        for count in self._warm_up_sizes:
            for ticket in [self.submit(loan) for loan in [self.lend(count) for _ in range(self.in_flight)]]:
                self.collect(ticket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
