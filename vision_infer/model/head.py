"""What a head is: the file of :mod:`vision_infer.model.heads` that decodes one family of networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Fit, Size
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.network import RawNetwork

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""RGB, 0–255, as nearly all networks that start from ImageNet's weights want it"""
IMAGENET_STD = (58.395, 57.12, 57.375)
"""RGB, 0–255"""


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
    task: Literal["detect", "classify", "embed"] = "detect"


@dataclass(frozen=True, slots=True)
class Decoded:
    """Names of the tensors that the head of a detector ends with."""

    boxes: str
    """float32 [B, K, 4], xyxy in input pixels"""
    scores: str
    """float32 [B, K]"""
    class_ids: str
    """int32 [B, K]"""
    notes: tuple[str, ...] = ()
    """what was found out on the way, for the person who imports; a line each"""

    @property
    def tensors(self) -> Mapping[str, str]:
        """By the names of the contract."""
        return {"boxes": self.boxes, "scores": self.scores, "class_ids": self.class_ids}


@dataclass(frozen=True, slots=True)
class Classified:
    """Name of the tensor that the head of a classifier ends with."""

    scores: str
    """float32 [B, C], 0–1"""
    notes: tuple[str, ...] = ()

    @property
    def tensors(self) -> Mapping[str, str]:
        """By the names of the contract."""
        return {"scores": self.scores}


@dataclass(frozen=True, slots=True)
class Embedded:
    """Name of the tensor that the head of an embedder ends with."""

    embedding: str
    """float32 [B, D], of length 1"""
    notes: tuple[str, ...] = ()

    @property
    def tensors(self) -> Mapping[str, str]:
        """By the names of the contract."""
        return {"embedding": self.embedding}


class Head(Protocol):
    """A module under ``heads/``. Adding a family means adding one such file."""

    @property
    def DEFAULTS(self) -> HeadDefaults:  # noqa: N802 - a constant of the module
        """The family's defaults."""

    def recognise(self, network: RawNetwork) -> str | None:
        """Why a network is of this family; None if it is not."""

    def append(
        self, builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int
    ) -> Decoded | Classified | Embedded:
        """Add the decoding to a network.

        Args:
            builder: takes the nodes.
            network: the raw network; its outputs are the head's inputs.
            card: what the network is.
            candidates: K; less where the network has less to give. Heads without boxes have no use for it.

        Raises:
            ModelError: the network's outputs do not fit the family, or it has to be said what they are.
        """
