"""What a head is: the file of :mod:`vision_infer.model.heads` that decodes one family of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Fit, Size
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.network import RawNetwork


@dataclass(frozen=True, slots=True)
class HeadDefaults:
    """How networks of a family are trained and used, where nothing else is said."""

    color: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    """in colour order"""
    std: tuple[float, float, float]
    """in colour order"""
    fit: Fit
    fill: tuple[int, int, int]
    """RGB, 0–255"""
    confidence: float
    iou: float | None
    """None: the family needs no NMS"""
    input_size: Size
    """for a file that leaves it open"""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Names of the tensors that a head ends with."""

    boxes: str
    """float32 [B, K, 4], xyxy in input pixels"""
    scores: str
    """float32 [B, K]"""
    class_ids: str
    """int32 [B, K]"""


class Head(Protocol):
    """A module under ``heads/``. Adding a family means adding one such file."""

    @property
    def DEFAULTS(self) -> HeadDefaults:  # noqa: N802 - a constant of the module
        """The family's defaults."""

    def recognise(self, network: RawNetwork) -> str | None:
        """Why a network is of this family; None if it is not."""

    def append(self, builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> Decoded:
        """Add the decoding to a network.

        Args:
            builder: takes the nodes.
            network: the raw network; its outputs are the head's inputs.
            card: what the network is.
            candidates: K; less where the network has less to give.

        Raises:
            ModelError: the network's outputs do not fit the family.
        """
