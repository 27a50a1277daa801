"""Takes the place of an engine in a lane until the first frame for it arrives, or if it cannot be opened."""

from __future__ import annotations

from typing import NoReturn

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.engine import Engine, Loan, RawResults, Ticket, device_of


class PlaceholderEngine:
    """An engine that is not open.

    Args:
        like: An engine for another input size of the same model; what is not known yet is copied from it.
        failure: Why the engine cannot be opened; every batch fails with it. None: it is still to be opened, and the scheduler
            does not use it before that.
    """

    def __init__(self, card: ModelCard, like: Engine, failure: EngineError | None = None) -> None:
        self.name = like.name
        self.card = card
        self.batch_sizes = like.batch_sizes
        self.in_flight = like.in_flight
        self.buffer_bytes = 0
        self.failure = failure
        self.device_name = device_of(like)

    @property
    def input_size(self) -> Size:
        """The width and height of a slot, pixels."""
        return self.card.input_size

    def lend(self, count: int) -> Loan:  # noqa: ARG002
        """Raise EngineError."""
        self._refuse()

    def release(self, loan: Loan) -> None:
        """Do nothing: no slot was lent."""

    def submit(self, loan: Loan) -> Ticket:  # noqa: ARG002
        """Raise EngineError."""
        self._refuse()

    def collect(self, ticket: Ticket) -> RawResults:  # noqa: ARG002
        """Raise EngineError."""
        self._refuse()

    def warm_up(self) -> None:
        """Do nothing."""

    def __enter__(self) -> PlaceholderEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _refuse(self) -> NoReturn:
        raise self.failure or EngineError(f"{self.card.name}: the engine is not open yet", "Please report this bug.")
