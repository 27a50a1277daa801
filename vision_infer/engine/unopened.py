"""Stands in a lane for an engine that is opened when the first picture comes, or that cannot be had."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.engine import Engine, Loan, RawResults, Ticket


class UnopenedEngine:
    """An engine that is not there.

    Args:
        card: of its network.
        like: an engine for another input of the same network; what is not known yet is taken to be as there.
        failure: why there will never be one: what every batch fails with. None: it is still to be opened, and nobody asks it for
            anything before that.
    """

    def __init__(self, card: ModelCard, like: Engine, failure: EngineError | None = None) -> None:
        self.name = like.name
        self.card = card
        self.batch_sizes = like.batch_sizes
        self.in_flight = like.in_flight
        self.buffer_bytes = 0
        self.failure = failure

    @property
    def input_size(self) -> Size:
        """Width and height of a slot, pixels."""
        return self.card.input_size

    def lend(self, count: int) -> Loan:  # noqa: ARG002
        """Refused; raises EngineError."""
        self._refuse()

    def release(self, loan: Loan) -> None:
        """Nothing was lent."""

    def submit(self, loan: Loan) -> Ticket:  # noqa: ARG002
        """Refused; raises EngineError."""
        self._refuse()

    def collect(self, ticket: Ticket) -> RawResults:  # noqa: ARG002
        """Refused; raises EngineError."""
        self._refuse()

    def warm_up(self) -> None:
        """Nothing is there to be warmed up."""

    def __enter__(self) -> UnopenedEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def _refuse(self) -> NoReturn:
        raise self.failure or EngineError(f"{self.card.name}: its engine is not open yet", "please report this")
