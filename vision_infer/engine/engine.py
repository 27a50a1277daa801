"""The second seam: what the pipeline asks of an engine, whatever its runtime and wherever its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Slot

OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    "detect": ("boxes", "scores", "class_ids"),
    "classify": ("scores",),
    "embed": ("embedding",),
}
"""the outputs of a deployment graph, by task"""


class HostSlot:
    """A place for one picture in host memory; satisfies :class:`vision_infer.core.image.Slot`."""

    __slots__ = ("layout", "pixels")

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.layout: Letterbox | None = None


# Not frozen: that would treble what it costs to make one, and one is made for every frame.
@dataclass(slots=True)
class Loan:
    """Slots of one input buffer, lent until they are submitted or released."""

    slots: tuple[Slot, ...]
    """one for each place of the batch, in its order"""
    buffer: Any
    """the engine's own"""


@dataclass(slots=True)
class Ticket:
    """A batch on its way through the engine."""

    loan: Loan
    state: Any
    """the engine's own"""


@dataclass(slots=True)
class RawResults:
    """What the deployment graph gave for a batch, in host memory that belongs to the caller."""

    outputs: Mapping[str, NDArray[Any]]
    """detect: boxes float32 [B, K, 4] xyxy input pixels, scores float32 [B, K], class_ids int32 [B, K];
    classify: scores float32 [B, C]; embed: embedding float32 [B, D]"""
    started_ns: int
    """monotonic time at which the engine began with the batch"""
    ended_ns: int
    """monotonic time at which it was done"""


@runtime_checkable
class OnGpu(Protocol):
    """An engine whose slots are in the memory of a GPU: :class:`vision_infer.core.image.SurfaceSlot`."""

    @property
    def gpu(self) -> int:
        """Which, as CUDA counts them."""
        ...


def gpu_of(engine: object) -> int | None:
    """The GPU on which an engine takes pictures; None: it takes them from host memory."""
    return engine.gpu if isinstance(engine, OnGpu) else None


class Engine(Protocol):
    """A deployment graph loaded by a runtime.

    It lends its own input buffers, so that pictures are written where the runtime reads them, and it is asynchronous:
    ``submit`` starts a batch and ``collect`` waits for it. A runtime without a queue of its own may run the batch inside
    ``submit``, on the thread that calls it: the pipeline calls from ``in_flight`` threads.
    """

    @property
    def name(self) -> str:
        """runtime-device-precision, such as ``onnxruntime-cpu-fp32``"""
        ...

    @property
    def card(self) -> ModelCard:
        """What the network is."""
        ...

    @property
    def input_size(self) -> Size:
        """Width and height of a slot, pixels."""
        ...

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that it runs, ascending."""
        ...

    @property
    def in_flight(self) -> int:
        """How many batches may be lent or on their way at the same time."""
        ...

    @property
    def buffer_bytes(self) -> int:
        """Size of all its input and output buffers together, bytes."""
        ...

    def lend(self, count: int) -> Loan:
        """Slots for a batch of ``count``, one of :attr:`batch_sizes`.

        Raises:
            EngineError: ``in_flight`` loans are out already, or the engine does not run that batch size.
        """
        ...

    def release(self, loan: Loan) -> None:
        """Give back slots that will not be submitted."""
        ...

    def submit(self, loan: Loan) -> Ticket:
        """Start the batch.

        Raises:
            EngineError: the runtime failed; the loan is released.
        """
        ...

    def collect(self, ticket: Ticket) -> RawResults:
        """Wait for the batch; releases its loan.

        Raises:
            EngineError: the runtime failed.
        """
        ...

    def warm_up(self) -> None:
        """Run every buffer once, so that the first frame does not pay for lazy set-up."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
