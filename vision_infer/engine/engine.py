"""The second seam: the interface between the pipeline and an engine, for any runtime and any memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Slot


class HostSlot:
    """Memory for one image on the host; implements :class:`vision_infer.core.image.Slot`."""

    __slots__ = ("layout", "pixels")

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.layout: Letterbox | None = None


# Not frozen: one is made for every frame, and a frozen dataclass takes three times as long to create.
@dataclass(slots=True)
class Loan:
    """Slots of one input buffer, lent until they are submitted or released."""

    slots: tuple[Slot, ...]
    """The slots in the order of the batch."""
    buffer: Any
    """The buffer; only the engine uses it."""


@dataclass(slots=True)
class Ticket:
    """A batch that was submitted."""

    loan: Loan
    """The slots of the batch."""
    state: Any
    """The state of the batch; only the engine uses it."""


@dataclass(slots=True)
class RawResults:
    """The outputs of the deployment graph for a batch, in host memory that belongs to the caller."""

    outputs: Mapping[str, NDArray[Any]]
    """The outputs by name. detect: boxes float32 [B, K, 4] xyxy in input pixels, scores float32 [B, K], class_ids int32 [B, K];
    and keypoints float32 [B, K, P, 3] (x, y in input pixels, score), or coefficients float32 [B, K, M] and prototypes float32
    [B, M, h, w], or rotated_boxes float32 [B, K, 5] (center x, y, width, height in input pixels, angle in radians), as the card's
    detail says; for a card with ``unclip`` only probabilities uint8 [B, h, w], where 255 is 1. classify: scores float32 [B, C];
    embed: embedding float32 [B, D]; segment: classes uint8 [B, h, w]; keypoints: keypoints float32 [B, 1, P, 3], as above."""
    started_ns: int
    """The monotonic time at which the engine began with the batch, ns."""
    ended_ns: int
    """The monotonic time at which the batch was finished, ns."""


def gpu_of(engine: object) -> int | None:
    """Return the GPU, as CUDA counts them, on which an engine accepts images; None: it accepts them in host memory."""
    return getattr(engine, "gpu", None)


def device_of(engine: object) -> str:
    """Return the device on which an engine runs: ``cpu``, or ``cuda:N``."""
    return getattr(engine, "device_name", "cpu")


class Engine(Protocol):
    """A deployment graph loaded by a runtime.

    It lends its own input buffers, so that images are written where the runtime reads them, and it is asynchronous:
    ``submit`` starts a batch and ``collect`` waits for it. A runtime without a queue may run the batch inside
    ``submit``, on the calling thread: the pipeline calls from ``in_flight`` threads.
    """

    @property
    def name(self) -> str:
        """The name: runtime-device-precision, such as ``onnxruntime-cpu-fp32``."""

    @property
    def card(self) -> ModelCard:
        """The card of the model."""

    @property
    def input_size(self) -> Size:
        """The width and height of a slot, pixels."""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that it runs, ascending."""

    @property
    def in_flight(self) -> int:
        """The number of batches that may be lent or submitted at the same time."""

    @property
    def buffer_bytes(self) -> int:
        """The size of all its input and output buffers together, bytes."""

    def lend(self, count: int) -> Loan:
        """Lend the slots of a batch of ``count``, one of :attr:`batch_sizes`.

        Raises:
            EngineError: ``in_flight`` loans exist already, or the engine does not run that batch size.
        """

    def release(self, loan: Loan) -> None:
        """Take back slots that will not be submitted."""

    def submit(self, loan: Loan) -> Ticket:
        """Start the batch.

        Raises:
            EngineError: The runtime failed; the loan is released.
        """

    def collect(self, ticket: Ticket) -> RawResults:
        """Wait for the batch and release its loan.

        Raises:
            EngineError: The runtime failed.
        """

    def warm_up(self) -> None:
        """Run every buffer once, so that the first frame does not wait for lazy set-up."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
