"""D-FINE, of transformers: a DETR whose boxes are distributions that each layer refines, no NMS (Peng et al., 2024)."""

from __future__ import annotations

from functools import partial
from typing import Any

from vision_infer.core.geometry import Size
from vision_infer.model.export.family import Family
from vision_infer.model.export.transformers_models import TransformersRecipe, build
from vision_infer.model.labels import read_labels

_SIZES = {"n": "nano", "s": "small", "m": "medium", "l": "large", "x": "xlarge"}
_REPOSITORIES = {name: f"ustc-community/dfine-{size}-coco" for name, size in _SIZES.items()}
# HGNetV2: channels of the stem; input, inner and output channels of each stage; blocks; layers per block.
_BACKBONES = {
    "n": ((3, 16, 16), (16, 64, 256, 512), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3),
    "m": ((3, 24, 32), (32, 96, 384, 768), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4),
    "l": ((3, 32, 48), (48, 128, 512, 1024), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6),
    "x": ((3, 32, 64), (64, 128, 512, 1024), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6),
}
_BACKBONES["s"] = _BACKBONES["n"]
_SETTINGS: dict[str, dict[str, Any]] = {
    "n": {
        "num_feature_levels": 2,
        "encode_proj_layers": [1],
        "d_model": 128,
        "encoder_hidden_dim": 128,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "encoder_in_channels": [512, 1024],
        "decoder_in_channels": [128, 128],
        "decoder_n_points": [6, 6],
        "feat_strides": [16, 32],
        "depth_mult": 0.5,
        "hidden_expansion": 0.34,
        "decoder_layers": 3,
    },
    "s": {"encoder_in_channels": [256, 512, 1024], "depth_mult": 0.34, "hidden_expansion": 0.5, "decoder_layers": 3},
    "m": {"encoder_in_channels": [384, 768, 1536], "depth_mult": 0.67, "decoder_layers": 4},
    "l": {"encoder_in_channels": [512, 1024, 2048]},
    "x": {
        "encoder_in_channels": [512, 1024, 2048],
        "encoder_hidden_dim": 384,
        "encoder_ffn_dim": 2048,
        "decoder_in_channels": [384, 384, 384],
    },
}


def configure(config: Any, variant: str) -> None:
    """Set the configuration of a variant as its authors trained it."""
    backbone = config.backbone_config
    stem, into, inside, out, blocks, layers = _BACKBONES[variant]
    backbone.stem_channels, backbone.stage_in_channels, backbone.stage_mid_channels = list(stem), list(into), list(inside)
    backbone.stage_out_channels, backbone.stage_num_blocks = list(out), list(blocks)
    backbone.hidden_sizes = list(out)
    backbone.stage_downsample = [False, True, True, True]
    backbone.stage_light_block = [False, False, True, True]
    backbone.stage_kernel_size = [3, 3, 5, 5]
    backbone.stage_numb_of_layers = [layers] * 4
    backbone.use_learnable_affine_block = variant in "nsm"
    if variant == "n":
        backbone.out_indices = [3, 4]
    usual = {"hidden_expansion": 1.0, "decoder_layers": 6, "decoder_n_points": [3, 6, 3], "encoder_ffn_dim": 1024}
    for name, value in (usual | _SETTINGS[variant]).items():
        setattr(config, name, value)


RECIPE = TransformersRecipe(
    "DFineConfig",
    "DFineForObjectDetection",
    _REPOSITORIES,
    "Apache-2.0",
    configure,
    ("logits", "pred_boxes"),
    labels=read_labels("coco"),
    strict=True,  # it calls len() on a tensor, which fixes the batch in tracing
    attribution="the authors of D-FINE",
)
FAMILY = Family(
    "D-FINE",
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
