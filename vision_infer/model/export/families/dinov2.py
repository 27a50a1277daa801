"""DINOv2, of transformers: image embeddings trained without labels (Oquab et al., 2023)."""

from __future__ import annotations

from functools import partial
from typing import Any

from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Family, Order
from vision_infer.model.export.library import load
from vision_infer.model.export.transformers_models import TransformersRecipe, build

_PATCH = 14
_SIDE = 518
"""The side of the training images, in pixels: 37 × 37 patches have a position."""
# Width, layers, attention heads.
_SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


def configure(config: Any, variant: str) -> None:
    """Set the configuration of a variant as its authors trained it."""
    config.hidden_size, config.num_hidden_layers, config.num_attention_heads = _SIZES[variant]
    config.image_size, config.patch_size = _SIDE, _PATCH


def fix_positions(network: Any, order: Order) -> None:
    """Compute the positions once; otherwise each image resizes them, with an operator that few runtimes have."""
    torch, embeddings = load("torch"), network.embeddings
    height, width = order.size.height, order.size.width
    tokens = torch.zeros(1, (height // _PATCH) * (width // _PATCH) + 1, network.config.hidden_size)
    with torch.no_grad():
        fixed = embeddings.interpolate_pos_encoding(tokens, height, width).clone()
    embeddings.register_buffer("fixed_positions", fixed)
    embeddings.interpolate_pos_encoding = lambda *_: embeddings.fixed_positions


RECIPE = TransformersRecipe(
    "Dinov2Config",
    "Dinov2Model",
    {name: f"facebook/dinov2-{name}" for name in _SIZES},
    "Apache-2.0",
    configure,
    ("pooler_output",),
    prepare=fix_positions,
    attribution="Meta AI",
)
FAMILY = Family(
    "DINOv2",
    "embed",
    "embed",
    "transformers",
    tuple(_SIZES),
    RECIPE.official,
    partial(build, recipe=RECIPE, card={}),
    lambda _: Size(224, 224),
    multiple=_PATCH,
)
