"""The interface of a head: a file of :mod:`vision_infer.model.heads` that decodes one family of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from vision_infer.core.card import DetailKind, KeypointLayout, ModelCard, Task
from vision_infer.core.geometry import Fit, Size
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, ReferenceBoxes

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""The mean of ImageNet, RGB, 0–255, which nearly all models that start from its weights need."""
IMAGENET_STD = (58.395, 57.12, 57.375)
"""The standard deviation of ImageNet, RGB, 0–255."""


@dataclass(frozen=True, slots=True)
class HeadDefaults:
    """The defaults for models of a family."""

    color: Literal["rgb", "bgr"]
    """The color order of the model's input."""
    mean: tuple[float, float, float]
    """The value to subtract from each channel, 0–255, in color order."""
    std: tuple[float, float, float]
    """The value to divide each channel by, in color order."""
    fit: Fit
    """How images are fitted into the input."""
    fill: tuple[int, int, int]
    """The color of the padding, RGB, 0–255."""
    confidence: float
    """The minimum confidence."""
    iou: float | None
    """The IoU threshold for non-maximum suppression (NMS); None: the family needs no NMS."""
    input_size: Size
    """The input size for a file that leaves it open."""
    task: Task = "detect"
    """The task of the family."""
    detail: DetailKind | None = None
    """What the family returns for each detection in addition to its box."""
    keypoints: KeypointLayout | None = None
    """The usual keypoints of the family."""
    unclip: float | None = None
    """How far regions of a map of probabilities grow, see the card; None: the models return boxes."""
    labels: tuple[str, ...] | None = None
    """The labels of the family, if all its models have the same."""
    find_detail: Callable[[RawNetwork], DetailKind | None] | None = None
    """Finds the detail of a raw model, where the models of the family differ; None: ``detail`` applies."""


@dataclass(frozen=True, slots=True)
class HeadOutputs:
    """The tensors at the end of a head."""

    tensors: Mapping[str, str]
    """The names of the tensors, by output of a deployment graph: ``boxes`` float32 [B, K, 4] (xyxy, input pixels), ``scores``
    float32 [B, K] and ``class_ids`` int32 [B, K], with ``keypoints`` float32 [B, K, P, 3], ``coefficients`` float32 [B, K, M] and
    ``prototypes`` float32 [B, M, h, w], or ``rotated_boxes`` float32 [B, K, 5]; ``scores`` float32 [B, C], 0–1; ``embedding``
    float32 [B, D] of length 1; ``classes`` uint8 [B, h, w]; or ``probabilities`` uint8 [B, h, w], where 255 is 1."""
    notes: tuple[str, ...] = ()
    """What the head detected, for the user who imports the model; one line each."""


def detections(box: str, scores: str, class_ids: str, *notes: str, **details: str) -> HeadOutputs:
    """Return the outputs of a detector; ``details`` are those in addition to boxes, scores and classes."""
    return HeadOutputs({"boxes": box, "scores": scores, "class_ids": class_ids, **details}, notes)


class Head(Protocol):
    """A module in ``heads/``. One such file adds a model family."""

    @property
    def DEFAULTS(self) -> HeadDefaults:  # noqa: N802 - a constant of the module
        """The defaults of the family."""

    def recognize(self, network: RawNetwork) -> str | None:
        """Return why a raw model is of this family, as an object of "because it has"; None if it is not."""

    def append(self, builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
        """Add the decoding to a raw model.

        Args:
            builder: Takes the nodes.
            network: The raw model, whose outputs are the head's inputs.
            card: The card of the model.
            candidates: K, at most the number of boxes that the model has; ignored by heads without boxes.

        Raises:
            ModelError: The model's outputs do not fit the family, or an option is needed to decode them.
        """

    def reference(self, raw: RawOutputs) -> ReferenceBoxes | NDArray[Any]:
        """Decode the outputs in NumPy, independently of :meth:`append`; each import compares the two.

        Returns:
            All boxes of a detector; for other models the only output of the graph, such as probabilities [P, C] of a classifier.

        Raises:
            ValueError: The outputs are not those of the family.
        """
