"""RT-DETRv2, of transformers: a DETR in real time, no NMS (Lv et al., 2024)."""

from __future__ import annotations

from functools import partial
from typing import Any

from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Family
from vision_infer.model.export.transformers_models import TransformersRecipe, build
from vision_infer.model.labels import read_labels

_LAYERS = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r101": (3, 4, 23, 3)}
_REPOSITORIES = {name: f"PekingU/rtdetr_v2_{name}vd" for name in ("r18", "r34", "r50", "r101")}


def configure(config: Any, variant: str) -> None:
    """Set what differs from ResNet-50, the library's default."""
    if variant in _LAYERS:
        config.backbone_config.depths = list(_LAYERS[variant])
    if variant in ("r18", "r34"):
        config.backbone_config.hidden_sizes = [64, 128, 256, 512]
        config.backbone_config.layer_type = "basic"
        config.encoder_in_channels = [128, 256, 512]
        config.hidden_expansion = 0.5
        config.decoder_layers = 3 if variant == "r18" else 4
    if variant == "r101":
        config.encoder_ffn_dim = 2048
        config.encoder_hidden_dim = 384
        config.decoder_in_channels = [384, 384, 384]


RECIPE = TransformersRecipe(
    "RTDetrV2Config",
    "RTDetrV2ForObjectDetection",
    _REPOSITORIES,
    "Apache-2.0",
    configure,
    ("logits", "pred_boxes"),
    labels=read_labels("coco"),
    strict=True,  # it asks len() of a tensor, which fixes the batch where one run is followed
    attribution="the authors of RT-DETR",
)
FAMILY = Family(
    "RT-DETRv2",
    "detr",
    "detect",
    "transformers",
    tuple(_REPOSITORIES),
    RECIPE.official,
    partial(build, recipe=RECIPE, card={}),
    lambda _: Size(640, 640),
    multiple=32,
    scores="sigmoid",
)
