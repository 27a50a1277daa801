"""SegFormer, semantic segmentation of transformers (Xie et al., 2021)."""

from __future__ import annotations

from typing import Any

from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Built, Family, Order
from vision_infer.model.export.transformers_models import TransformersRecipe, build

_REPOSITORIES = {name: f"nvidia/segformer-{name}-finetuned-ade-512-512" for name in ("b0", "b1", "b2", "b3", "b4")}
# Layers, and the width of the decoder.
_SIZES = {
    "b0": ((2, 2, 2, 2), 256),
    "b1": ((2, 2, 2, 2), 256),
    "b2": ((3, 4, 6, 3), 768),
    "b3": ((3, 4, 18, 3), 768),
    "b4": ((3, 8, 27, 3), 768),
}


def configure(config: Any, variant: str) -> None:
    """Set the configuration of a variant as its authors trained it."""
    layers, config.decoder_hidden_size = _SIZES[variant]
    config.depths = list(layers)
    config.hidden_sizes = [32, 64, 160, 256] if variant == "b0" else [64, 128, 320, 512]


def _build(order: Order) -> Built:
    if order.origin == "download":
        message = "the official weights of SegFormer are for research only, so they are not downloaded"
        raise UsageError(message, "Train your own and add --weights FILE.")
    return build(order, RECIPE, {})


RECIPE = TransformersRecipe("SegformerConfig", "SegformerForSemanticSegmentation", _REPOSITORIES, "", configure, ("logits",))
FAMILY = Family(
    "SegFormer",
    "semantic",
    "segment",
    "transformers",
    tuple(_SIZES),
    "none that permits commercial use",
    _build,
    lambda _: Size(512, 512),
    multiple=32,
)
