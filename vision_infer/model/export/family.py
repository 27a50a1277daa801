"""The interface of an export family: a file of :mod:`vision_infer.model.export.families` that builds one kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vision_infer.core.card import Task
from vision_infer.core.geometry import Size
from vision_infer.model.network import ScoreKind

Origin = Literal["random", "file", "download", "given"]
"""The origin of weights; ``given``: the user's function loads them."""
OnMessage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """The model to build."""

    variant: str
    size: Size
    """The input size."""
    origin: Origin
    file: Path | None = None
    """The file of the weights."""
    classes: int | None = None
    """The number of classes as the library counts them; None: that of the official weights."""
    prompts: tuple[str, ...] = ()
    """The texts that describe what an open-vocabulary model detects."""


@dataclass(frozen=True, slots=True)
class Built:
    """A PyTorch model in eval mode."""

    module: Any
    """The ``torch.nn.Module``; takes normalized images, float32 [B, 3, H, W], and returns a tensor for each of ``outputs``."""
    outputs: tuple[str, ...]
    card: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the card that differ from the head's defaults: labels, license, accuracy, normalization."""
    strict: bool = False
    """Whether torch.export needs ``strict``, because tracing one run would fix the batch."""
    notes: tuple[str, ...] = ()
    """Notes for the user who exports the model; one line each."""


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are built in the same way."""

    title: str
    """The name for users."""
    head: str
    """The head, a file of :mod:`vision_infer.model.heads`."""
    task: Task
    library: str
    """The package that builds it."""
    variants: tuple[str, ...]
    """The variants, the smallest and default one first."""
    official: str
    """The source of the official weights."""
    build: Callable[[Order], Built]
    """Builds a model; raises ModelError if the weights do not fit."""
    input_size: Callable[[str], Size]
    """Returns the default input size of a variant."""
    multiple: int = 1
    """The number of which the input sides must be multiples."""
    scores: ScoreKind | None = None
    """The kind of the class scores where the graph does not show it."""
    prompts: bool = False
    """Whether it detects what texts describe."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A family that cannot be exported."""

    title: str
    reason: str


_TWO_STAGES = "its second stage processes regions that NMS selects inside the model, and their number differs for each image"
REFUSED = {
    "fasterrcnn": Refused("Faster R-CNN", f"{_TWO_STAGES}; FCOS and RetinaNet have the same backbones and one stage"),
    "groundingdino": Refused(
        "Grounding DINO",
        "PyTorch 2.13 cannot convert the attention of its Swin backbone with a dynamic batch; OWLv2 (owlv2) detects what texts "
        "describe",
    ),
    "keypointrcnn": Refused(
        "Keypoint R-CNN", f"{_TWO_STAGES}; graphs of the families yolov8_pose and rtmo return keypoints from one stage"
    ),
    "maskrcnn": Refused("Mask R-CNN", f"{_TWO_STAGES}; RF-DETR-Seg (rfdetrseg) returns masks from one stage"),
}
"""The families that cannot be exported, by name."""
