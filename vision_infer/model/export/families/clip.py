"""The image tower of CLIP, of transformers: embeddings in the same space as those of texts (Radford et al., 2021)."""

from __future__ import annotations

from typing import Any

from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Built, Family, Order
from vision_infer.model.export.transformers_models import TransformersRecipe, build

_SIDE = 224
# Patch size, width, layers, attention heads, elements of the embedding.
_SIZES = {"b32": (32, 768, 12, 12, 512), "b16": (16, 768, 12, 12, 512), "l14": (14, 1024, 24, 16, 768)}
_REPOSITORIES = {
    "b32": "openai/clip-vit-base-patch32",
    "b16": "openai/clip-vit-base-patch16",
    "l14": "openai/clip-vit-large-patch14",
}
_CARD = {"mean": (122.7709, 116.746, 104.0937), "std": (68.5005, 66.6322, 70.3232)}


def configure(config: Any, variant: str) -> None:
    """Set the configuration of a variant as its authors trained it."""
    config.patch_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, width = _SIZES[variant]
    config.intermediate_size = 4 * config.hidden_size
    config.projection_dim = width


def _build(order: Order) -> Built:
    if order.size != Size(_SIDE, _SIDE):
        raise UsageError(f"CLIP supports the input size {_SIDE}x{_SIDE} only", "Remove --input.")
    return build(order, RECIPE, _CARD)


RECIPE = TransformersRecipe(
    "CLIPVisionConfig",
    "CLIPVisionModelWithProjection",
    _REPOSITORIES,
    "MIT",
    configure,
    ("image_embeds",),
    ignored=("text_model.", "text_projection.", "logit_scale"),
    attribution="OpenAI",
)
FAMILY = Family("CLIP", "embed", "embed", "transformers", tuple(_SIZES), RECIPE.official, _build, lambda _: Size(_SIDE, _SIDE))
